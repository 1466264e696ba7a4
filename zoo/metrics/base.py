"""What a metric is: it measures clips one by one, and says what a row of the table gets from the measurements.

Adding one is a file with a `ClipMetric` or a `SetMetric`, and a YAML in `conf/metrics/` that names the class. A metric
sees every row alike: frames decoded from a file, whoever made them.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np

from zoo.body.detection.blazepose_detector import PoseDetector, Poses

Measurement = Mapping[str, np.ndarray]  # what is kept of one clip, by name
FROZEN, OTHER_SONG = "frozen reference", "other song"  # the baselines, as rows are called
OVER_TIME = "@time"  # a column's name with this behind it: its value at every frame
Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Evidence:
    """One clip of one row, and everything that is known of it. Joints are SMPL's 24 (zoo.body.skeleton)."""

    key: str
    labels: Mapping[str, str]  # song, dancer, style, camera, where the data knows them
    fps: Fraction
    frames: np.ndarray  # (F, H, W, 3) uint8
    true_frames: np.ndarray  # (F, H, W, 3) uint8: the ground truth's
    reference: np.ndarray  # (H, W, 3) uint8: the picture that the dance started from
    waveform: np.ndarray  # (S,) float32: the sound of exactly the clip's time
    sample_rate: int
    beats: np.ndarray  # (N,) float64 seconds from the clip's start: the music's beats
    joints: np.ndarray | None = None  # (T, 24, 3) metres at `zoo.batch.MOTION_FPS`: the exact motion, if any
    joints_again: np.ndarray | None = None  # the same of another dance to the same clip (another seed, another dancer)
    detector: PoseDetector | None = None  # what finds joints in frames, None where no detector fits this data
    _known: dict[Any, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, what: Any, compute: Callable[[], Answer]) -> Answer:
        """`compute()`, kept under `what` for the other metrics that ask for the same."""
        if what not in self._known:
            self._known[what] = compute()
        return self._known[what]

    @property
    def poses(self) -> Poses:
        """The joints and the figure's mask as `detector` finds them in `frames`."""
        assert self.detector is not None, "a metric that looks for poses says so in `needs`"
        return self.once("poses", lambda: self.detector.detect(self.frames))


@dataclass(frozen=True)
class Column:
    """One column of the table.

    better: which way is good, None where neither is; sees: the baselines that the ground truth has to beat here.
    """

    heading: str
    better: Literal["higher", "lower"] | None
    digits: int = 3
    unit: str = ""
    sees: frozenset[str] = frozenset()

    @property
    def title(self) -> str:
        """Heading, unit and arrow."""
        arrow = {"higher": " ↑", "lower": " ↓", None: ""}[self.better]
        return f"{self.heading}{f', {self.unit}' if self.unit else ''}{arrow}"


class Metric(ABC):
    """Measures clips. Subclass `ClipMetric` or `SetMetric`.

    needs: what of `Evidence` it cannot do without, of 'joints', 'joints_again', 'beats', 'detector'; version: count it
    up when the numbers change, so that old measurements are not taken for new ones.
    """

    columns: ClassVar[Mapping[str, Column]]
    needs: ClassVar[frozenset[str]] = frozenset()
    version: ClassVar[int] = 1

    @property
    def unavailable(self) -> str | None:
        """Why this cannot be measured here and how to get what is missing, in one line; None when it can be."""
        return None

    @property
    def weights(self) -> str | None:
        """The hash (sha256, 12 digits) of the feature weights it measures with, None for arithmetic."""
        return None

    @abstractmethod
    def measure(self, clip: Evidence) -> Measurement:
        """What is kept of one clip: small arrays, NaN where a clip has no value."""


class ClipMetric(Metric):
    """A value per clip and column; a row's is their mean.

    `measure` gives a scalar array under each column's name, and may give (F,) values under the name + OVER_TIME.
    """


class SetMetric(Metric):
    """A value per set of clips, such as a distance between distributions."""

    @abstractmethod
    def combine(self, row: Sequence[Measurement], truth: Sequence[Measurement]) -> dict[str, float]:
        """Column -> value of a row's clips, beside the ground truth's; NaN where they are too few.

        Called many times with resampled clips for intervals: keep what is slow in `measure`.
        """
