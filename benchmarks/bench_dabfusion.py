"""How fast a video is sampled at the paper's size, beside LFDM's public code, in one process.

python benchmarks/bench_dabfusion.py LFDM_DIR [steps] [rounds]

LFDM_DIR is a checkout of github.com/nihaomiao/CVPR23_LFDM. Same
weights, reference picture, condition and noises; 40 frames of 32x32, decoded to 128x128. LFDM runs as it is published:
fp32, frame by frame in decoding. Both take turns; a step costs the same whatever their number, so few will do.
"""

import sys
import time
from pathlib import Path
from statistics import median_low

import torch
import yaml
from hydra import compose, initialize_config_dir
from torch import Tensor

sys.path[:0] = [str(Path(__file__).parents[1])]

import public_lfdm  # noqa: E402

from zoo.diffusion.denoiser import Denoiser  # noqa: E402
from zoo.diffusion.samplers import make_sampler, sample  # noqa: E402
from zoo.families.dabfusion.family import DECODE_BATCH  # noqa: E402
from zoo.families.dabfusion.flow_unet import from_lfdm  # noqa: E402
from zoo.files import conf_folder  # noqa: E402
from zoo.run.build import build_family  # noqa: E402

public_lfdm.import_from(sys.argv[1])
from DM.modules.video_flow_diffusion import GaussianDiffusion, Unet3D  # noqa: E402
from LFAE.modules.generator import Generator  # noqa: E402

STEPS = int(sys.argv[2]) if len(sys.argv) > 2 else 2
ROUNDS = int(sys.argv[3]) if len(sys.argv) > 3 else 3
FRAMES, SIZE, HEARD = 40, 32, 768
PAPER_STEPS = 100
settings = yaml.safe_load((Path(sys.argv[1]) / "config/mug128.yaml").read_text())["model_params"]


def public() -> tuple[GaussianDiffusion, Generator]:
    """The diffusion and the generator, as the public code makes them (its text embedding comes from outside)."""
    network = Unet3D(dim=64, channels=3 + 256, cond_dim=HEARD, out_grid_dim=2, out_conf_dim=1, learn_null_cond=True)
    del network.null_cond_emb
    network.null_cond_emb = torch.zeros(1, HEARD)
    diffusion = GaussianDiffusion(
        network, image_size=SIZE, num_frames=FRAMES, sampling_timesteps=STEPS, loss_type="l2", use_dynamic_thres=True
    )
    generator = Generator(
        num_regions=settings["num_regions"], num_channels=3, revert_axis_swap=True, **settings["generator_params"]
    )
    return diffusion.eval(), generator.eval()


class Noises:
    """The same noises for everybody, in the order they are asked for."""

    def __init__(self):
        self.draw = torch.Generator().manual_seed(1)

    def __call__(self, *_, **__) -> Tensor:
        return randn(1, 3, FRAMES, SIZE, SIZE, generator=self.draw)


@torch.inference_mode()
def theirs() -> tuple[Tensor, float, float]:
    """As `FlowDiffusion.sample_one_video`: pictures (40, 3, 128, 128) in [0, 1], seconds to sample and to decode."""
    start = time.perf_counter()
    torch.randn = torch.randn_like = Noises()
    volume = diffusion.ddim_sample(generator.compute_fea(picture), (1, 3, FRAMES, SIZE, SIZE), heard, cond_scale=1.0)
    torch.randn, torch.randn_like = randn, randn_like
    sampled = time.perf_counter()
    frames = []
    for index in range(FRAMES):
        flow, occlusion = volume[:, :2, index].permute(0, 2, 3, 1), (volume[:, 2:, index] + 1) * 0.5
        made = generator.forward_with_flow(source_image=picture, optical_flow=flow, occlusion_map=occlusion)
        frames.append(made["prediction"])
    return torch.cat(frames), sampled - start, time.perf_counter() - sampled


@torch.inference_mode()
def ours(half: bool = False) -> tuple[Tensor, float, float]:
    """As `DabFusion.generate`, with the condition given; half: in bfloat16 where autocast holds it to be safe."""
    start = time.perf_counter()
    noise = Noises()
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        levels = family.autoencoder.encode(picture)
        conditioning = family.unet.precompute_conditioning(levels[-1], heard[:, None])
        denoiser = Denoiser(lambda x, t: family.unet(x, t, conditioning).float(), family.noise_schedule)
        sampler = make_sampler(family.noise_schedule, STEPS, "lfdm", family.dynamic_threshold)
        volume = sample(denoiser, noise(), sampler, noise, eta=1.0, clamp=None)[0].movedim(1, 0)
        sampled = time.perf_counter()
        flow, occlusion = family.codec.unpack_flow(volume)
        parts = zip(flow.split(DECODE_BATCH), occlusion.split(DECODE_BATCH), strict=True)
        pictures = torch.cat([family.autoencoder.decode(levels, *part).float() for part in parts])
    return pictures, sampled - start, time.perf_counter() - sampled


randn, randn_like = torch.randn, torch.randn_like
torch.manual_seed(0)
diffusion, generator = public()
with initialize_config_dir(str(conf_folder()), version_base=None):
    family = build_family(compose("train", overrides=["model=dabfusion", "size=paper"])).eval()
family.autoencoder.generator.load_state_dict(generator.state_dict())
family.unet.load_state_dict(from_lfdm(diffusion.state_dict()))
picture, heard = torch.rand(1, 3, 128, 128), torch.randn(1, HEARD)
ways = {"LFDM, fp32": (theirs,), "ours, fp32": (ours,), "ours, bf16": (ours, True)}
seconds, videos = {way: [] for way in ways}, {}
for turn in range(ROUNDS + 1):
    for way, (what, *options) in ways.items():
        videos[way], *took = what(*options)
        if turn:  # the first warms up
            seconds[way].append(took)
print(f"{STEPS} steps, {FRAMES} frames, {torch.get_num_threads()} threads, {ROUNDS} rounds, their middle one:")
first = next(iter(ways))
base = median_low([a / STEPS * PAPER_STEPS + b for a, b in seconds[first]])
for way, values in seconds.items():
    step, decoding = median_low([a / STEPS for a, _ in values]), median_low([b for _, b in values])
    video = median_low([a / STEPS * PAPER_STEPS + b for a, b in values])
    apart = (videos[way] - videos[first]).abs()
    print(
        f"{way}: {step:.2f} s a step, {decoding:.1f} s to decode, so {video:.0f} s a video of {PAPER_STEPS} steps, "
        f"{base / video:.2f} times as fast; pictures apart by {apart.max():.1e} at most, {apart.mean():.1e} in the mean"
    )
