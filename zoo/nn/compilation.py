"""torch.compile by module: the `forward` of each unit is compiled, everything between them stays Python.

State dicts and module paths do not change. Hooks, FSDP2's gathers among them, and activation checkpointing run outside
of the compiled functions.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from zoo.nn.activation_checkpointing import outermost_modules

# of one class: a U-Net's units differ in width and resolution, and torch's 8 would leave most as they are
MAX_VARIANTS = 256
_COMPILED_TYPES: dict[tuple[type[nn.Module], str], type[nn.Module]] = {}  # of each class of units and backend


def compile_units(module: nn.Module, unit_types: Sequence[type[nn.Module]], backend: str = "inductor") -> int:
    """Compile the outermost modules of these types in `module`. Returns their number.

    Before `checkpoint_activations`. backend: a name that torch.compile knows. A copy of a unit is compiled too. Nothing
    is compiled where no gradient flows: validation and frozen networks run as they are.
    """
    import torch._dynamo  # takes seconds

    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MAX_VARIANTS)
    units = outermost_modules(module, unit_types)
    for unit in units:
        if not isinstance(unit, _Compiled):
            unit.__class__ = _compiled_type(type(unit), backend)
    return len(units)


class _Compiled(nn.Module):
    """Base before a module's class."""

    compiled_forward: Callable[..., Any]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return super().forward(*args, **kwargs)
        return type(self).compiled_forward(self, *args, **kwargs)


def _compiled_type(cls: type[nn.Module], backend: str) -> type[nn.Module]:
    if (cls, backend) not in _COMPILED_TYPES:
        attributes = {
            "__module__": cls.__module__,
            "compiled_forward": staticmethod(torch.compile(cls.forward, backend=backend, dynamic=False)),
        }
        _COMPILED_TYPES[cls, backend] = type(f"Compiled{cls.__name__}", (_Compiled, cls), attributes)
    return _COMPILED_TYPES[cls, backend]
