"""Weights that need not be stored: every value follows from the name of its parameter."""

from collections.abc import Callable
from types import SimpleNamespace
from zlib import crc32

import torch
from torch import nn


@torch.no_grad()
def fill_by_name(module: nn.Module) -> nn.Module:
    """Set each parameter to random values of a sensible size, seeded by its name, in evaluation mode. Buffers stay."""
    for name, parameter in module.named_parameters():
        values = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(crc32(name.encode())))
        if parameter.ndim > 1:
            # a last layer answers in about [-1, 1], as trained ones do
            size = 0.2 if name.startswith("final") else 1.0
            parameter.copy_(values * size / parameter.shape[-1] ** 0.5)
        else:
            parameter.copy_(0.1 * values + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module.eval()


def numbers(name: str, *shape: int) -> torch.Tensor:
    """Standard normal numbers seeded by a name."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(crc32(name.encode())))


def state_by_name(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """A convolutional network's state dict by the names and shapes of its tensors, seeded by the names.

    Sizes are such that values neither vanish nor explode on the way through many layers.
    """
    state = {}
    for name, shape in shapes.items():
        values = numbers(name, *shape)
        if len(shape) > 1:
            state[name] = values * (2 / values[0].numel()) ** 0.5
        else:
            base = 1.0 if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1) else 0.0
            state[name] = (base + 0.1 * values).clamp(min=-0.9 if base == 0 else 0.5)
    return state


def clap_audio(create_htsat: Callable[[SimpleNamespace], nn.Module], size: str) -> nn.ModuleDict:
    """The audio half of LAION's CLAP, around laion-clap's HTSAT; what makes the spectrogram is left as it is."""
    mels = {"sample_rate": 48000, "window_size": 1024, "hop_size": 480, "fmin": 50, "fmax": 14000, "mel_bins": 64}
    branch = create_htsat(SimpleNamespace(model_name=size, class_num=527, **mels))
    project = nn.Sequential(nn.Linear(branch.num_features, 512), nn.ReLU(), nn.Linear(512, 512))
    audio = nn.ModuleDict({"audio_branch": branch, "audio_projection": project})
    kept = {name: value.clone() for name, value in audio.state_dict().items() if "extractor" in name}
    fill_by_name(audio).load_state_dict(kept, strict=False)
    return audio


def jukebox_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """`state_by_name` for Jukebox's files: matrices as half numbers, and codes that a sound makes use of."""
    state = state_by_name(shapes)
    for name, value in state.items():
        if name.endswith(".w"):
            state[name] = value.half()
        elif name.startswith("encoders") and name.endswith("bias"):
            state[name] = torch.zeros(value.shape)
        elif name.startswith("encoders") and name.endswith("model.3.weight"):
            state[name] = 0.1 * value  # nearly linear: else all sounds are alike
        elif name.startswith("bottleneck"):
            state[name] = 0.1 * value
    return state


def scale_of_tones(seconds: int, sample_rate: int) -> torch.Tensor:
    """(S,) a sound whose pitch changes every second, over some noise."""
    at = torch.arange(seconds * sample_rate, dtype=torch.float64) / sample_rate
    pitch = 110 * 2 ** (at.floor() * 5 % 13 / 3)
    return (0.4 * torch.sin(2 * torch.pi * pitch * at) + 0.05 * numbers("hiss", len(at))).float()


def filled(module: nn.Module, label: str) -> nn.Module:
    """A module with its `state_by_name`, in evaluation mode; what no training changes stays."""
    fixed = [name for name, _ in module.named_buffers(remove_duplicate=False) if "running" not in name]
    shapes = {f"{label}.{name}": value.shape for name, value in module.state_dict().items() if name not in fixed}
    state = {name.removeprefix(f"{label}."): value for name, value in state_by_name(shapes).items()}
    module.load_state_dict(module.state_dict() | state)
    return module.eval()


def beat_this_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    """`state_by_name` for Beat This!, with its rotary frequencies and logits of both signs."""
    state = state_by_name(shapes)
    for name, value in state.items():
        if name.endswith("freqs"):
            state[name] = 10_000.0 ** (-torch.arange(len(value)) / len(value))
        elif name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(7)
        elif name.endswith("gamma"):
            state[name] = 1 + value
        elif name == "task_heads.beat_downbeat_lin.bias":
            state[name] = torch.tensor([-1.55, -1.75])
    return state
