"""Weights in eight bits for exported folders: `export_dtype=int8`.

A weight matrix or kernel is stored as int8 with one scale for each output channel (its first dimension). Vectors, such
as biases and norms, are stored in half precision. Loading gives float32 again.
"""

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

SCALE_SUFFIX = ".int8_scale"  # of the key that holds the scales (C,) float32 of an int8 tensor (C, ...)
MIN_VALUES = 16  # of an output channel; smaller ones would hardly get smaller
MAX_INT8 = 127


def quantize(weights: Mapping[str, Tensor], parameters: Collection[str]) -> dict[str, Tensor]:
    """The state dict with the `parameters` among its keys in int8 or float16. Everything else stays as it is."""
    stored = {}
    for key, value in weights.items():
        if key not in parameters or not value.is_floating_point():
            stored[key] = value
        elif value.ndim < 2 or value[0].numel() < MIN_VALUES:
            stored[key] = value.half()
        else:
            channels = value.float().flatten(1)
            scale = channels.abs().amax(1) / MAX_INT8
            rounded = (channels / scale.where(scale > 0, torch.ones_like(scale))[:, None]).round()
            stored[key] = rounded.to(torch.int8).reshape(value.shape)
            stored[key + SCALE_SUFFIX] = scale
    return stored


def dequantize(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `quantize`; weights without scales stay as they are. Raises ValueError for scales that do not fit.

    The largest error of a value is half a scale: 1/254 of the largest value of its channel.
    """
    weights = {key: value for key, value in stored.items() if not key.endswith(SCALE_SUFFIX)}
    for key in stored.keys() - weights.keys():
        name, scale = key.removesuffix(SCALE_SUFFIX), stored[key]
        value = weights.get(name)
        if value is None or value.dtype != torch.int8 or value.ndim < 2 or scale.shape != value.shape[:1]:
            raise ValueError(f"the scales {key} belong to no int8 weights")
        weights[name] = (value.flatten(1).float() * scale.float()[:, None]).reshape(value.shape)
    return weights
