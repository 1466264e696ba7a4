"""MagicDance's renderer beside MagicAnimate's public pipeline: its files, its picture and poses, its latents."""

from pathlib import Path
from zlib import crc32

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file
from weights import numbers, state_by_name

from zoo.families.latent.background import ReferenceContext
from zoo.families.magicdance.family import MagicDance
from zoo.families.magicdance.renderers.animator import Animator, densepose_to_rgb
from zoo.nn.cpu_inference import fast_inference
from zoo.nn.temporal import sinusoidal_positions
from zoo.nn.text import HashedTokenEncoder

REFERENCE = np.load(Path(__file__).parent / "data" / "video_unet_reference.npz")
CONF = Path(__file__).parents[1] / "conf"
VAE = {"block_out_channels": [8, 8, 8, 8], "latent_channels": 4, "norm_num_groups": 4, "layers_per_block": 1}
NOISE = "noise", 1, 4, 3, 12, 8
PARTS = (numbers("parts", 3, 96, 64).abs() * 9).long() % 25  # DensePose's


def published(folder: Path) -> list[Path]:
    """The files that MagicAnimate is run from, in the order to load them in; weights as of the reference."""
    rows = [line.split() for line in str(REFERENCE["magic_layout"]).splitlines()]
    shapes = {f"magic {name}": tuple(map(int, shape)) for name, *shape in rows}
    tables = {name: shape for name, shape in shapes.items() if name.endswith("pos_encoder.pe")}
    state = state_by_name({name: shape for name, shape in shapes.items() if name not in tables})
    state |= {name: sinusoidal_positions(torch.arange(length), dim)[None] for name, (_, length, dim) in tables.items()}

    def part(name: str, moves: bool = False) -> dict[str, torch.Tensor]:
        start = f"magic {name}."
        held = {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
        return {key: value for key, value in held.items() if (".motion_modules." in key) == moves}

    files = [folder / f"{name}.safetensors" for name in ("vae", "unet", "appearance", "controlnet")]
    for file in files:
        save_file(part(file.stem), file)
    moving = {f"module.unet.{name}": value for name, value in part("unet", moves=True).items()}
    torch.save({"state_dict": moving}, folder / "temporal_attention.ckpt")
    return [*files, folder / "temporal_attention.ckpt"]


@pytest.fixture(scope="module")
def animator(tmp_path_factory) -> Animator:
    """Small networks of the paper's layout and settings, with every weight from a file but the empty prompt's."""
    paper = OmegaConf.to_container(OmegaConf.load(CONF / "model" / "magicdance" / "paper.yaml").animators.diffusion)
    options = paper | {"vae": VAE, "unet": {"channels": [32, 64, 64, 64]}, "pose_encoder_channels": (4, 8, 8, 8)}
    options |= {"text_encoder": HashedTokenEncoder(24, max_tokens=5), "face": None}
    options["sampler"] = paper["sampler"] | {"num_inference_steps": 2}
    animator = Animator(**options, num_frames=16, num_context_frames=4)
    decoder = {"dim": 16, "ff_dim": 16, "layers": 1, "heads": 2}
    sampler = {"num_inference_steps": 50, "guidance_scale": 2.0, "eta": 1.0}
    sizes = {"dance_decoder": decoder, "beat_phase": False, "mesh_resolution": 128, "sampler": sampler}
    family = MagicDance(music_dim=5, **sizes, animator=animator)
    loaded = {
        name for file in published(tmp_path_factory.mktemp("magic")) for name in family.load_pretrained(file).loaded
    }
    parts = tuple(f"animator.{name}." for name in ("codec.vae", "unet", "appearance_encoder", "controlnet"))
    assert {name for name in family.state_dict() if name.startswith(parts)} == loaded
    with torch.no_grad():
        animator.text_encoder.table.weight.zero_()
        animator.text_encoder.place.copy_(numbers("empty prompt", 1, 5, 24)[0])
    return animator.eval()


@pytest.fixture(scope="module")
def reference(animator) -> ReferenceContext:
    """The picture."""
    pixels = (numbers("source", 96, 64, 3) * 60 + 128).clamp(0, 255).byte()
    with torch.no_grad():
        return animator.background.encode_reference(animator.codec.encode(pixels.movedim(2, 0)[None] / 127.5 - 1))


@torch.no_grad()
def test_both_answers_of_a_step_are_magic_animates(animator, reference):
    """The middle and the way up see the picture at the video's own step, in one of them; both are shown the poses."""
    noise, t = numbers(*NOISE).expand(2, -1, -1, -1, -1), torch.tensor([999, 999])

    def answer(poses: torch.Tensor) -> torch.Tensor:
        return animator.predict(noise, t, reference, poses, None, text)

    seen, text = animator.controlnet.encode_condition(densepose_to_rgb(PARTS)[None]), animator.text_encoder(["", ""])
    answers = torch.from_numpy(REFERENCE["magic_answers"]).flip(0)  # ours come with the picture first
    assert answers.diff(dim=0).std() > 0.05
    for poses in (seen, seen.expand(2, -1, -1, -1, -1)):  # asked for once, or by each
        torch.testing.assert_close(answer(poses), answers, atol=1e-4, rtol=0)
    with fast_inference(animator, "fp32"):
        torch.testing.assert_close(answer(seen), answers, atol=5e-4, rtol=0)
    # the rounding error depends on the CPU's bf16 kernels: autocast on the same CPU sets the bound
    with torch.autocast("cpu", torch.bfloat16):
        autocast_error = (answer(seen).float() - answers).square().mean().sqrt()
    assert autocast_error < 0.1 * answers.std()
    with fast_inference(animator, "bf16"):
        for output, expected in zip(answer(seen).float(), answers, strict=True):  # with the picture, and without
            assert (output - expected).square().mean().sqrt() < 1.5 * autocast_error


@torch.no_grad()
def test_a_guided_window_is_magic_animates(animator, reference):
    """Its picture, poses and noise become its latents by two guided steps, at its noise schedule."""
    draw = torch.Generator().manual_seed(crc32(NOISE[0].encode()))  # gives the window NOISE
    made = animator.sample_window(reference, None, PARTS, None, draw)
    wanted = torch.from_numpy(REFERENCE["magic_made"])[0].movedim(1, 0)
    torch.testing.assert_close(made / wanted.std(), wanted / wanted.std(), atol=1e-4, rtol=0)
