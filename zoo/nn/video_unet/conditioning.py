"""The conditions of a video U-Net, precomputed once per request, and the state of one forward pass."""

from collections import UserList
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from zoo.nn.attention import KeysValues
from zoo.nn.temporal import sinusoidal_positions


@dataclass(frozen=True)
class Conditioning:
    """Keys, values and features of a request, one entry per spatial transformer, in the order of the forward pass.

    B: number of samples; with classifier-free guidance the conditional half comes first. An empty sequence means that
    the condition is absent.
    """

    text: Sequence[KeysValues] = ()  # (B, heads, L, d) each
    reference: Sequence[KeysValues | None] = ()  # (R, heads, H W, d), of the first R <= B samples; the rest has none
    face: Sequence[KeysValues] = ()  # (B, heads, L, d) each
    context: Sequence[Tensor] = ()  # (B, M, H W, C): features of the M frames before the window
    music: Mapping[str, Sequence[KeysValues]] = field(default_factory=dict)  # by module name: (B, heads, L, d) each
    use_motion_modules: bool = True  # False: frames are independent images


@dataclass
class ForwardState:
    """Values that all layers of one forward pass share."""

    num_frames: int
    time_embedding: Tensor  # (B, time_dim), after SiLU
    conditioning: Conditioning
    # filled with the input of each spatial attention, unless None; no list, of which FSDP2 would pass a copy
    features: UserList[Tensor] | None


def fold_frames(x: Tensor) -> Tensor:
    """(B, C, F, H, W) -> (B F, C, H, W)"""
    return rearrange(x, "b c f h w -> (b f) c h w").contiguous(memory_format=torch.channels_last)


def repeat_for_cfg(x: Tensor) -> Tensor:
    """(N, ...) -> (2 N, ...): the same values for the conditional and the unconditional half."""
    return torch.cat([x, x])


def position_map(x: Tensor) -> Tensor:
    """Half the sinusoidal encodings of each pixel's row and column (C, H, W), to be added to x (N, C, H, W)."""
    half_channels = x.shape[1] // 2
    rows, columns = (sinusoidal_positions(torch.arange(size, device=x.device), half_channels) for size in x.shape[2:])
    grid = torch.cat([rows[:, None].expand(-1, len(columns), -1), columns.expand(len(rows), -1, -1)], 2)
    return 0.5 * grid.permute(2, 0, 1).to(x.dtype)
