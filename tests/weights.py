"""Weights that need not be stored: every value follows from the name of its parameter."""

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
