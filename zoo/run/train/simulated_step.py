"""One training step on fake tensors: nothing is computed or allocated, shapes, types and lifetimes are those of a GPU.

Fake tensors of this module live on the CPU, because autograd needs a driver for those of a GPU. So `CudaAutocast` adds
the rules in which autocast differs on GPUs. Run it in a process that trains nothing afterwards: constants that modules
compute once would stay fake.
"""

import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd.graph import _engine_run_backward
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from zoo.batch import MOTION_DIM, MOTION_FPS, Batch
from zoo.data.base import WindowSpec
from zoo.families.base import Family, Stage
from zoo.music.encoder import MusicEncoder
from zoo.nn.weights.lazy import LazyWeights

aten = torch.ops.aten
NUM_JOINTS = 24
FLOP_FORMULAS = flop_registry | {
    aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop(q, k, v),
    aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop(
        grad, q, k, v
    ),
}
# functions that autocast computes in float32 on GPUs and leaves alone on CPUs, as far as these models call them
FLOAT32_FUNCTIONS = {
    F.group_norm, F.layer_norm, F.softmax, F.log_softmax, F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.cosine_similarity,
    F.interpolate, F.softplus, F.binary_cross_entropy_with_logits, F.cross_entropy,
    torch.group_norm, torch.layer_norm, torch.softmax, torch.exp, torch.log, torch.pow, torch.rsqrt, torch.norm,
    torch.sum, torch.cumsum, torch.prod, torch.logsumexp,
    Tensor.softmax, Tensor.exp, Tensor.log, Tensor.pow, Tensor.__pow__, Tensor.rsqrt, Tensor.norm, Tensor.sum,
    Tensor.cumsum, Tensor.square, Tensor.logsumexp,
}  # fmt: skip


@dataclass(frozen=True)
class StepMemory:
    """Bytes of one process, and the arithmetic of one batch."""

    weights: int  # parameters, buffers, and their average
    gradients: int
    optimizer: int
    peak: int  # of tensors, in a step that is not the first one
    optimizer_peak: int  # of tensors, while the optimiser steps
    flops: int  # forward and backward pass of one batch, activations that are computed again included

    @property
    def activations(self) -> int:
        """All that lives at the peak besides weights, gradients and optimiser.

        That is activations, batch and gathered weights, or what the optimiser copies while it steps.
        """
        return max(0, max(self.peak, self.optimizer_peak) - self.weights - self.gradients - self.optimizer)


class SharedFakeTensorMode(FakeTensorMode):
    """Fake tensors whose deep copies, as `AveragedModel` makes them, belong to the same mode.

    A copied mode would copy its weak references to storages without counting them. Both copies would release each
    storage, which corrupts the heap.
    """

    def __deepcopy__(self, memo: dict[int, Any]) -> "SharedFakeTensorMode":
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.linalg_lstsq.default:  # refused, as some drivers return values whose number depends on ranks
            matrix, target = args[:2]
            solution = target.new_empty(*target.shape[:-2], matrix.shape[-1], target.shape[-1])
            return solution, *(target.new_empty(0) for _ in range(3))
        return super().__torch_dispatch__(func, types, args, kwargs or {})


class MemoryTracker(TorchDispatchMode):
    """Counts the bytes of the storages that operators return, as long as they live, and the operators' arithmetic.

    Works on real tensors too. torch's `FlopCounterMode` would keep the activations that are computed again. Numbers
    read from fake tensors are False, 0 or 1.0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current = self.peak = self.flops = 0
        self._sizes: dict[int, int] = {}

    def add(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that exist already."""
        for tensor in tensors:
            storage = (tensor.to_local() if isinstance(tensor, DTensor) else tensor).untyped_storage()
            key, size = id(storage), storage.nbytes()
            if key in self._sizes:
                self._change(key, size)
                continue
            self._sizes[key] = 0
            weakref.finalize(storage, self._remove, key)
            self._change(key, size)

    def __enter__(self) -> "MemoryTracker":
        resize = torch.UntypedStorage.resize_

        def tracked_resize(storage: torch.UntypedStorage, size: int) -> Any:  # sharded weights are gathered and freed
            result = resize(storage, size)
            if id(storage) in self._sizes:
                self._change(id(storage), size)
            return result

        self._restore_resize = lambda: setattr(torch.UntypedStorage, "resize_", resize)
        torch.UntypedStorage.resize_ = tracked_resize  # type: ignore[method-assign, assignment]
        return super().__enter__()

    def __exit__(self, *args: Any) -> None:
        self._restore_resize()
        super().__exit__(*args)

    def _change(self, key: int, size: int) -> None:
        self.current += size - self._sizes[key]
        self._sizes[key] = size
        self.peak = max(self.peak, self.current)

    def _remove(self, key: int) -> None:
        self.current -= self._sizes.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default and isinstance(args[0], FakeTensor) and args[0].constant is None:
            return {torch.bool: False}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 0)
        if any(issubclass(cls, DTensor) for cls in types):
            return NotImplemented  # it comes again with the tensors of this process
        result = func(*args, **(kwargs or {}))
        self.add(value for value in tree_leaves(result) if isinstance(value, Tensor))
        formula = FLOP_FORMULAS.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        return result


