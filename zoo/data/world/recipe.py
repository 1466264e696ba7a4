"""What a world is made from: settings that decide the content of its shards, and seeds that belong to names."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


def seed_of(*labels: str | int) -> int:
    """A seed that belongs to these labels and to no others."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, labels)).encode()).digest()[:7], "little")


@dataclass(frozen=True)
class Recipe:
    """The dances: the world's seed, seconds of a song, dances to each song, dancers in each split."""

    seed: int
    seconds: float
    dances_per_song: int
    dancers: Mapping[str, int]


@dataclass(frozen=True)
class Filming:
    """How dances become clips: pictures of height x width at fps, `clips_per_dance` clips of `seconds` from each dance.

    songs: how many songs of a split are filmed, at most as many as there are (whole shards of 8 songs). Raises
    ValueError for values that are not positive, and for sides that are not multiples of 4.
    """

    fps: int = 12
    height: int = 128
    width: int = 128
    seconds: float = 4.0
    clips_per_dance: int = 1
    songs: Mapping[str, int] = field(default_factory=lambda: {"train": 64, "val": 8, "test": 32})

    def __post_init__(self):
        for name in ("fps", "height", "width", "seconds", "clips_per_dance"):
            if getattr(self, name) <= 0:
                raise ValueError(f"data.filming.{name} must be above 0, not {getattr(self, name)}")
        if self.height % 4 or self.width % 4:
            raise ValueError(f"data.filming height and width must be multiples of 4, not {self.height}x{self.width}")

    @property
    def frames(self) -> int:
        """F: frames of one clip."""
        return max(1, round(self.seconds * self.fps))

    def content(self) -> dict:
        """The settings that decide what is in a shard of clips; how many songs are filmed does not."""
        return {name: getattr(self, name) for name in ("fps", "height", "width", "seconds", "clips_per_dance")}
