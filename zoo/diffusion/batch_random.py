"""Random numbers of a training batch, drawn sample by sample, so that they do not depend on how a step is divided."""

from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b
from typing import Any

import torch
from torch import Generator, Tensor

CPU = torch.device("cpu")


class BatchRandom:
    """torch's random functions with one generator for each sample of a batch, and one for the whole step.

    A sample draws the same numbers in any batch, however many processes share a step; CPUs and GPUs draw different
    ones. Without seeds all numbers come from torch's global generator. `step_rand` and `step_randint` are for choices
    that hold for whole batches: all batches of a step draw the same.

    The first dimension of a size is a multiple of the number of samples, whose parts follow one another.
    """

    def __init__(self, sample_seeds: Iterable[int] | None = None, step_seed: int | None = None):
        self._samples = None if sample_seeds is None else [_Generators(seed) for seed in sample_seeds]
        self._step = None if step_seed is None else _Generators(step_seed)

    @classmethod
    def of_step(cls, seed: int, step: int, positions: Iterable[int]) -> "BatchRandom":
        """Random numbers of the samples at `positions` among the clips of an optimiser step, see `GlobalBatch`."""
        return cls([_hash(seed, step, position) for position in positions], _hash(seed, step))

    def select(self, indices: Sequence[int] | Tensor) -> "BatchRandom":
        """The generators of some of the samples, in this order. They are shared, not copied."""
        selection = BatchRandom()
        selection._step = self._step
        if self._samples is not None:
            selection._samples = [self._samples[int(index)] for index in indices]
        return selection

    def rand(self, *size: int, device: torch.device | None = None) -> Tensor:
        """Uniform numbers in [0, 1)."""
        return self._fill(torch.empty(size, device=device), Tensor.uniform_)

    def randn(self, *size: int, device: torch.device | None = None) -> Tensor:
        """Standard normal numbers."""
        return self._fill(torch.empty(size, device=device), Tensor.normal_)

    def randn_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers with shape, type and device of x."""
        return self._fill(torch.empty(x.shape, dtype=x.dtype, device=x.device), Tensor.normal_)

    def randint(self, high: int, *size: int, device: torch.device | None = None) -> Tensor:
        """Integers in [0, high)."""
        return self._fill(
            torch.empty(size, dtype=torch.int64, device=device), lambda part, **options: part.random_(high, **options)
        )

    def step_rand(self) -> float:
        """One uniform number for all batches of the step."""
        return float(torch.rand((), generator=self._step_generator()))

    def step_randint(self, high: int) -> int:
        """One integer in [0, high) for all batches of the step."""
        return int(torch.randint(high, (), generator=self._step_generator()))

    def _step_generator(self) -> Generator | None:
        return None if self._step is None else self._step.on(CPU)

    def _fill(self, values: Tensor, fill: Callable[..., Any]) -> Tensor:
        if self._samples is None:
            fill(values)
            return values
        parts = values.tensor_split(len(self._samples))
        assert len(values) % len(self._samples) == 0, f"{len(values)} values for {len(self._samples)} samples"
        for part, generators in zip(parts, self._samples, strict=True):
            fill(part, generator=generators.on(values.device))
        return values


class _Generators:
    """A generator for each device, all from one seed."""

    def __init__(self, seed: int):
        self.seed = seed
        self._generators: dict[torch.device, Generator] = {}

    def on(self, device: torch.device) -> Generator:
        """The generator of a device, made at its first use."""
        if device not in self._generators:
            self._generators[device] = Generator(device).manual_seed(self.seed)
        return self._generators[device]


def _hash(*numbers: int) -> int:
    # torch's CPU generator takes 32 bits of a seed: neighbours must differ in these
    return int.from_bytes(blake2b(repr(numbers).encode(), digest_size=8).digest(), "big") >> 1
