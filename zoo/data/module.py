"""The Lightning data module: a source's clips in an order that depends on (seed, step, rank) alone.

Because batch k is a function of k, a run that was killed and resumed at step k reads exactly what the uninterrupted run
would have read, whatever was prefetched when it died. Use it with `Trainer(use_distributed_sampler=False)`: the sampler
here already gives every rank its own share.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Dataset, Sampler

from zoo.batch import Batch, require
from zoo.data.base import SPLITS, DataSource, WindowSpec, collate
from zoo.music.encoder import MusicEncoder


class StepSampler(Sampler[list[int]]):
    """Endless batches of indices, batch k being a closed form of (seed, k, rank, world_size).

    The epochs' permutations, each from a generator seeded by (seed, epoch), stand in one endless row; the global batch
    k is its k-th stretch of batch_size * world_size places, and each rank takes its own part. Nothing is dropped.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        start_step: int = 0,
        unique_draws: bool = False,
    ):
        """length: items of the data set, > 0; start_step: the first batch to give; unique_draws: add length * epoch to
        an index, for a data set that samples anew in every epoch.
        """
        assert length > 0 and batch_size > 0 and 0 <= rank < world_size
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.start_step, self.unique_draws = rank, world_size, start_step, unique_draws
        self._epoch, self._order = -1, []

    def _permutation(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._epoch, self._order = epoch, torch.randperm(self.length, generator=generator).tolist()
        return self._order

    def batch(self, step: int) -> list[int]:
        """The indices of batch `step` on this rank."""
        first = (step * self.world_size + self.rank) * self.batch_size
        return [
            self._permutation(place // self.length)[place % self.length]
            + (place - place % self.length if self.unique_draws else 0)
            for place in range(first, first + self.batch_size)
        ]

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start_step
        while True:
            yield self.batch(step)
            step += 1


class DanceData(LightningDataModule):
    """A source's clips as train and validation loaders for the stages that will read them."""

    def __init__(
        self,
        source: DataSource,
        encoder: MusicEncoder,
        stages_needs: Mapping[str, Iterable[str]],
        batch_size: int,
        seed: int = 0,
        clip: WindowSpec | None = None,
        workers: int = 0,
        val_items: int = 256,
        start_step: int | None = None,
    ):
        """stages_needs: stage name -> keys it reads; batch_size: per process; workers: loader processes.

        val_items: at most so many held-out clips, spread evenly; start_step: first training batch, None for the
        trainer's own step (what a resumed run wants). Raises ValueError when the source lacks a key a stage needs.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        for stage, needs in stages_needs.items():
            provided = source.provides
            require(needs, provided, stage, source.name, source.remedy(frozenset(needs) - provided))
        self.source, self.encoder, self.clip = source, encoder, clip or WindowSpec(seconds=5.0)
        self.needs = frozenset(key for needs in stages_needs.values() for key in needs)
        self.batch_size, self.seed, self.workers, self.val_items = batch_size, seed, workers, val_items
        self.start_step = start_step
        self._datasets: dict[str, Dataset] = {}

    def prepare_data(self) -> None:
        """Lightning calls this on one process a node, before `setup`."""
        self.source.prepare(self.needs, self.encoder)

    def dataset(self, split: str) -> Dataset:
        """The split's items; made once. Raises ValueError when the split is empty."""
        assert split in SPLITS, split
        if split not in self._datasets:
            made = self.source.dataset(split, self.needs, self.clip, self.encoder)
            if len(made) == 0:
                raise ValueError(
                    f"data '{self.source.name}' has no {split} clip of {self.clip.seconds:g} s: ask for more or longer "
                    "songs, or for a shorter clip (clip.seconds)"
                )
            self._datasets[split] = made
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader:
        """Endless; its first batch is batch `start_step`."""
        rank, world_size = self._place()
        start = self.start_step
        if start is None:
            start = self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0
        dataset = self.dataset("train")
        unique_draws = self.clip.num_sampled_frames is not None
        order = StepSampler(len(dataset), self.batch_size, self.seed, rank, world_size, start, unique_draws)
        return self._loader(dataset, order)

    def val_dataloader(self) -> DataLoader:
        """Finite, always the same: at most `val_items` clips spread over the held-out split, shared by the ranks."""
        return self._loader(*self._spread("val", self.val_items))

    def batches(self) -> Iterator[Batch]:
        """One pass over training clips in a fixed order, for `Stage.prepare`: every clip, or 4096 spread evenly."""
        yield from self._loader(*self._spread("train", 4096, everywhere=True))

    def _place(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _spread(self, split: str, count: int, everywhere: bool = False) -> tuple[Dataset, list[list[int]]]:
        """Batches of at most `count` evenly spread indices; ranks get equally many (`everywhere`: all of them each)."""
        rank, world_size = (0, 1) if everywhere else self._place()
        dataset = self.dataset(split)
        count = min(count, len(dataset))
        chosen = [index * len(dataset) // count for index in range(count)]
        each = max(1, count // world_size)  # equal shares: an uneven last batch would leave a rank waiting for ever
        mine = [chosen[(rank * each + index) % count] for index in range(each)]
        return dataset, [mine[first : first + self.batch_size] for first in range(0, len(mine), self.batch_size)]

    def _loader(self, dataset: Dataset, batches: Iterable[list[int]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )
