"""Faster sampling on CPUs: the same network, its weights cast and laid out once for oneDNN, for as long as a request.

The modules, their parameters and the state dict stay as they are; only `forward` of layers is another one meanwhile.

bf16: layers compute in bf16, as under autocast, which casts all weights in every step (0.5 s of SD 1.5's size).
fp32: CPUs with AMX multiply bf16 some eight times as fast as float32. A number is the sum of two bf16 ones to 2^-17 of
itself, x = X + x', w = W + w', and X W + x' W + X w' is x w but for x' w'. oneDNN adds up in float32 and then rounds
to bf16, so the first product is asked for twice: what it is rounded to, and what that left over. That makes four
products, with 2e-5 of the largest as their error, which for 3x3 convolutions take half as long as the float32 one.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from diffusers.models.activations import GEGLU
from torch import Tensor, nn

PRECISIONS = ("fp32", "bf16")
ROWS = 256  # pixels from which on weights are not what a convolution waits for


def fast_here() -> bool:
    """Whether this machine's CPU, and this torch, have what is used here."""
    ops = torch.ops.mkldnn  # the ones that torch.compile uses
    names = ["_is_mkldnn_bf16_supported", "_convolution_pointwise_"]
    names += [f"_{kind}_pointwise" for kind in ("convolution", "linear")]
    names += [f"_reorder_{kind}_weight" for kind in ("convolution", "linear")]
    there = torch.backends.mkldnn.is_available() and all(hasattr(ops, name) for name in names)
    return there and ops._is_mkldnn_bf16_supported()


@contextmanager
def sampling(network: nn.Module, precision: str | None) -> Iterator[None]:
    """Within it `network` runs as the module's head says, without gradients; its weights must not change.

    precision: 'fp32', 'bf16' (its answers are bf16, too) or None, which changes nothing, as do the others on a GPU and
    where `fast_here` says no. As much memory as half of the weights take (bf16) or two thirds (fp32) is needed beside
    them. Raises ValueError for another word.
    """
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"precision={precision}: use fp32 or bf16, or leave it out")
    changed, inside = [], set()
    try:
        if precision is not None and fast_here():
            kind = torch.bfloat16 if precision == "bf16" else torch.float32
            for module in network.modules():
                made = None if module in inside else _fast(module, kind)
                if made is not None:
                    module.forward = made
                    changed.append(module)
                    inside.update(module.children())
        yield
    finally:
        for module in changed:
            del module.forward


def _fast(module: nn.Module, kind: torch.dtype) -> Callable[[Tensor], Tensor] | None:
    """A faster `forward` of this layer, None where there is none."""
    if type(module) not in (nn.Conv2d, nn.Linear, GEGLU) or any(
        one.device.type != "cpu" for one in module.parameters()
    ):
        return None
    if type(module) is GEGLU:
        return Gated(module, kind)
    if type(module) is nn.Linear:  # laid out anew, float32 gains little
        return Product(module.weight, module.bias, kind) if kind == torch.bfloat16 else None
    return Convolution(module, kind) if module.groups == 1 and module.padding_mode == "zeros" else None


class Product:
    """`nn.Linear` on (..., in)."""

    def __init__(self, weight: Tensor, bias: Tensor | None, kind: torch.dtype, then: str = "none"):
        """then: 'gelu', or nothing"""
        self.weight, self.bias, self.kind, self.then = weight, bias, kind, then
        self.packed = None

    def __call__(self, x: Tensor, times: Tensor | None = None) -> Tensor:
        """times: a factor of the answer, as large as it"""
        x = x.to(self.kind)
        if self.packed is None:
            self.packed = torch.ops.mkldnn._reorder_linear_weight(
                self.weight.detach().to(self.kind), len(x.flatten(0, -2))
            )
            self.bias = None if self.bias is None else self.bias.detach().to(self.kind)
        if times is not None:
            return torch.ops.mkldnn._linear_pointwise.binary(x, times, self.packed, self.bias, "mul")
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.then, [], "none")


class Gated:
    """diffusers' `GEGLU`, one half of it times the gelu of the other, in two products that write what comes after."""

    def __init__(self, module: GEGLU, kind: torch.dtype):
        parts = zip(module.proj.weight.chunk(2), module.proj.bias.chunk(2), ("none", "gelu"), strict=True)
        self.value, self.gate = (Product(weight, bias, kind, then) for weight, bias, then in parts)

    def __call__(self, x: Tensor) -> Tensor:
        return self.value(x, times=self.gate(x))


class Convolution:
    """`nn.Conv2d`, channels last."""

    def __init__(self, module: nn.Conv2d, kind: torch.dtype):
        self.module, self.kind = module, kind
        wide = min(module.in_channels, module.out_channels) >= 32 and module.kernel_size != (1, 1)
        self.splits = wide and kind == torch.float32 and getattr(torch.cpu, "_is_amx_tile_supported", bool)()
        self.shape = [list(module.padding), list(module.stride), list(module.dilation), 1]
        self.weights, self.biases = None, None

    def __call__(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        if self.weights is None:
            self.pack(x)
        conv = torch.ops.mkldnn._convolution_pointwise
        if not self.splits:
            return conv(x.to(self.kind), self.weights[0], self.biases[0], *self.shape, "none", [], "")
        (great, small), (bias, rest) = self.weights, self.biases
        high = x.bfloat16()
        low = high.float()
        low = torch.sub(x, low, out=low).bfloat16()
        y = conv(high, great, bias, *self.shape, "none", [], "")
        left = conv.binary(high, y, great, bias, *self.shape, "sub", 1.0, None, [], None)
        add = partial(torch.ops.mkldnn._convolution_pointwise_.binary, left)
        add(low, great, None, *self.shape, "add", 1.0, None, [], None)
        add(high, small, rest, *self.shape, "add", 1.0, None, [], None)
        return y.float().add_(left)

    def pack(self, x: Tensor) -> None:
        """For inputs as large as x."""
        weight, bias = self.module.weight.detach(), self.module.bias
        self.splits = self.splits and len(x) * x.shape[2] * x.shape[3] >= ROWS
        kinds = [torch.bfloat16] * 2 if self.splits else [self.kind]
        self.weights, self.biases = [], []
        for kind in kinds:
            now = weight.to(kind)
            packed = torch.ops.mkldnn._reorder_convolution_weight(now, *self.shape, list(x.shape))
            self.weights.append(packed)
            weight = weight - now
            offset = None if bias is None else bias.detach().to(kind)
            self.biases.append(offset)
            bias = None if bias is None else bias.detach() - offset
