"""Division of the clips of one optimiser step into batches of processes."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GlobalBatch:
    """`num_clips` clips, divided into `num_batches` batches (gradient accumulation) on each of `world_size` processes.

    The shares of the processes differ by at most one clip, and so do the batches of one process. The step's clips are
    consecutive: batch 0 of every rank in turn, then batch 1 and so on.
    """

    num_clips: int
    world_size: int
    num_batches: int

    def __post_init__(self) -> None:
        assert 0 < self.world_size <= self.num_clips and self.num_batches > 0, self

    @classmethod
    def divide(cls, num_clips: int, world_size: int, max_batch_size: int) -> "GlobalBatch":
        """Use the fewest batches of at most `max_batch_size` clips. Raises ValueError for more processes than clips."""
        if num_clips < world_size:
            equal_sizes = [str(size) for size in range(1, num_clips + 1) if num_clips % size == 0]
            raise ValueError(
                f"global_batch_size={num_clips} gives some of {world_size} processes no clip: use at most {num_clips} "
                f"processes (equal shares: {', '.join(equal_sizes)})"
            )
        largest_share = -(-num_clips // world_size)
        return cls(num_clips, world_size, -(-largest_share // max_batch_size))

    @property
    def batch_size(self) -> int:
        """Clips of the largest batch."""
        largest_share = -(-self.num_clips // self.world_size)
        return -(-largest_share // self.num_batches)

    def count(self, rank: int, index: int) -> int:
        """Clips of batch `index` of a rank; 0 where its share has fewer clips than `num_batches`."""
        share = self.num_clips // self.world_size + (rank < self.num_clips % self.world_size)
        return share // self.num_batches + (index < share % self.num_batches)

    def offset(self, rank: int, index: int) -> int:
        """Position, among the step's clips, of the first clip of batch `index` of a rank."""
        previous = [(other, index) for other in range(rank)]
        previous += [(other, earlier) for earlier in range(index) for other in range(self.world_size)]
        return sum(self.count(*batch) for batch in previous)

    def loss_weight(self, rank: int, index: int) -> float:
        """Factor of the mean loss of a batch: 1 for equal batches.

        Gradients are averaged over processes and over batches. With this factor the result is the mean over all clips.
        """
        return self.count(rank, index) * self.world_size * self.num_batches / self.num_clips

    def __str__(self) -> str:
        smallest = max(1, self.num_clips // self.world_size // self.num_batches)
        sizes = f"{smallest} to {self.batch_size}" if smallest < self.batch_size else f"{smallest}"
        text = f"{self.num_clips} clips a step"
        if self.world_size > 1 or self.num_batches > 1:
            text += f": {self.world_size} process{'es' * (self.world_size > 1)} x {sizes}"
        return text + (f" x {self.num_batches} batches" if self.num_batches > 1 else "")
