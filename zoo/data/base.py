"""The data contract: a data source describes its clips and yields training items and evaluation clips.

Adding a data set is one file with a `DataSource` and one YAML in `conf/data/`.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from fractions import Fraction
from math import floor
from typing import Any, cast, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from zoo.batch import Batch, check_required_keys
from zoo.music.encoder import MusicEncoder, MusicFeatures

SPLITS = ("train", "val", "test")  # disjoint in songs and, where the data knows them, in dancers
IMAGE_KEYS = frozenset(
    "reference frames parts semantic depth normal skeleton heatmaps joints2d camera".split()
)  # keys that need rendered or recorded frames; all others are sound, motion and text
CROPS = ("whole", "centre", "dancer")


@dataclass(frozen=True)
class WindowSpec:
    """The window of a clip that one training item covers; `clip:` in the configuration of a stage.

    The length is `num_frames` video frames, or `seconds`; give exactly one of them, the other one follows. Frames are
    height x width pixels at `fps` (a number, or a text such as '30000/1001'). Consecutive windows of one clip start
    `stride` seconds apart (EDGE: 0.5 s in training, 2.5 s in test).
    num_sampled_frames: give only this many frames of the window, drawn anew each time and in random order, for stages
    that train on single frames; sound and motion stay whole.
    decoded_cache_size: clips whose decoded frames and maps stay in the memory of a training process and its loaders (of
    4 s of 128x128 at 12 fps: 3 MB of frames, 18 MB with all guidance maps), as long as they take less than
    DECODED_CACHE_BYTES.
    Raises ValueError for values that are not positive, for more sampled frames than frames, for sides that are not
    multiples of 4 (heat maps have a quarter of the resolution), and for two lengths or none.
    """

    seconds: float = cast(float, None)  # None: follows from num_frames
    fps: float | str | Fraction = 30
    height: int = 128
    width: int = 128
    stride: float = 0.5
    held_out_stride: float = 2.5  # for val and test
    num_sampled_frames: int | None = None
    decoded_cache_size: int = 0
    num_frames: int = cast(int, None)  # None: follows from seconds
    _is_exact: bool = field(init=False, repr=False, default=False)  # the length was given in frames

    def __post_init__(self) -> None:
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
        object.__setattr__(self, "_is_exact", self.num_frames is not None)
        if self._is_exact:
            object.__setattr__(self, "seconds", float(self.num_frames / self.rate))
        else:
            object.__setattr__(self, "num_frames", max(1, round(Fraction(str(self.seconds)) * self.rate)))
        if self.num_sampled_frames is not None and not 1 <= self.num_sampled_frames <= self.num_frames:
            raise ValueError(f"clip.num_sampled_frames={self.num_sampled_frames} of a clip of {self.num_frames} frames")

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return Fraction(str(self.fps))

    def num_tokens(self, rate: float) -> int:
        """Values in one window of a signal of `rate` Hz: L of music, T of motion. Halves of exact lengths round up."""
        if self._is_exact:
            return max(1, floor(self.num_frames / self.rate * Fraction(rate) + Fraction(1, 2)))
        return max(1, round(self.seconds * rate))

    def window_starts(self, duration: float, split: str) -> list[float]:
        """Start times, seconds, of the windows in a clip of `duration` seconds; empty when it is too short for one."""
        stride = self.stride if split == "train" else self.held_out_stride
        last_start = duration - self.seconds + 1e-6
        return [index * stride for index in range(int(last_start / stride) + 1)] if last_start >= 0 else []


@dataclass(frozen=True)
class EvalSpec:
    """How clips are cut for evaluation: `frames` images of height x width at `fps`, at most `clips` of them.

    crop: 'whole' (the data's own framing), 'centre' (the largest centred part of these proportions), 'dancer' (one box
    around the figure for the whole clip). Raises ValueError for values that are not positive and for another crop.
    """

    frames: int
    fps: float | str | Fraction
    height: int
    width: int
    clips: int | None = None
    crop: str = "whole"

    def __post_init__(self) -> None:
        for name in ("frames", "rate", "height", "width"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name.replace('rate', 'fps')} must be above 0, not {getattr(self, name)}")
        if self.clips is not None and self.clips < 1:
            raise ValueError(f"clips must be at least 1, not {self.clips}")
        if self.crop not in CROPS:
            raise ValueError(f"crop={self.crop}: use whole, centre or dancer")

    @property
    def rate(self) -> Fraction:
        """Frames a second, exactly."""
        return Fraction(str(self.fps))

    @property
    def seconds(self) -> Fraction:
        """Length of one clip, exactly."""
        return self.frames / self.rate


@dataclass(frozen=True)
class EvalClip:
    """One clip to evaluate on: the inputs of a model and the recorded dance. Times count from the clip's start."""

    key: str
    labels: dict[str, str]  # song, dancer, style, camera, move, figure where the data knows them
    caption: str  # '' where the data has none
    reference: np.ndarray  # (H, W, 3) uint8
    frames: np.ndarray  # (F, H, W, 3) uint8
    music: MusicFeatures  # of the encoder in use, cut from the whole song
    waveform: np.ndarray  # (S,) float32, exactly the time of the clip
    sample_rate: int
    beats: np.ndarray  # (N,) float64 seconds: the true beats where the data knows them, else the detected ones
    motion: Tensor | None = None  # (T, 151) at MOTION_FPS
    second_motion: Tensor | None = None  # another dancer's motion to the same seconds of the same song
    joints2d: np.ndarray | None = None  # (F, 24, 2) float32 pixels of `frames`