class CudaAutocast(TorchFunctionMode):
    """Autocast's rules of GPUs on CPU tensors, and values for what Python code reads from fake tensors.

    Single random numbers are 0.5, so that no condition is dropped; arrays hold 0, 1, 2 and so on.
    """

    def __init__(self, dtype: torch.dtype | None, on_gpu: bool = True):
        """dtype: of autocast; None without it. on_gpu: False leaves the rules of CPUs as they are."""
        super().__init__()
        self.dtype, self.on_gpu = dtype, on_gpu

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.rand and args and args[0] == ():
            return torch.tensor(0.5)
        if func is Tensor.numpy:
            return np.arange(args[0].numel()).reshape(args[0].shape)
        if func in (torch.nonzero, Tensor.nonzero):
            return torch.zeros(1 + len(args[0]) // 8, args[0].ndim, dtype=torch.int64)
        if not self.on_gpu:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            # fused on GPUs, also with dropout; `zoo.nn.attention` computes it in float32 on CPUs
            kwargs = {name: value for name, value in kwargs.items() if name != "dropout_p"}
            if self.dtype is not None:
                args, kwargs = _cast((args[:4], kwargs), self.dtype)
            return func(*args, **kwargs)
        if self.dtype is not None and func in FLOAT32_FUNCTIONS and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):
                args, kwargs = _cast((args, kwargs), torch.float32)
                return func(*args, **kwargs)
        return func(*args, **kwargs)


def _cast(values: Any, dtype: torch.dtype) -> Any:
    return tree_map(lambda x: x.to(dtype) if isinstance(x, Tensor) and x.is_floating_point() else x, values)


