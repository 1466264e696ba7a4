"""Write lfdm_reference.npz: what LFDM's public code answers to weights and inputs that follow from their names.

python tests/data/make_lfdm_reference.py DIR, DIR a checkout of github.com/nihaomiao/CVPR23_LFDM.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torchvision
import yaml

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parents[1] / "benchmarks"), str(HERE.parent)]

import public_lfdm  # noqa: E402
from weights import filled, numbers  # noqa: E402

public_lfdm.import_from(sys.argv[1])
from DM.modules.video_flow_diffusion import GaussianDiffusion, Unet3D  # noqa: E402
from LFAE.modules import model  # noqa: E402
from LFAE.modules.bg_motion_predictor import BGMotionPredictor  # noqa: E402
from LFAE.modules.generator import Generator  # noqa: E402
from LFAE.modules.region_predictor import RegionPredictor  # noqa: E402

settings = yaml.safe_load((Path(sys.argv[1]) / "config/mug128.yaml").read_text())
found = {}


def parts(small: bool) -> dict[str, torch.nn.Module]:
    """The autoencoder's networks, as the public configuration has them or narrow."""
    sizes = settings["model_params"]
    if small:
        hourglass = {"block_expansion": 8, "max_features": 32, "num_blocks": 3}
        sizes["bg_predictor_params"] |= hourglass
        sizes["region_predictor_params"] |= hourglass
        sizes["generator_params"] |= {"block_expansion": 8, "max_features": 32, "num_bottleneck_blocks": 2}
        sizes["generator_params"]["pixelwise_flow_predictor_params"] |= hourglass
    shared = {name: sizes[name] for name in ("num_regions", "num_channels")}
    return {
        "generator": Generator(**shared, revert_axis_swap=True, **sizes["generator_params"]),
        "region_predictor": RegionPredictor(**shared, estimate_affine=True, **sizes["region_predictor_params"]),
        "bg_predictor": BGMotionPredictor(num_channels=3, **sizes["bg_predictor_params"]),
    }


def diffusion(small: bool, steps: int) -> GaussianDiffusion:
    width, latent, heard = (16, 32, 24) if small else (64, 256, 768)
    sizes = {"dim": width, "channels": 3 + latent, "cond_dim": heard}
    # as FlowDiffusion makes it, but that the text's embedding comes from outside
    network = Unet3D(out_grid_dim=2, out_conf_dim=1, dim_mults=(1, 2, 4, 8), learn_null_cond=True, **sizes)
    del network.null_cond_emb  # a parameter only for a CPU's sake: the public default is zeros on a GPU
    network.null_cond_emb = torch.zeros(1, sizes["cond_dim"])
    return GaussianDiffusion(
        network, image_size=32, num_frames=6, sampling_timesteps=steps, loss_type="l2", use_dynamic_thres=True,
        null_cond_prob=0.1, ddim_sampling_eta=1.0,
    )  # fmt: skip


def shapes(name: str, state: dict) -> None:
    found[name] = np.array([f"{key} {tuple(value.shape)}" for key, value in state.items()])


def autoencoder() -> None:
    nets = {name: filled(net, name) for name, net in parts(small=True).items()}
    for name, net in nets.items():
        shapes(f"small_{name}", net.state_dict())
    source, driving = numbers("source", 2, 3, 128, 128).sigmoid(), numbers("driving", 2, 3, 128, 128).sigmoid()
    # the bend is drawn in the constructor, the losses' VGG-19 is torchvision's
    torch.normal = lambda mean, std: std * numbers("bend", *std.shape)
    features = filled(torchvision.models.vgg19().features, "vgg")
    model.models.vgg19 = lambda pretrained: SimpleNamespace(features=features)
    whole = model.ReconstructionModel(
        nets["region_predictor"], nets["bg_predictor"], nets["generator"], settings["train_params"]
    )
    losses, made = whole({"source": source, "driving": driving})
    for name, value in losses.items():
        found[f"loss_{name}"] = value.detach().numpy()
    found["picture"] = made["prediction"][..., ::4, ::4].detach().numpy()
    found["flow"] = made["optical_flow"].detach().numpy()
    found["occlusion"] = made["occlusion_map"].detach().numpy()
    found["z"] = made["bottle_neck_feat"][..., ::4, ::4].detach().numpy()


@torch.no_grad()
def unet() -> None:
    whole = filled(diffusion(True, 5), "diffusion")
    shapes("small_diffusion", whole.state_dict())
    x, z, heard = numbers("x", 2, 3, 6, 16, 16), numbers("z", 2, 32, 16, 16), numbers("heard", 2, 24)
    both = torch.cat([x, z[:, :, None].expand(-1, -1, 6, -1, -1)], 1)
    found["answer"] = whole.denoise_fn(both, torch.tensor([3, 700]), cond=heard).numpy()
    draws = iter(numbers("noises", 5, 2, 3, 6, 16, 16))
    randn, torch.randn, torch.randn_like = torch.randn, lambda *_, **__: next(draws), lambda _: next(draws)
    found["sampled"] = whole.ddim_sample(z, (2, 3, 6, 16, 16), heard, cond_scale=1.5).numpy()
    torch.randn = randn


for label, net in parts(small=False).items():
    shapes(f"paper_{label}", net.state_dict())
shapes("paper_diffusion", diffusion(False, 100).state_dict())
unet()
autoencoder()
np.savez_compressed(HERE / "lfdm_reference.npz", **found)