class EvalClips(Sequence[EvalClip]):
    """Clips in a fixed order, decoded on access; their keys and labels are known without decoding.

    keys, labels: of every clip. skipped: (key, reason) of the clips that cannot be used.
    """

    keys: list[str]
    labels: list[dict[str, str]]
    skipped: list[tuple[str, str]]

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, index: int) -> EvalClip: ...

    @overload
    def __getitem__(self, index: slice) -> list[EvalClip]: ...

    def __getitem__(self, index: int | slice) -> EvalClip | list[EvalClip]:
        if isinstance(index, slice):
            return [self.load(position) for position in range(*index.indices(len(self)))]
        return self.load(range(len(self))[index])

    @abstractmethod
    def load(self, index: int) -> EvalClip:
        """Decode the clip at `index`, from 0 up."""


class ItemDataset(Dataset, Sized):
    """A map-style dataset with a length."""


class DataSource(ABC):
    """A named source of clips.

    `available_keys` are the keys of `zoo.batch.Batch` it can fill; `hint` names a source of the keys it lacks.
    """

    name: str
    hint: str = "use data=world, which has every key"
    motion_follows_music: bool = True  # False: a song does not decide its motion, dancers choose their moves

    @property
    @abstractmethod
    def available_keys(self) -> frozenset[str]:
        """Keys of the batch contract this source can fill. Raises ValueError when its files cannot be read."""

    def missing_keys_hint(self, missing: frozenset[str]) -> str:
        """Say where the missing keys can be had."""
        return self.hint

    def check_window(self, keys: Iterable[str], window: WindowSpec) -> None:  # noqa: B027 (optional)
        """Raise ValueError, one line, when windows with these keys cannot be cut from the clips. Makes nothing.

        A source that learns this only while it prepares its data passes here and refuses in `dataset`.
        """

    @abstractmethod
    def prepare_data(self, keys: Iterable[str], encoder: MusicEncoder, splits: Iterable[str] = SPLITS) -> None:
        """Make or download the data of `keys` and `splits`, once, with a progress bar; called once per node."""

    @abstractmethod
    def dataset(self, split: str, keys: Iterable[str], window: WindowSpec, encoder: MusicEncoder) -> ItemDataset:
        """Map-style dataset of items: dicts of tensors without a batch dimension, and texts.

        Call `prepare_data` before.
        """

    @abstractmethod
    def eval_clips(self, split: str, spec: EvalSpec, encoder: MusicEncoder) -> EvalClips:
        """The first `spec.clips` clips of a split for evaluation.

        Prepares the data it needs. Raises ValueError when the data cannot be cut according to `spec`.
        """

    @abstractmethod
    def fingerprint(self, split: str) -> str:
        """Hash the content of the split's clips (12 hex digits): equal content has equal hashes on any machine."""


def check_stage_data(
    source: DataSource,
    stages: Mapping[str, tuple[Iterable[str], WindowSpec]],
    regresses_motion: Collection[str] = (),
) -> None:
    """Refuse a source that cannot feed the stages of a recipe, before the first one starts. Makes no data.

    stages: name -> (required keys, window); regresses_motion: names of the stages that learn one motion for each song.
    Raises ValueError, one line, with the stage and the missing keys, the setting of its window (frame rate, length,
    proportions) that the clips do not have, or motion that does not follow the music.
    """
    for stage, (keys, window) in stages.items():
        if stage in regresses_motion and not source.motion_follows_music:
            raise ValueError(
                f"stage '{stage}' learns one motion for each song, but dancers of data={source.name} choose their "
                "moves: use data=sdgpip"
            )
        required = frozenset(keys)
        available = source.available_keys
        hint = source.missing_keys_hint(required - available)
        check_required_keys(required, available, stage, source.name, hint)
        try:
            source.check_window(required, window)
        except ValueError as error:
            raise ValueError(f"stage '{stage}': {error}") from None


def collate(items: list[dict] | Batch) -> Batch:
    """Stack tensors and list texts of items; `fps` and `music_rate`, equal in all items, stay single numbers.

    A batch from a data set that builds whole batches (`__getitems__`) passes unchanged.
    """
    if isinstance(items, dict):
        return items
    batch: dict[str, Any] = {}
    for name, first_value in items[0].items():
        values = [item[name] for item in items]
        if isinstance(first_value, Tensor):
            batch[name] = torch.stack(values)
        else:
            batch[name] = values if isinstance(first_value, str) else first_value
    return cast(Batch, batch)
