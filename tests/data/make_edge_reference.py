"""Write edge_reference.npz: what the public EDGE code answers to weights and inputs that follow from their names.

python tests/data/make_edge_reference.py DIR, DIR a checkout of github.com/Stanford-TML/EDGE. Every tenth frame is kept.
"""

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

HERE = Path(__file__).parent
sys.path[:0] = [sys.argv[1], str(HERE.parents[1]), str(HERE.parent)]
# what the public diffusion module imports for drawing and for its training loss is not needed here
for name, names in {
    "p_tqdm": ["p_map"],
    "pytorch3d": [],
    "pytorch3d.transforms": ["axis_angle_to_quaternion", "quaternion_to_axis_angle"],
    "dataset.quaternion": ["ax_from_6v", "quat_slerp"],
    "vis": ["skeleton_render"],
}.items():
    stub = ModuleType(name)
    for each in names:
        setattr(stub, each, None)
    sys.modules[name] = stub

import model.diffusion  # noqa: E402
import model.model as public  # noqa: E402
from weights import fill_by_name, numbers  # noqa: E402

SMALL = {"latent_dim": 64, "ff_size": 96, "num_layers": 2, "num_heads": 2}
PAPER = {"latent_dim": 512, "ff_size": 1024, "num_layers": 8, "num_heads": 8}
found = {}


def decoder(sizes: dict, music_dim: int):
    network = public.DanceDecoder(
        nfeats=151, seq_len=150, cond_feature_dim=music_dim, activation=torch.nn.functional.gelu, **sizes
    )
    return fill_by_name(network)


def keep(name: str, value: torch.Tensor) -> None:
    found[name] = value[:, ::10].numpy()


@torch.no_grad()
def networks() -> None:
    for label, sizes, music_dim in (("small", SMALL, 35), ("paper35", PAPER, 35), ("paper4800", PAPER, 4800)):
        network = decoder(sizes, music_dim)
        x, music, t = numbers("x", 2, 150, 151), numbers("music", 2, 150, music_dim), torch.tensor([3, 700])
        found[f"keys_{label}"] = np.array([f"{k} {tuple(v.shape)}" for k, v in network.state_dict().items()])
        keep(f"guided_{label}", network.guided_forward(x, music, t, 2.0))
        if label != "paper4800":
            keep(f"heard_{label}", network(x, music, t, cond_drop_prob=0.0))
            keep(f"null_{label}", network(x, music, t, cond_drop_prob=1.0))
            # one row hears, the other does not
            masked, public.prob_mask_like = public.prob_mask_like, lambda *_, **__: torch.tensor([True, False])
            keep(f"mixed_{label}", network(x, music, t, cond_drop_prob=0.25))
            public.prob_mask_like = masked
    short = decoder(SMALL, 35)
    found["betas"] = diffusion(short).betas.numpy()
    found["alphas_cumprod"] = diffusion(short).alphas_cumprod.numpy()


def diffusion(network):
    return model.diffusion.GaussianDiffusion(
        network, 150, 151, None, schedule="cosine", n_timestep=1000, predict_epsilon=False, loss_type="l2",
        cond_drop_prob=0.25, guidance_weight=2,
    )  # fmt: skip


def samplers() -> None:
    """With noise window by window from zoo.families.magicdance.long_form.WindowNoise(seed=7)."""
    from zoo.families.magicdance.long_form import WindowNoise

    for label, windows in (("ddim_sample", 2), ("long_ddim_sample", 5)):
        keep(label, with_noise(label, windows, WindowNoise(7, range(windows), torch.device("cpu"))))


def with_noise(label: str, windows: int, noise) -> torch.Tensor:
    """The public sampler with its two ways of drawing noise replaced."""
    randn, randn_like = torch.randn, torch.randn_like
    shape = (windows, 150, 151)
    torch.randn = lambda *size, **options: noise() if size == (shape,) else randn(*size, **options)
    torch.randn_like = lambda _: noise()
    made = getattr(public_sampler, label)(shape, numbers("songs", windows, 150, 35))
    torch.randn, torch.randn_like = randn, randn_like
    return made


networks()
public_sampler = diffusion(decoder(SMALL, 35))
samplers()
np.savez_compressed(HERE / "edge_reference.npz", **found)
