"""The Lightning data module: a source's clips in an order that depends on (seed, step, rank) alone.

Because batch k is a function of k, a run that was killed and resumed at step k reads exactly the batches of the
uninterrupted run, whatever was prefetched when it died. Use it with `Trainer(use_distributed_sampler=False)`: the
sampler here already gives every rank its own part.
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from lightning import LightningDataModule
from torch.utils.data import DataLoader, Sampler

from zoo.batch import Batch, check_required_keys
from zoo.data.base import SPLITS, DataSource, ItemDataset, WindowSpec, collate
from zoo.data.global_batch import GlobalBatch
from zoo.music.encoder import MusicEncoder

MAX_NORMALIZER_ITEMS = 4096  # largest number of training windows that `Stage.fit_normalizers` sees


class StepSampler(Sampler[list[int]]):
    """Endless batches of indices, batch k being a closed form of (seed, k, rank, world_size).

    The epochs' permutations, each from a generator seeded by (seed, epoch), form one endless sequence. The k-th step
    has its k-th stretch of `global_batch.num_clips` positions, and each rank takes its own part. Nothing is dropped.
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
        global_batch: GlobalBatch | None = None,
    ):
        """length: items of the data set, > 0; start_step: the first batch to give; unique_draws: add length * epoch to
        an index, for a data set that samples anew in every epoch. global_batch: division of a step into batches; None
        is one batch of `batch_size` on each rank.
        """
        assert length > 0 and batch_size > 0 and 0 <= rank < world_size
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size, self.start_step = rank, world_size, start_step
        self.unique_draws = unique_draws
        self.global_batch = global_batch or GlobalBatch(batch_size * world_size, world_size, 1)
        assert self.global_batch.world_size == world_size
        self._epoch = -1
        self._order: list[int] = []

    def _permutation(self, epoch: int) -> list[int]:
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed((self.seed * 1_000_003 + epoch) % 2**63)
            self._epoch, self._order = epoch, torch.randperm(self.length, generator=generator).tolist()
        return self._order

    def batch(self, batch_number: int) -> list[int]:
        """The indices of batch `batch_number` on this rank. A batch without clips has one, whose loss weighs 0."""
        optimizer_step, batch_index = divmod(batch_number, self.global_batch.num_batches)
        first_position = optimizer_step * self.global_batch.num_clips + self.global_batch.offset(self.rank, batch_index)
        indices = []
        for position in range(first_position, first_position + max(1, self.global_batch.count(self.rank, batch_index))):
            epoch, position_in_epoch = divmod(position, self.length)
            index = self._permutation(epoch)[position_in_epoch]
            indices.append(index + epoch * self.length if self.unique_draws else index)
        return indices

    def __iter__(self) -> Iterator[list[int]]:
        batch_number = self.start_step
        while True:
            yield self.batch(batch_number)
            batch_number += 1


