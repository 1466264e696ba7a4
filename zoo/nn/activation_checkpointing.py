"""Activation checkpointing by module: a unit keeps its inputs only, and is computed again in the backward pass.

Losses, gradients, random numbers and buffers are those without it. State dicts and module paths do not change.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

_CHECKPOINTED_TYPES: dict[type[nn.Module], type[nn.Module]] = {}  # of each class of units


def checkpoint_activations(module: nn.Module, unit_types: Sequence[type[nn.Module]]) -> int:
    """Checkpoint the outermost modules of these types in `module`. Returns their number.

    A copy of a unit is checkpointed too. Only `forward` is; it runs as it is where no gradient flows.
    """
    units = outermost_modules(module, unit_types)
    for unit in units:
        if not isinstance(unit, _Checkpointed):
            unit.__class__ = _checkpointed_type(type(unit))
    return len(units)


def outermost_modules(module: nn.Module, types: Sequence[type[nn.Module]]) -> list[nn.Module]:
    """Modules of these types in `module`, none of which lies in another one."""
    if isinstance(module, tuple(types)):
        return [module]
    return [unit for child in module.children() for unit in outermost_modules(child, types)]


class _Checkpointed(nn.Module):
    """Base before a module's class."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        forward = super().forward
        if not torch.is_grad_enabled() or not (_needs_gradient((args, kwargs)) or _needs_gradient(self)):
            return forward(*args, **kwargs)
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _statistics_unchanged(self)),
            **kwargs,
        )


def _checkpointed_type(cls: type[nn.Module]) -> type[nn.Module]:
    if cls not in _CHECKPOINTED_TYPES:
        attributes = {"__module__": cls.__module__}
        _CHECKPOINTED_TYPES[cls] = type(f"Checkpointed{cls.__name__}", (_Checkpointed, cls), attributes)
    return _CHECKPOINTED_TYPES[cls]


@contextmanager
def _statistics_unchanged(module: nn.Module) -> Iterator[None]:
    """Let batch norms update copies of their running statistics: the forward pass has updated them once."""
    norms = [norm for norm in module.modules() if isinstance(norm, _BatchNorm) and norm.training]
    buffers = [dict(norm._buffers) for norm in norms]
    for norm in norms:
        norm._buffers.update({name: buffer.clone() for name, buffer in norm._buffers.items() if buffer is not None})
    try:
        yield
    finally:
        for norm, original in zip(norms, buffers, strict=True):
            norm._buffers.update(original)


def _needs_gradient(value: Any) -> bool:
    """Whether a tensor in arguments of a module, or a parameter of it, requires a gradient."""
    if isinstance(value, Tensor):
        return value.requires_grad
    if isinstance(value, nn.Module):
        return any(parameter.requires_grad for parameter in value.parameters())
    if isinstance(value, dict):
        return any(_needs_gradient(item) for item in value.values())
    if isinstance(value, list | tuple):
        return any(_needs_gradient(item) for item in value)
    return False
