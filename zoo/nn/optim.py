"""Optimisers that differ from the libraries' on CPUs."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

# timm imports wandb where it is installed, which makes two temporary folders that a killed process leaves
sys.modules.setdefault("wandb", None)  # type: ignore[arg-type]  # as where it is not installed
try:
    import timm.optim
    import timm.optim.muon
finally:
    if sys.modules["wandb"] is None:
        del sys.modules["wandb"]


class Muon(timm.optim.Muon):
    """timm's Muon, which orthogonalises the updates in float32 on CPUs; on GPUs in bfloat16, as timm does.

    CPUs without bfloat16 instructions take 20 times as long for bfloat16 matrix products: 10.9 s a step for the
    9.3 M parameters of MuseDance's stage `dynamics` at size=tiny, and .55 s in float32. All CPUs compute in
    float32, so that a result does not depend on the CPU's instructions. Options and state dict are timm's.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Perform one optimisation step. Returns the closure's loss, None without a closure."""
        if all(parameter.device.type == "cpu" for group in self.param_groups for parameter in group["params"]):
            with _float32_orthogonalization():
                return super().step(closure)
        return super().step(closure)


@contextmanager
def _float32_orthogonalization() -> Iterator[None]:
    """Within, timm's Newton-Schulz iteration computes in float32: timm has no option for it."""
    original = timm.optim.muon.zeropower_via_newtonschulz
    timm.optim.muon.zeropower_via_newtonschulz = partial(original, dtype=torch.float32)
    try:
        yield
    finally:
        timm.optim.muon.zeropower_via_newtonschulz = original
