"""Rhythm: does the dance keep the beat?

Frame counts of the published code are given here in seconds, so that every frame rate is measured alike: AIST++ (Li et
al. 2021) works at 60 fps with sigma = 3 frames, and the public scorers smooth the joint speed by 5 frames first.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

SIGMA = 3 / 60  # seconds
SMOOTH = 5 / 60  # seconds


def kinematic_beats(joints: np.ndarray, fps: float, smooth: float = SMOOTH) -> np.ndarray:
    """Times in seconds of the local minima of the joints' mean speed (AIST++ sec. 5.2.2).

    joints (T, J, 3) or (T, J, 2); `smooth` is the standard deviation of the Gaussian that the speed is smoothed with.
    The speed between frames t and t + 1 counts at the time half-way, so that a beat is not early by half a frame.
    """
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean(-1)  # (T, J, 3) -> (T - 1,)
    speed = gaussian_filter1d(speed.astype(np.float64), smooth * fps, mode="nearest")
    return (find_peaks(-speed)[0] + 0.5) / fps


def beat_alignment(kinematic: np.ndarray, music: np.ndarray, sigma: float = SIGMA) -> float:
    """Beat alignment score: mean over kinematic beats of exp(-d^2 / 2 sigma^2), d to the nearest music beat.

    AIST++ sec. 5.2.2, as EDGE uses it; times in seconds, in [0, 1], higher is better. Exchange the two arguments for
    the score per music beat that some public code computes. No kinematic beats score 0; no music beats are `nan`.
    """
    if len(music) == 0:
        return float("nan")
    if len(kinematic) == 0:
        return 0.0
    distance = np.abs(np.asarray(kinematic)[:, None] - np.asarray(music)[None]).min(1)
    return float(np.exp(-(distance**2) / (2 * sigma**2)).mean())
