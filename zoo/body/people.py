"""Finding people in pictures: what a detector is."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Poses:
    """What a detector found in F frames, in SMPL's 24 joints (zoo.body.skeleton)."""

    joints: np.ndarray  # (F, 24, 2) float32 pixels, x right, y down; NaN in frames where no figure was found
    confidence: np.ndarray  # (F, 24) float32 in [0, 1]
    mask: np.ndarray  # (F, H, W) float32 in [0, 1]: how surely a pixel is the figure's


class PoseDetector(ABC):
    """Finds the one figure in each frame of a video."""

    name: str  # said beside every number that rests on it, with its version

    @abstractmethod
    def detect(self, frames: np.ndarray) -> Poses:
        """frames: (F, H, W, 3) uint8."""