def example_batch(keys: Iterable[str], window: WindowSpec, encoder: MusicEncoder, count: int) -> Batch:
    """A batch of `count` clips with these keys: shapes and types of the data's, random values."""
    frames, (height, width) = window.num_sampled_frames or window.num_frames, (window.height, window.width)
    angle = torch.rand(count, window.num_frames) * 6.28
    shapes: dict[str, Callable[[], Any]] = {
        "fps": lambda: float(window.rate),
        "reference": lambda: torch.rand(count, 3, height, width) * 2 - 1,
        "frames": lambda: torch.rand(count, frames, 3, height, width) * 2 - 1,
        "frame_indices": lambda: torch.arange(frames).repeat(count, 1),
        "music": lambda: torch.randn(count, window.num_tokens(encoder.rate), encoder.dim),
        "music_rate": lambda: encoder.rate,
        "beats": lambda: torch.randint(2, (count, window.num_frames)),
        "beat_phase": lambda: torch.stack([angle.cos(), angle.sin()], -1),
        "motion": lambda: torch.randn(count, window.num_tokens(MOTION_FPS), MOTION_DIM),
        "parts": lambda: torch.randint(25, (count, frames, height, width)).byte(),
        "semantic": lambda: torch.randint(20, (count, frames, height, width)).byte(),
        "depth": lambda: torch.rand(count, frames, height, width),
        "normal": lambda: torch.rand(count, frames, 3, height, width) * 2 - 1,
        "skeleton": lambda: torch.rand(count, frames, 3, height, width) * 2 - 1,
        "heatmaps": lambda: torch.rand(count, frames, NUM_JOINTS, height // 4, width // 4),
        "joints2d": lambda: torch.rand(count, frames, NUM_JOINTS, 2) * height,
        "joints3d": lambda: torch.rand(count, frames, NUM_JOINTS, 3),
    }
    texts = {key: [f"{key} {index}" for index in range(count)] for key in keys if key not in shapes}
    return {key: shapes[key]() if key in shapes else texts[key] for key in keys}  # type: ignore[return-value]


def simulate_step(
    build: Callable[[], tuple[Stage, Batch]],
    precision: str,
    keep_gradients: bool = False,
    fake: bool = True,
    num_shards: int = 1,
    on_gpu: bool = True,
) -> StepMemory:
    """Simulate steps of a stage until the optimiser has its state, and measure the last one.

    build: makes stage and batch. keep_gradients: gradients exist before the forward pass, as under DDP, whose buckets
    they are, and in gradient accumulation. fake: False computes the same steps on real tensors, for comparison.
    num_shards: processes over which the trained weights are sharded (FSDP2); the collectives are those of a fake group.
    on_gpu: False follows the rules of CPUs: autocast, attention, and an optimiser that updates weight by weight.
    """
    dtype = {"bf16": torch.bfloat16, "16": torch.bfloat16}.get(precision.removesuffix("-mixed"))
    tracker = MemoryTracker()
    with ExitStack() as stack:
        group = stack.enter_context(_fake_processes(num_shards)) if num_shards > 1 else None
        if fake:
            stack.enter_context(SharedFakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Accessing the data pointer of FakeTensor")  # the average copies them
        warnings.filterwarnings("ignore", message=".*returned a view tensor.*")  # nothing changes it in place
        stage, batch = build()
        fill_lazy_weights(stage.family)
        if group is not None:
            stage.shard(group)
        stack.enter_context(tracker)
        tracker.add([*stage.parameters(), *stage.buffers(), *_lazy_tensors(stage.family)])
        weights = tracker.current
        tracker.add(value for value in batch.values() if isinstance(value, Tensor))
        trained = [parameter for parameter in stage.family.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.grad = _empty_gradient(parameter)
        gradients = tracker.current
        optimizer = stage.make_optimizer([_own_shard(parameter) for parameter in trained])
        if on_gpu:
            _use_foreach(optimizer)
        optimizer.step()
        after_step = tracker.current
        tracker.peak = tracker.current
        optimizer.step()
        optimizer_peak = tracker.peak
        tracker.peak = tracker.current
        stack.enter_context(CudaAutocast(dtype, on_gpu))
        tracker.flops = 0
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            loss = torch.stack([value.float() for value in stage.loss(batch).values()]).sum()
        if not keep_gradients:  # after the forward pass, as Lightning does
            stage.zero_grad()
            optimizer.zero_grad()
        # `backward` would leave `CudaAutocast` while activations are computed again
        _engine_run_backward(
            (loss,), (torch.ones_like(loss),), False, False, (), allow_unreachable=True, accumulate_grad=True
        )
        peak = tracker.peak
    batch_size = sum(value.numel() * value.element_size() for value in batch.values() if isinstance(value, Tensor))
    return StepMemory(
        weights, gradients - weights - batch_size, after_step - gradients, peak, optimizer_peak, tracker.flops
    )


def _empty_gradient(parameter: nn.Parameter) -> Tensor:
    if not isinstance(parameter, DTensor):
        return torch.empty_like(parameter)
    return DTensor.from_local(  # an operator of DTensor would take milliseconds
        torch.empty_like(_local(parameter)), parameter.device_mesh, parameter.placements, run_check=False,
        shape=parameter.shape, stride=parameter.stride(),
    )  # fmt: skip


def _own_shard(parameter: nn.Parameter) -> nn.Parameter:
    """The part of a sharded parameter and of its gradient that this process has, which the optimiser updates.

    DTensor's operators on lists would take a time that grows with the square of the list's length.
    """
    if not isinstance(parameter, DTensor):
        return parameter
    gradient = parameter.grad
    assert isinstance(gradient, DTensor)
    shard = nn.Parameter(_local(parameter))
    shard.grad = _local(gradient)
    return shard


def _local(tensor: DTensor) -> Tensor:
    with torch.no_grad():
        return tensor.to_local()


def _use_foreach(optimizer: torch.optim.Optimizer) -> None:
    """Update all weights together, as is the default on GPUs: Adam holds a temporary copy of them."""
    for group in optimizer.param_groups:
        if not group.get("fused") and group.get("foreach", False) is None:
            group["foreach"] = True


@contextmanager
def _fake_processes(size: int) -> Iterator[DeviceMesh]:
    """Process 0 of `size`, which communicates with nothing. FSDP2 makes its shards alone, not those of all."""
    from torch.distributed.fsdp._fully_shard import _fsdp_param
    from torch.testing._internal.distributed.fake_pg import FakeStore  # registers the backend

    def first_chunk(tensor: Tensor, num_chunks: int, dim: int) -> list[Tensor]:
        return [tensor.narrow(dim, 0, -(-tensor.shape[dim] // num_chunks))]

    distributed.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    all_chunks = _fsdp_param._chunk_with_empty
    _fsdp_param._chunk_with_empty = first_chunk
    try:
        yield init_device_mesh("cpu", (size,))
    finally:
        _fsdp_param._chunk_with_empty = all_chunks
        distributed.destroy_process_group()


def _lazy_modules(family: Family) -> list[LazyWeights]:
    return [module for module in family.modules() if isinstance(module, LazyWeights)]


def fill_lazy_weights(family: Family) -> None:
    """Give networks that are read from files, which a plan does not need, untrained weights."""
    for module in _lazy_modules(family):
        module.__dict__["loaded"] = module.build_untrained()


def _lazy_tensors(family: Family) -> list[Tensor]:
    networks = [value for module in _lazy_modules(family) for value in tree_leaves(module.__dict__["loaded"])]
    modules = [network for network in networks if isinstance(network, nn.Module)]
    return [tensor for network in modules for tensor in (*network.parameters(), *network.buffers())]