class DanceData(LightningDataModule):
    """A source's clips as train and validation loaders for the stages that will read them."""

    def __init__(
        self,
        source: DataSource,
        encoder: MusicEncoder,
        stage_keys: Mapping[str, Iterable[str]],
        batch_size: int,
        window: WindowSpec,
        seed: int = 0,
        num_workers: int = 0,
        val_items: int = 256,
        start_step: int | None = None,
        global_batch: GlobalBatch | None = None,
    ):
        """stage_keys: stage name -> keys it requires; batch_size: per process; num_workers: loader processes.

        global_batch: division of the training clips of a step; None is one batch of `batch_size` for each process.
        val_items: maximum number of held-out windows, spread evenly; start_step: first training batch, None for the
        trainer's own step (for a resumed run). Raises ValueError when the source lacks a key that a stage requires.
        """
        super().__init__()
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, not {batch_size}")
        for stage, keys in stage_keys.items():
            available = source.available_keys
            hint = source.missing_keys_hint(frozenset(keys) - available)
            check_required_keys(keys, available, stage, source.name, hint)
        self.source, self.encoder, self.window = source, encoder, window
        self.required_keys = frozenset(key for keys in stage_keys.values() for key in keys)
        self.batch_size, self.seed, self.num_workers, self.val_items = batch_size, seed, num_workers, val_items
        self.start_step, self.global_batch = start_step, global_batch
        self._datasets: dict[str, ItemDataset] = {}

    def prepare_data(self) -> None:
        """Make or download the data; Lightning calls this on one process per node, before `setup`."""
        self.source.prepare_data(self.required_keys, self.encoder)

    def dataset(self, split: str) -> ItemDataset:
        """The split's items, built once. Raises ValueError when the split is empty."""
        assert split in SPLITS, split
        if split not in self._datasets:
            dataset = self.source.dataset(split, self.required_keys, self.window, self.encoder)
            if len(dataset) == 0:
                raise ValueError(
                    f"data '{self.source.name}' has no {split} clip of {self.window.seconds:g} s: use more or longer "
                    "songs, or a shorter clip (clip.num_frames or clip.seconds)"
                )
            self._datasets[split] = dataset
        return self._datasets[split]

    def train_dataloader(self) -> DataLoader:
        """Endless; its first batch is batch `start_step`."""
        rank, world_size = self._rank_and_world_size()
        start_step = self.start_step
        if start_step is None:
            start_step = self.trainer.global_step * self.trainer.accumulate_grad_batches if self.trainer else 0
        dataset = self.dataset("train")
        unique_draws = self.window.num_sampled_frames is not None
        sampler = StepSampler(
            len(dataset), self.batch_size, self.seed, rank, world_size, start_step, unique_draws, self.global_batch
        )
        return self._loader(dataset, sampler)

    def loss_weight(self, batch_index: int) -> float:
        """Factor of this rank's mean loss of batch `batch_index` of a step, see `GlobalBatch.loss_weight`."""
        return (
            1.0 if self.global_batch is None else self.global_batch.loss_weight(self.trainer.global_rank, batch_index)
        )

    def sample_positions(self, batch_index: int) -> range:
        """Positions, among the step's clips, of the clips of this rank's batch `batch_index` of a step."""
        rank, world_size = self._rank_and_world_size()
        global_batch = self.global_batch or GlobalBatch(self.batch_size * world_size, world_size, 1)
        first = global_batch.offset(rank, batch_index)
        return range(first, first + max(1, global_batch.count(rank, batch_index)))

    def val_dataloader(self) -> DataLoader:
        """Finite, always the same: at most `val_items` windows spread over the held-out split, shared by the ranks."""
        return self._loader(*self._even_subset("val", self.val_items))

    def batches(self) -> Iterator[Batch]:
        """One pass over training windows in a fixed order, for `Stage.fit_normalizers`: all, or 4096 spread evenly."""
        yield from self._loader(*self._even_subset("train", MAX_NORMALIZER_ITEMS, all_ranks_equal=True))

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _even_subset(
        self, split: str, count: int, all_ranks_equal: bool = False
    ) -> tuple[ItemDataset, list[list[int]]]:
        """Batches of at most `count` evenly spread indices: as many for each rank, or the same for all of them."""
        rank, world_size = (0, 1) if all_ranks_equal else self._rank_and_world_size()
        dataset = self.dataset(split)
        count = min(count, len(dataset))
        spread_indices = [index * len(dataset) // count for index in range(count)]
        num_per_rank = max(
            1, count // world_size
        )  # equal counts: an uneven last batch would leave a rank waiting forever
        own_indices = [spread_indices[(rank * num_per_rank + index) % count] for index in range(num_per_rank)]
        batch_size = self.batch_size
        return dataset, [own_indices[first : first + batch_size] for first in range(0, len(own_indices), batch_size)]

    def _loader(self, dataset: ItemDataset, batches: Iterable[list[int]]) -> DataLoader:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self.num_workers,
            collate_fn=collate,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=False,
        )
