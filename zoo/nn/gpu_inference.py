"""Sampling in bfloat16 on GPUs: the denoisers run under autocast, as they were trained."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import torch
from torch import nn

METHODS = ("forward", "precompute_conditioning", "encode_condition")  # that samplers call


def is_on_gpu(network: nn.Module) -> bool:
    """Return whether the weights of `network` lie on a GPU."""
    return any(parameter.device.type == "cuda" for parameter in network.parameters())


@contextmanager
def bf16_inference(network: nn.Module) -> Iterator[None]:
    """Run a network on a GPU under bfloat16 autocast within this context; outputs may be bfloat16, too.

    Code between the calls of the network, such as the sampler's arithmetic, stays float32.
    """
    methods = [name for name in METHODS if hasattr(network, name)]
    for name in methods:
        setattr(network, name, _autocasting(getattr(network, name)))
    try:
        yield
    finally:
        for name in methods:
            delattr(network, name)


def _autocasting(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        with torch.autocast("cuda", torch.bfloat16):
            return method(*args, **kwargs)

    return call
