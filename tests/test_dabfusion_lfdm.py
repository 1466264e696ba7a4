"""DabFusion against numbers of the public LFDM code (tests/data/make_lfdm_reference.py), and its checkpoint files."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from dabfusion_families import dabfusion
from weights import numbers, state_by_name

from zoo.diffusion.denoiser import Denoiser
from zoo.diffusion.guidance import ClassifierFreeGuidance
from zoo.diffusion.samplers import make_sampler, sample
from zoo.diffusion.schedules import cosine_schedule
from zoo.families.dabfusion.equivariance import RandomTPS, equivariance_losses
from zoo.families.dabfusion.family import DabFusion
from zoo.nn.perceptual_loss import PerceptualLoss

pytestmark = pytest.mark.filterwarnings("ignore:.*which is a no-op:UserWarning")  # meta weights
REFERENCE = np.load(Path(__file__).parent / "data" / "lfdm_reference.npz")
PARTS = ("generator", "region_predictor", "bg_predictor")
SMALL = {
    "autoencoder": {
        "base_channels": 8, "max_channels": 32, "num_bottleneck_blocks": 2, "region_base_channels": 8,
        "flow_base_channels": 8, "hourglass_max_channels": 32, "num_hourglass_blocks": 3, "background_base_channels": 8,
    },
    "unet": {"music_dim": 24, "base_channels": 16},
}  # fmt: skip
# not weights: the blur before the quarter size, and the rotary frequencies
FIXED = re.compile(r"down\.weight|\.freqs$|num_batches_tracked$")


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    entries = (line.split(" ", 1) for line in REFERENCE[name])
    return {key: tuple(int(size) for size in re.findall(r"\d+", shape)) for key, shape in entries}


def betas(max_beta: float = 0.9999) -> torch.Tensor:
    """LFDM's schedule by its formula."""
    alpha_bar = torch.cos((torch.linspace(0, 1, 1001, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(0, max_beta).float()


def lfdm_state(part: str, network_state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A public state dict with weights by name; what is no weight, from our own network."""
    layout = shapes(part)
    label = part.split("_", 1)[1]
    state = state_by_name({f"{label}.{key}": shape for key, shape in layout.items() if not FIXED.search(key)})
    state = {key.removeprefix(f"{label}."): value for key, value in state.items()}
    for key in layout.keys() - state.keys():
        state[key] = network_state["freqs" if key.endswith("freqs") else key]
    return state | ({"betas": betas()} if label == "diffusion" else {})


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> DabFusion:
    """The family with both public files loaded, one behind the other."""
    family = dabfusion(**SMALL).eval()
    folder = tmp_path_factory.mktemp("lfdm")
    parts = {part: lfdm_state(f"small_{part}", getattr(family.autoencoder, part).state_dict()) for part in PARTS}
    torch.save({"example": 100, "epoch": 1, **parts, "optimizer": {"state": {}}}, folder / "RegionMM.pth")
    frequencies = family.unet.init_temporal_attn.rotary_emb.state_dict()
    diffusion = {"example": 20, "diffusion": lfdm_state("small_diffusion", frequencies), "optimizer_diff": {}}
    torch.save(diffusion, folder / "flowdiff.pth")
    for name, rest in (("RegionMM", "unet"), ("flowdiff", "autoencoder")):
        missing = family.load_pretrained(folder / f"{name}.pth").missing
        assert {key.split(".")[0] for key in missing} == {rest, "music_scale", "music_embedding"}
    return family


def error(answer: torch.Tensor, name: str) -> float:
    return float((answer - torch.from_numpy(REFERENCE[name])).abs().max())


def pictures() -> tuple[torch.Tensor, torch.Tensor]:
    return numbers("source", 2, 3, 128, 128).sigmoid(), numbers("driving", 2, 3, 128, 128).sigmoid()


def lfdm_transform() -> RandomTPS:
    transform = RandomTPS(2, torch.device("cpu"))
    transform.theta = torch.eye(2, 3) + 0.05 * numbers("bend", 2, 2, 3)
    transform.control_params = 0.005 * numbers("bend", 2, 1, 25)
    return transform


@torch.no_grad()
def test_autoencoder_equals_public_code(small):
    source, driving = pictures()
    output = small.autoencoder(source, driving)
    assert error(output.image[..., ::4, ::4], "picture") < 1e-4
    assert error(output.flow, "flow") < 1e-4
    assert error(output.occlusion, "occlusion") < 1e-4
    assert error(small.autoencoder.encode(source)[-1][..., ::4, ::4], "z") < 1e-4


@torch.no_grad()
def test_losses_equal_public_code(small, tmp_path):
    source, driving = pictures()
    transform = lfdm_transform()
    regions = small.autoencoder.region_predictor(torch.cat([source, driving, transform.transform_images(driving)]))
    output = small.autoencoder(source, driving, regions)
    transformed = regions.select(slice(-len(driving), None))
    shift, axes = equivariance_losses(output.driving_regions, transformed, transform)
    assert error(10 * shift, "loss_equivariance_shift") < 1e-4
    assert error(10 * axes, "loss_equivariance_affine") < 1e-4
    likeness = PerceptualLoss(vgg19_file(tmp_path / "vgg19.pth"))
    assert error(likeness(output.image, driving), "loss_perceptual") < 1e-3  # of 61.6


def vgg19_file(path: Path) -> str:
    """Torchvision's VGG-19 with the features by name; its classifier, which nothing uses, takes no room."""
    channels_of = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, 16: 256, 19: 512}
    channels_of |= {layer: 512 for layer in (21, 23, 25, 28, 30, 32, 34)}
    layout, in_channels = {}, 3
    for layer, channels in channels_of.items():
        layout |= {f"vgg.{layer}.weight": (channels, in_channels, 3, 3), f"vgg.{layer}.bias": (channels,)}
        in_channels = channels
    state = {key.replace("vgg", "features"): value for key, value in state_by_name(layout).items()}
    for layer, into, out in ((0, 25088, 4096), (3, 4096, 4096), (6, 4096, 1000)):
        state |= {f"classifier.{layer}.weight": torch.zeros(()).expand(out, into)}
        state |= {f"classifier.{layer}.bias": torch.zeros(out)}
    torch.save(state, path)
    return str(path)


@torch.no_grad()
def test_unet_equals_public_code(small):
    x, z, music = numbers("x", 2, 3, 6, 16, 16), numbers("z", 2, 32, 16, 16), numbers("heard", 2, 24)
    t = torch.tensor([3, 700])
    for request in ((z, music[:, None]), small.unet.precompute_conditioning(z, music[:, None])):
        answer = small.unet(x, t, request)
        assert error(answer, "answer") < 1e-4  # of values up to 36


@torch.no_grad()
def test_sampling_equals_public_code(small):
    """LFDM's DDIM in 5 steps with guidance 1.5, noise by noise."""
    z, music = numbers("z", 2, 32, 16, 16), numbers("heard", 2, 24)[:, None]
    conditioning = small.unet.precompute_conditioning(z.repeat(2, 1, 1, 1), torch.cat([music, torch.zeros_like(music)]))
    schedule = cosine_schedule("epsilon")
    denoiser = ClassifierFreeGuidance(Denoiser(lambda x, t: small.unet(x, t, conditioning), schedule), 1.5)
    noises = iter(numbers("noises", 5, 2, 3, 6, 16, 16))
    rule = make_sampler(schedule, 5, "lfdm", dynamic_threshold=0.9)
    assert rule.timesteps.tolist() == [833, 666, 500, 333, 166]
    volume = sample(denoiser, next(noises), rule, lambda: next(noises), eta=1.0, clamp=None)
    assert error(volume, "sampled") < 1e-4


def test_lfdm_steps():
    schedule = cosine_schedule("epsilon")
    assert make_sampler(schedule, 100, "lfdm").timesteps.tolist()[::33] == [990, 663, 336, 9]
    for steps in (0, 1000):
        with pytest.raises(ValueError, match="1 to 999"):
            make_sampler(schedule, steps, "lfdm")
    # without noise of its own: a perfect denoiser's answer is kept through any number of steps
    x0 = numbers("x0", 1, 3, 2, 4, 4)
    assert torch.equal(
        sample(lambda x, t: x0, torch.randn_like(x0), make_sampler(schedule, 999, "lfdm"), clamp=None), x0
    )


@pytest.fixture(scope="module")
def paper() -> DabFusion:
    with torch.device("meta"):
        return dabfusion(35)


def paper_file(path: Path, change: dict | None = None, without: str = "", schedule: torch.Tensor | None = None) -> Path:
    """The paper's sizes, a byte or so a tensor: every value is the same number."""
    state = {key: torch.zeros(()).expand(shape) for key, shape in shapes("paper_diffusion").items() if key != without}
    state |= {"betas": betas() if schedule is None else schedule} | (change or {})
    torch.save({"diffusion": state, "optimizer_diff": {"param_groups": []}, "example": 1}, path)
    return path


def test_paper_files_fit(paper, tmp_path):
    """Every name and shape of the published files, at the paper's size; nothing is allocated."""
    report = paper.load_pretrained(paper_file(tmp_path / "flowdiff.pth"))
    unet_names = {key for key in paper.state_dict() if key.startswith("unet.")}
    assert set(report.loaded) == unet_names and not report.unexpected
    parts = {part: {k: torch.zeros(()).expand(s) for k, s in shapes(f"paper_{part}").items()} for part in PARTS}
    torch.save({"epoch": 1, **parts}, tmp_path / "RegionMM.pth")
    report = paper.load_pretrained(tmp_path / "RegionMM.pth")
    assert set(report.loaded) == {key for key in paper.state_dict() if key.startswith("autoencoder.")}
    del parts["bg_predictor"]
    torch.save(parts, tmp_path / "RegionMM.pth")
    with pytest.raises(ValueError, match="RegionMM.pth: it holds no 'bg_predictor'"):
        paper.load_pretrained(tmp_path / "RegionMM.pth")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"without": "denoise_fn.mid_block1.block1.proj.weight"}, "1 missing \\(unet.mid_block1.block1.proj.weight"),
        ({"change": {"denoise_fn.more.weight": torch.zeros(1)}}, "1 unexpected \\(unet.more.weight"),
        ({"change": {"more": torch.zeros(1)}}, "1 unexpected \\(more"),
        ({"change": {"denoise_fn.null_cond_emb": torch.zeros(1, 768)}}, "1 unexpected \\(unet.null_cond_emb"),
        ({"change": {"denoise_fn.init_conv.weight": torch.zeros(64, 131, 1, 7, 7)}}, "init_conv.weight is \\(64, 131"),
        ({"schedule": torch.linspace(1e-4, 0.02, 1000)}, "its beta differs at 1000 steps"),
        ({"schedule": betas()[:500]}, "has 500 steps, not 1000"),
        ({"schedule": betas(0.5)}, "its beta differs at 3 steps"),
    ],
)
def test_files_that_do_not_fit_are_refused(paper, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        paper.load_pretrained(paper_file(tmp_path / "flowdiff.pth", **change))


def test_another_prediction_type_is_refused(tmp_path):
    with torch.device("meta"):
        family = dabfusion(35, noise_schedule={"prediction_type": "v_prediction"})
    with pytest.raises(
        ValueError,
        match="this model predicts v_prediction: set noise_schedule.prediction_type=epsilon",
    ):
        family.load_pretrained(paper_file(tmp_path / "flowdiff.pth"))
