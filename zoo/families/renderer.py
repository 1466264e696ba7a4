"""The contract of renderers: they turn body motion into frames. State lives in the session of one video.

A renderer is one class and one file in conf/renderer/ with `name`, `_target_`, `needs_detector`, `has_fallback: true`
if it draws without a detector or an image too, and its own options.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from zoo.body.detection.base import PoseDetector

MIN_QUALITY = 0.75  # of a figure's detection; below it, limbs are mistaken for each other


class RenderSession(ABC):
    """The rendering of one video, window after window."""

    quality: float | None = None  # of the figure's detection in the image, in [0, 1]; None without detection
    note: str | None = None  # one line for the user on how the image is used

    @abstractmethod
    def draw(self, motion: Tensor) -> Tensor:
        """Frames (F, 3, H, W) uint8 of the next motion frames (F, 151), at the session's frame rate."""


class Renderer(ABC):
    """Draws body motion."""

    family_part: str | None = None  # the optional part of the family whose networks it runs

    @classmethod
    @abstractmethod
    def build(
        cls, family: nn.Module, detector: PoseDetector | None, fallback: "Renderer | None", options: Mapping[str, Any]
    ) -> "Renderer":
        """The renderer for a family.

        detector: finds the figure of an image, for renderers whose configuration says `needs_detector`. fallback: draws
        instead where no figure is found; None raises. options: the renderer's own, from conf/renderer/NAME.yaml.
        Raises ValueError for an option that it does not have, and for weights that the family does not have.
        """

    @abstractmethod
    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> RenderSession:
        """Start one video. image: (3, H, W) uint8; fps: of the video.

        Raises ValueError, before any frame is drawn, for an image that cannot be used.
        """


def check_quality(quality: float, note: str | None = None) -> None:
    """Raises ValueError where the figure of an image was detected too badly to be moved. note: see RenderSession."""
    if quality < MIN_QUALITY:
        raise ValueError(
            f"figure detection quality is {quality:.2f}, at least {MIN_QUALITY} is required; use an image in which "
            f"arms and legs do not overlap the body{f'; {note}' if note else ''}"
        )


def check_options(name: str, options: Mapping[str, Any], names: tuple[str, ...] = ()) -> None:
    """Raises ValueError for an option that a renderer does not have."""
    for option in options:
        if option not in names:
            choices = f"; it has {', '.join(names)}" if names else ""
            raise ValueError(f"renderer={name} has no option {option}{choices}")
