"""The settings that decide the content of the world's shards, and seeds derived from names."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field


def seed_of(*labels: str | int) -> int:
    """A seed that belongs to these labels and to no others."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, labels)).encode()).digest()[:7], "little")


@dataclass(frozen=True)
class DanceSpec:
    """The dances: the world's seed, seconds of a song, dances to each song, dancers in each split."""

    seed: int
    seconds: float
    dances_per_song: int
    dancers: Mapping[str, int]


@dataclass(frozen=True)
class RenderSpec:
    """How dances become clips: frames of height x width at fps, `clips_per_dance` clips of `seconds` from each dance.

    songs: how many songs of a split are rendered, at most as many as there are (whole shards of 8 songs). Raises
    ValueError for values that are not positive, and for sides that are not multiples of 4.
    """

    fps: int = 12
    height: int = 128
    width: int = 128
    seconds: float = 4.0
    clips_per_dance: int = 1
    songs: Mapping[str, int] = field(default_factory=lambda: {"train": 64, "val": 8, "test": 32})

    def __post_init__(self) -> None:
        for name in ("fps", "height", "width", "seconds", "clips_per_dance"):
            if getattr(self, name) <= 0:
                raise ValueError(f"data.rendering.{name} must be above 0, not {getattr(self, name)}")
        if self.height % 4 or self.width % 4:
            raise ValueError(f"data.rendering height and width must be multiples of 4, not {self.height}x{self.width}")

    @property
    def num_frames(self) -> int:
        """F: frames of one clip."""
        return max(1, round(self.seconds * self.fps))

    def content_settings(self) -> dict:
        """The settings that decide the content of a shard of clips; the number of rendered songs does not."""
        return {name: getattr(self, name) for name in ("fps", "height", "width", "seconds", "clips_per_dance")}
