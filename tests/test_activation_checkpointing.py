"""Activation checkpointing changes memory alone: loss, gradients, random numbers and buffers are those without it."""

import copy
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from torch import nn

from zoo.data.base import WindowSpec
from zoo.run.build import build_encoder, build_family, build_stage
from zoo.run.train.stage_training import stage_training

CONF = Path(__file__).parents[1] / "conf"
STAGES = {
    "musedance": (["appearance", "dynamics"], ["model.family.unet.dropout=0.1"]),
    "dabfusion": (["flow", "diffusion"], []),
    "magicdance": (
        ["motion", "video"],
        ["renderer=diffusion", "model.animators.diffusion.unet.dropout=0.1", "model.family.dance_decoder.dropout=0.1"],
    ),
    "m2penc": (["pose_image", "encoder", "video"], ["model.family.unet.dropout=0.1"]),
}
PRECISIONS = ("32-true", "bf16-mixed")
CASES = [(model, name, precision) for model, (names, _) in STAGES.items() for name in names for precision in PRECISIONS]


def random_batch(window: WindowSpec, encoder, count: int = 1) -> dict:
    """Every key that the stages read."""
    frames, size = window.num_sampled_frames or window.num_frames, (window.height, window.width)
    tokens, motion_frames = window.num_tokens(encoder.rate), window.num_tokens(30)
    angle = torch.rand(count, frames) * 6.28
    return {
        "key": ["a"], "caption": ["turn left"], "style": ["house"], "fps": float(window.rate),
        "frames": torch.rand(count, frames, 3, *size) * 2 - 1, "reference": torch.rand(count, 3, *size) * 2 - 1,
        "frame_indices": torch.arange(frames).repeat(count, 1),
        "parts": torch.randint(25, (count, frames, *size)).byte(),
        "music": torch.randn(count, tokens, encoder.dim), "music_rate": encoder.rate,
        "beats": torch.randint(2, (count, frames)), "beat_phase": torch.stack([angle.cos(), angle.sin()], -1),
        "motion": torch.randn(count, motion_frames, 151), "joints2d": torch.rand(count, frames, 24, 2) * size[0],
        "depth": torch.rand(count, frames, *size), "normal": torch.rand(count, frames, 3, *size) * 2 - 1,
        "skeleton": torch.rand(count, frames, 3, *size) * 2 - 1,
    }  # fmt: skip


def step(stage, batch: dict, precision: str):
    """Losses, gradients, buffers and random state of a training step."""
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        losses = stage.loss(batch)
    torch.stack([loss.float() for loss in losses.values()]).sum().backward()
    gradients = {name: p.grad for name, p in stage.family.named_parameters() if p.grad is not None}
    return losses, gradients, dict(stage.family.named_buffers()), {"state": torch.get_rng_state()}


@pytest.mark.parametrize("model, name, precision", CASES)
def test_a_step_with_checkpointed_activations_is_the_step_without(model, name, precision):
    """Bit by bit, with dropout; and activations are computed again."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train", [f"model={model}", "size=debug", *STAGES[model][1]])
    torch.manual_seed(0)
    family, encoder = build_family(config), build_encoder(config)
    for parameter in family.parameters():  # output layers begin at 0, which would hide the layers before them
        if parameter.ndim > 1 and not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    batch = random_batch(WindowSpec(**stage_training(config, name).clip), encoder)
    plain = build_stage(config, name, family)
    checkpointed = build_stage(config, name, copy.deepcopy(family))
    checkpointed.checkpoint_activations()
    calls = {}
    for path, module in checkpointed.family.named_modules():
        if isinstance(module, checkpointed.family.activation_units):
            leaf = next(child for child in module.modules() if isinstance(child, nn.Conv2d | nn.Linear))
            leaf.register_forward_hook(lambda *_, path=path: calls.update({path: calls.get(path, 0) + 1}))
    for expected, actual in zip(step(plain, batch, precision), step(checkpointed, batch, precision), strict=True):
        assert expected.keys() == actual.keys()
        assert all(torch.equal(actual[key], expected[key]) for key in expected)
    assert max(calls.values()) >= 2
