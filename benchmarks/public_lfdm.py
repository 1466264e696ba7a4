"""LFDM's public code (github.com/nihaomiao/CVPR23_LFDM), made importable without what its networks do not need."""

import sys
from types import ModuleType

import torch
from einops import rearrange
from torch import Tensor, nn


class RotaryEmbedding(nn.Module):
    """What the package rotary_embedding_torch does for LFDM: interleaved pairs turned by position."""

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("freqs", 1.0 / 10_000 ** (torch.arange(0, dim, 2).float() / dim))

    def rotate_queries_or_keys(self, x: Tensor) -> Tensor:
        """(..., T, dim)"""
        angle = (torch.arange(x.shape[-2], device=x.device)[:, None] * self.freqs).repeat_interleave(2, -1)
        swapped = torch.stack([-x[..., 1::2], x[..., ::2]], -1).flatten(-2)
        return x * angle.cos() + swapped * angle.sin()


def import_from(folder: str) -> None:
    """Put a checkout on the path, after which `LFAE` and `DM` can be imported."""
    sys.path.insert(0, folder)
    parts = {
        "DM.modules.text": {"tokenize": None, "bert_embed": None, "BERT_MODEL_DIM": 768},
        "einops_exts": {"rearrange_many": lambda xs, pattern, **sizes: [rearrange(x, pattern, **sizes) for x in xs]},
        "rotary_embedding_torch": {"RotaryEmbedding": RotaryEmbedding},
    }
    for name, contents in parts.items():
        module = ModuleType(name)
        vars(module).update(contents)
        sys.modules[name] = module
