"""The data contract: what a source of clips says about itself and gives, and how its items become a `zoo.batch.Batch`.

Adding a data set is one file with a `DataSource` and one YAML in `conf/data/`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.batch import Batch
from zoo.music.encoder import MusicEncoder, MusicFeatures

SPLITS = ("train", "val", "test")  # disjoint in songs and, where the data knows them, in dancers
PICTURES = frozenset(
    "reference frames parts semantic depth normal skeleton heatmaps joints2d camera".split()
)  # keys that need rendered or filmed frames; everything else is sound, motion and words


@dataclass(frozen=True)
class WindowSpec:
    """The window of a clip that one training item covers.

    The length is `num_frames` video frames, or `seconds`; give exactly one of them, the other one follows. Frames are
    height x width pixels at `fps` (a number, or a text such as '30000/1001'). Consecutive windows of one clip start
    `stride` seconds apart (EDGE: 0.5 s in training, 2.5 s in test).
    num_sampled_frames: give only this many frames of the window, drawn anew each time and in random order, for stages
    that train on single frames; sound and motion stay whole.
    decoded_cache_size: clips whose decoded frames stay in each process's memory (3 MB for 4 s of 128x128 at 12 fps).
    Raises ValueError for values that are not positive, for more sampled frames than frames, for sides that are not
    multiples of 4 (heat maps have a quarter of the resolution), and for two lengths or none.
    """

    seconds: float | None = None
    fps: float | str | Fraction = 30
    height: int = 128
    width: int = 128
    stride: float = 0.5
    held_out_stride: float = 2.5  # for val and test
    num_sampled_frames: int | None = None
    decoded_cache_size: int = 0
    num_frames: int | None = None

    def __post_init__(self):
        if (self.seconds is None) == (self.num_frames is None):
            raise ValueError(
                f"give clip.num_frames or clip.seconds, not both (num_frames={self.num_frames}, seconds={self.seconds})"
            )
        if self.num_frames is not None and self.num_frames != int(self.num_frames):
            raise ValueError(f"clip.num_frames must be a whole number, not {self.num_frames}")
        for name in ("seconds", "num_frames", "rate", "height", "width", "stride", "held_out_stride"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"clip.{name.replace('rate', 'fps')} must be above 0, not {value}")
        if self.height % 4 or self.width % 4:
            raise ValueError(f"clip height and width must be multiples of 4, not {self.height}x{self.width}")
        exact = self.num_frames is not None
        if exact:
            object.__setattr__(self, "seconds", float(self.num_frames / self.rate))
        else:
            object.__setattr__(self, "num_frames", max(1, round(Fraction(str(self.seconds)) * self.rate)))
        object.__setattr__(self, "_exact", exact)
        if self.num_sampled_frames is not None and not 1 <= self.num_sampled_frames <= self.num_frames:
            raise ValueError(f"clip.num_sampled_frames={self.num_sampled_frames} of a clip of {self.num_frames} frames")

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return Fraction(str(self.fps))

    def tokens(self, rate: float) -> int:
        """Values in one window of a signal of `rate` Hz: L of music, T of motion. Halves are rounded up."""
        if self._exact:
            return max(1, floor(self.num_frames / self.rate * Fraction(rate) + Fraction(1, 2)))
        return max(1, round(self.seconds * rate))

    def starts(self, duration: float, split: str) -> list[float]:
        """Start times, seconds, of the windows in a clip of `duration` seconds; empty when it is too short for one."""
        stride = self.stride if split == "train" else self.held_out_stride
        last = duration - self.seconds + 1e-6
        return [index * stride for index in range(int(last / stride) + 1)] if last >= 0 else []


@dataclass(frozen=True)
class Piece:
    """One whole dance to one whole song, for evaluation."""

    key: str
    labels: dict[str, str]  # song, dancer, style
    music: MusicFeatures  # of the configured encoder; `beats` are those found in the sound
    beats: np.ndarray  # (N,) float64 seconds: the true beats where the data knows them, else those found
    motion: Tensor  # (T, 151) float32 at MOTION_FPS
    waveform: np.ndarray  # (S,) float32
    sample_rate: int


@dataclass(frozen=True)
class Cut:
    """How clips are cut for evaluation: `frames` pictures of height x width at `fps`, at most `clips` of them.

    crop: 'whole' (the data's own framing), 'centre' (the largest centred part of these proportions), 'dancer' (a still
    box around the figure over the clip). Raises ValueError for values that are not positive and for another crop.
    """

    frames: int
    fps: float | str | Fraction
    height: int
    width: int
    clips: int | None = None
    crop: str = "whole"

    def __post_init__(self):
        for name in ("frames", "rate", "height", "width"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name.replace('rate', 'fps')} must be above 0, not {getattr(self, name)}")
        if self.clips is not None and self.clips < 1:
            raise ValueError(f"clips must be at least 1, not {self.clips}")
        if self.crop not in ("whole", "centre", "dancer"):
            raise ValueError(f"crop={self.crop}: use whole, centre or dancer")

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return Fraction(str(self.fps))

    @property
    def seconds(self) -> Fraction:
        """Of one clip, exactly."""
        return self.frames / self.rate


@dataclass(frozen=True)
class Take:
    """One clip to evaluate on: what a model is given, and what was really danced. Times count from the clip's start."""

    key: str
    labels: dict[str, str]  # song, dancer, style, camera, move, figure where the data knows them
    caption: str  # '' where the data has none
    reference: np.ndarray  # (H, W, 3) uint8
    frames: np.ndarray  # (F, H, W, 3) uint8
    music: MusicFeatures  # of the encoder asked for, cut from the whole song
    waveform: np.ndarray  # (S,) float32, the clip's time exactly
    sample_rate: int
    beats: np.ndarray  # (N,) float64 seconds: the true beats where the data knows them, else those found
    motion: Tensor | None = None  # (T, 151) at MOTION_FPS
    motion_again: Tensor | None = None  # another dancer's motion to the same seconds of the same song
    joints2d: np.ndarray | None = None  # (F, 24, 2) float32 pixels of `frames`


