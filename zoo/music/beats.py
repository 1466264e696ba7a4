"""Beats of a song: when they fall, how fast, and which of them open a bar."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Beats:
    """times (N,) float64 seconds, ascending; tempo in BPM, 0 = no beat; downbeat: index 0..3 of the first bar's first beat."""

    times: np.ndarray
    tempo: float
    downbeat: int
