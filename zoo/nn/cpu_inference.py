"""Faster sampling on CPUs: layers compute with weights that were cast and packed for oneDNN once per request.

Modules, parameters and state dicts are unchanged; only the `forward` of some layers is replaced within the context.

bf16: layers compute in bfloat16, as under autocast, which casts all weights again in every step (0.5 s at the size of
Stable Diffusion 1.5).
fp32: CPUs with AMX multiply bfloat16 about eight times as fast as float32. Each float32 number is the sum of two
bfloat16 numbers to 2^-17 of its value, x = X + x', w = W + w', and X W + x' W + X w' is x w without x' w'. oneDNN
accumulates in float32 and then rounds to bfloat16, so the first product is computed twice: its rounded value, and its
rounding error. The four products have an error of 2e-5 of the largest value; 3x3 convolutions take half as long as in
float32.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

PRECISIONS = ("fp32", "bf16")  # of `fast_inference`
# B * H * W of a convolution's input; with fewer it waits for its weights, and split products gain nothing
MIN_CONV_PIXELS = 256


def is_supported() -> bool:
    """Return whether this CPU and this torch have the operators used here."""
    ops = torch.ops.mkldnn  # those that torch.compile emits
    operator_names = ["_is_mkldnn_bf16_supported", "_convolution_pointwise_"]
    operator_names += [f"_{layer_type}_pointwise" for layer_type in ("convolution", "linear")]
    operator_names += [f"_reorder_{layer_type}_weight" for layer_type in ("convolution", "linear")]
    has_operators = torch.backends.mkldnn.is_available() and all(hasattr(ops, name) for name in operator_names)
    return has_operators and ops._is_mkldnn_bf16_supported()


def has_bf16() -> bool:
    """Return whether this CPU multiplies bfloat16 in oneDNN; other CPUs emulate it slowly."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@contextmanager
def fast_inference(network: nn.Module, precision: str | None) -> Iterator[None]:
    """Run `network` in `precision` within this context, without gradients; its weights must not change.

    precision: 'fp32', 'bf16' (outputs are bfloat16, too) or None, which changes nothing. On a GPU, and where
    `is_supported` is false, nothing changes either. Needs as much memory as half of the weights (bf16) or two thirds
    (fp32) beside them. Raises ValueError for another precision.
    """
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision={precision}: use fp32 or bf16, or leave it out")
    # modules with another `forward`, and children whose work is done by it
    replaced_modules, fused_children = [], set()
    try:
        if precision is not None and is_supported():
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            for module in network.modules():
                forward = None if module in fused_children else _packed_forward(module, dtype)
                if forward is not None:
                    module.forward = forward
                    replaced_modules.append(module)
                    fused_children.update(module.children())
        yield
    finally:
        for module in replaced_modules:
            del module.forward


def _packed_forward(module: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """Return a faster `forward` of this layer, or None."""
    if type(module) not in (nn.Conv2d, nn.Linear, GEGLU):
        return None
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        return None
    if type(module) is GEGLU:
        return PackedGEGLU(module, dtype)
    if type(module) is nn.Linear:  # packing gains little in float32
        return PackedLinear(module.weight, module.bias, dtype) if dtype == torch.bfloat16 else None
    return PackedConv2d(module, dtype) if module.groups == 1 and module.padding_mode == "zeros" else None


class PackedLinear:
    """`nn.Linear` on (..., in) with packed weights."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, activation: str = "none"):
        """activation: 'gelu' or 'none'."""
        self.weight, self.bias, self.dtype, self.activation = weight, bias, dtype, activation
        self.packed_weight = None

    def __call__(self, x: Tensor, factor: Tensor | None = None) -> Tensor:
        """factor: of the output's shape; the output is multiplied with it elementwise."""
        x = x.to(self.dtype)
        if self.packed_weight is None:
            self.packed_weight = torch.ops.mkldnn._reorder_linear_weight(
                self.weight.detach().to(self.dtype), len(x.flatten(0, -2))
            )
            self.bias = None if self.bias is None else self.bias.detach().to(self.dtype)
        if factor is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, factor, self.packed_weight, self.bias, "mul")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed_weight, self.bias, self.activation, [], "none")


class PackedGEGLU:
    """diffusers' `GEGLU`, value * gelu(gate), as two products with the GELU and the factor fused into them."""

    def __init__(self, module: GEGLU, dtype: torch.dtype):
        halves = zip(module.proj.weight.chunk(2), module.proj.bias.chunk(2), ("none", "gelu"), strict=True)
        self.value, self.gate = (PackedLinear(weight, bias, dtype, activation) for weight, bias, activation in halves)

    def __call__(self, x: Tensor) -> Tensor:
        return self.value(x, factor=self.gate(x))


class PackedConv2d:
    """`nn.Conv2d` with packed weights and channels last, in float32 with AMX as four bfloat16 products."""

    def __init__(self, module: nn.Conv2d, dtype: torch.dtype):
        self.module, self.dtype = module, dtype
        is_wide = min(module.in_channels, module.out_channels) >= 32 and module.kernel_size != (1, 1)
        has_amx = getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        self.use_split_products = is_wide and dtype == torch.float32 and has_amx
        self.geometry = [list(module.padding), list(module.stride), list(module.dilation), 1]  # 1: groups
        self.weights, self.biases = None, None  # of `pack`: [rounded], or [rounded, rest] for split products

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if self.weights is None:
            self.pack(x)
        conv = torch.ops.mkldnn._convolution_pointwise
        if not self.use_split_products:
            return conv(x.to(self.dtype), self.weights[0], self.biases[0], *self.geometry, "none", [], "")
        (weight_high, weight_low), (bias_high, bias_low) = self.weights, self.biases
        high = x.bfloat16()
        low = high.float()
        low = torch.sub(x, low, out=low).bfloat16()
        y = conv(high, weight_high, bias_high, *self.geometry, "none", [], "")
        correction = conv.binary(high, y, weight_high, bias_high, *self.geometry, "sub", 1.0, None, [], None)
        add_product = partial(torch.ops.mkldnn._convolution_pointwise_.binary, correction)
        add_product(low, weight_high, None, *self.geometry, "add", 1.0, None, [], None)
        add_product(high, weight_low, bias_low, *self.geometry, "add", 1.0, None, [], None)
        return y.float().add_(correction)

    def pack(self, x: Tensor) -> None:
        """Cast and pack the weights for inputs of the size of x."""
        weight, bias = self.module.weight.detach(), self.module.bias
        self.use_split_products = self.use_split_products and len(x) * x.shape[2] * x.shape[3] >= MIN_CONV_PIXELS
        dtypes = [torch.bfloat16] * 2 if self.use_split_products else [self.dtype]
        self.weights, self.biases = [], []
        for dtype in dtypes:
            rounded = weight.to(dtype)
            packed_weight = torch.ops.mkldnn._reorder_convolution_weight(rounded, *self.geometry, list(x.shape))
            self.weights.append(packed_weight)
            weight = weight - rounded
            rounded_bias = None if bias is None else bias.detach().to(dtype)
            self.biases.append(rounded_bias)
            bias = None if bias is None else bias.detach() - rounded_bias
