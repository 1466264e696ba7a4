"""The interface of a metric: it measures one clip at a time, and combines measurements into a system's values.

A new metric is one file with a `ClipMetric` or a `SetMetric`, and a YAML in `conf/metric/` that names the class. All
systems are measured alike: a metric receives frames decoded from a file, whichever system wrote them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from zoo.body.detection.base import PoseDetector, Poses

Measurement = Mapping[str, np.ndarray]  # of one clip: name -> values
STILL_IMAGE, OTHER_SONG = "frozen reference", "other song"  # names of the two baselines in the table
TIME_SUFFIX = "@time"  # column + TIME_SUFFIX: the column's value at every frame
Result = TypeVar("Result")


@dataclass(frozen=True)
class MetricInput:
    """One clip of one system, with its ground truth. Joints are SMPL's 24 (zoo.body.skeleton)."""

    key: str
    labels: Mapping[str, str]  # song, dancer, style, camera, where the data has them
    fps: Fraction
    frames: np.ndarray  # (F, H, W, 3) uint8
    true_frames: np.ndarray  # (F, H, W, 3) uint8: the ground truth's
    reference: np.ndarray  # (H, W, 3) uint8: the image that the dance was generated from
    waveform: np.ndarray  # (S,) float32: the music of exactly the clip's time
    sample_rate: int
    beats: np.ndarray  # (N,) float64 seconds from the clip's start: the music's beats
    joints: np.ndarray | None = None  # (T, 24, 3) metres at `zoo.batch.MOTION_FPS`: the exact motion, if any
    second_joints: np.ndarray | None = None  # the same of a second dance to the same clip (other seed or dancer)
    detector: PoseDetector | None = None  # detects joints in frames; None where no detector fits this data
    caption: str = ""  # describes the motion; '' where the data has none
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def cached(self, key: Any, compute: Callable[[], Result]) -> Result:
        """Return `compute()`, computed once for all metrics that use the same `key`."""
        if key not in self._cache:
            self._cache[key] = compute()
        return self._cache[key]

    @property
    def poses(self) -> Poses:
        """The joints and the figure's mask that `detector` detects in `frames`."""
        assert self.detector is not None, "a metric that uses poses lists 'detector' in `required_inputs`"
        return self.cached("poses", lambda: self.detector.detect(self.frames))


@dataclass(frozen=True)
class Column:
    """One column of the table.

    better: the good direction, None where there is none; must_beat: baselines that the ground truth has to beat here
    (a self-check of the metric).
    """

    heading: str
    better: Literal["higher", "lower"] | None
    digits: int = 3
    unit: str = ""
    must_beat: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """Heading, unit and arrow."""
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[self.better]
        return f"{self.heading}{f', {self.unit}' if self.unit else ''}{arrow}"


class Metric(ABC):
    """Measures clips. Subclass `ClipMetric` or `SetMetric`.

    required_inputs: optional fields of `MetricInput` that it needs, of 'joints', 'second_joints', 'beats', 'caption',
    'detector'.
    version: to be increased when the values change, so that stored measurements are not reused.
    in_protocol_hash: whether the metric's identity is part of the protocol's hash. Metrics that came after the
    protocols were frozen are not, so that older tables stay comparable; the table gives their own fingerprint.
    needs_exact_motion: it compares with the ground truth's motion, so that metrics=all has it under protocols with
    `exact_motion` alone.
    """

    columns: ClassVar[Mapping[str, Column]]
    required_inputs: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1
    in_protocol_hash: ClassVar[bool] = True
    needs_exact_motion: ClassVar[bool] = False

    @property
    def unavailable_reason(self) -> str | None:
        """Why this cannot be measured here and how to get the missing files, in one line; None where it can."""
        return None

    @property
    def weights_hash(self) -> str | None:
        """The hash (sha256, 12 digits) of the feature network's weights, None where there is no network."""
        return None

    @abstractmethod
    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip. Returns small arrays, which are stored; NaN where a clip has no value."""


class ClipMetric(Metric):
    """A value per clip and column; a system's value is their mean.

    `measure` returns a scalar array under each column's name, and optionally (F,) values under name + TIME_SUFFIX.
    """


class SetMetric(Metric):
    """A value per set of clips, such as a distance between distributions."""

    @abstractmethod
    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        """Column -> value of a system's clips, given the ground truth's; NaN where there are too few clips.

        Called for every bootstrap resample of the clips: do the slow part in `measure`.
        """