class Takes(Sequence[Take]):
    """Clips in a fixed order, each decoded when it is asked for; what they are called is known before.

    keys, labels: of every take. skipped: (key, reason) of the clips that are there but cannot be had.
    """

    keys: list[str]
    labels: list[dict[str, str]]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self.take(one) for one in range(*index.indices(len(self)))]
        return self.take(range(len(self))[index])

    @abstractmethod
    def take(self, index: int) -> Take:
        """The clip at `index`, from 0 up."""


class DataSource(ABC):
    """A named source of clips.

    `provides` are the keys of `zoo.batch.Batch` it can fill; `hint` says what would provide the ones it cannot.
    """

    name: str
    hint: str = "use data=world, which has every key"

    @property
    @abstractmethod
    def provides(self) -> frozenset[str]:
        """Keys of the batch contract this source can fill. Raises ValueError when its files cannot be read."""

    def remedy(self, missing: frozenset[str]) -> str:
        """What would provide keys that it lacks."""
        return self.hint

    @abstractmethod
    def prepare(self, needs: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Make or fetch what `needs` asks for of `splits`, once, with a progress bar; called on one process a node."""

    @abstractmethod
    def dataset(self, split: str, needs: Iterable[str], clip: WindowSpec, encoder: MusicEncoder) -> Dataset:
        """Map-style dataset of items: dicts of tensors without a batch dimension, and texts. Call `prepare` before."""

    @abstractmethod
    def pieces(self, split: str, encoder: MusicEncoder) -> Iterator[Piece]:
        """Whole dances of a split, in a fixed order, to evaluate on. `prepare` motion and music before."""

    @abstractmethod
    def takes(self, split: str, cut: Cut, encoder: MusicEncoder) -> Takes:
        """The first `cut.clips` clips of a split for evaluation.

        Makes or fetches what it needs by itself. Raises ValueError when the data cannot be cut so.
        """

    @abstractmethod
    def content(self, split: str) -> str:
        """A hash (12 hex digits) of what the split's clips hold: equal content, equal hash, wherever it was made."""


def collate(items: list[dict] | Batch) -> Batch:
    """Items to a batch: tensors are stacked, texts listed, `fps` and `music_rate` (one value in a data set) kept once.

    A data set that makes whole batches by itself (`__getitems__`) is passed through.
    """
    if isinstance(items, dict):
        return items
    batch = {}
    for name, first in items[0].items():
        values = [item[name] for item in items]
        if isinstance(first, Tensor):
            batch[name] = torch.stack(values)
        else:
            batch[name] = values if isinstance(first, str) else first
    return batch
