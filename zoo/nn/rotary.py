"""Rotary position embedding (Su et al. 2021) of neighbouring pairs of values, theta 10^4."""

import torch
from torch import Tensor, nn


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair (2i, 2i + 1) of the values of x (..., T, C) by its angle.

    tables: cos and sin (T, C / 2), see `Rotary`.
    """
    cos, sin = (table.to(x.dtype) for table in tables)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


class Rotary(nn.Module):
    """Angles of the rotary embedding. As in public checkpoints, every layer lists the one tensor."""

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("freqs", 10_000.0 ** (-torch.arange(0, dim, 2) / dim))

    def forward(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """cos and sin, each (stop - start, C / 2), of positions start .. stop - 1."""
        angles = torch.arange(start, stop, device=self.freqs.device)[:, None] * self.freqs.float()
        return angles.cos(), angles.sin()
