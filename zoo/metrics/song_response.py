"""How a set of dances responds to its songs: measures of several dances, or of one with the song's loudness.

Joints are (T, 24, 3) metres in world coordinates (Z up), SMPL's order, at `fps` (see zoo.body.skeleton).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

PELVIS, HEAD, SHOULDERS, HANDS = 0, 15, (16, 17), (22, 23)  # joints
LOUDNESS_WINDOW_SECONDS = 8.0  # of the loudest and of the quietest part
FRAMES_PER_WINDOW = 8  # of a two-beat window that are compared


def slow_poses(joints: np.ndarray, fps: int = 30) -> np.ndarray:
    """(S, 24, 3): the mean over each whole second of the joints relative to the pelvis."""
    num_seconds = len(joints) // fps
    return (joints - joints[:, :1])[: num_seconds * fps].reshape(num_seconds, fps, *joints.shape[1:]).mean(1)


def song_correlation(dances: Sequence[np.ndarray], fps: int = 30) -> float:
    """Mean over pairs of dances of the correlation <a, b> / (|a| |b|) of their slow poses, in [-1, 1].

    a, b: slow poses of the seconds that all dances have, minus one mean pose, that over all dances and seconds. Dances
    to different songs are near 0 where the song decides, and high where the seed does. Without the mean over seconds,
    that is with a mean for each second, N dances give about -1 / (N - 1), whatever they are.
    """
    poses = [slow_poses(dance, fps) for dance in dances]
    num_seconds = min(map(len, poses))
    values = np.stack([pose[:num_seconds] for pose in poses])
    values = (values - values.mean((0, 1))).reshape(len(values), -1)
    norms = np.linalg.norm(values, axis=1)
    return float(
        np.mean([values[i] @ values[k] / (norms[i] * norms[k]) for i, k in combinations(range(len(norms)), 2)])
    )


def arms_used(joints: np.ndarray) -> float:
    """Fraction of frames in which the higher hand is above the mean height of the shoulders."""
    return float((joints[:, HANDS, 2].max(1) > joints[:, SHOULDERS, 2].mean(1)).mean())


def upright_head(joints: np.ndarray) -> float:
    """Mean cosine of the angle between the line from pelvis to head and the vertical; 1 is upright, 0 lies."""
    line = joints[:, HEAD] - joints[:, PELVIS]
    return float((line[:, 2] / np.maximum(np.linalg.norm(line, axis=1), 1e-9)).mean())


def mean_speed(joints: np.ndarray, start: float, stop: float, fps: int = 30) -> float:
    """Mean speed of all joints from `start` to `stop` seconds, m/s: in a silence it is the rest."""
    part = joints[int(start * fps) : int(stop * fps) + 1]
    return float(np.linalg.norm(np.diff(part, axis=0), axis=-1).mean() * fps) if len(part) > 1 else 0.0


def loudness_response(joints: np.ndarray, waveform: np.ndarray, sample_rate: int) -> tuple[float, float, float]:
    """Mean speed in the quietest and in the loudest 8 s (m/s), and how far these levels are apart (dB of the RMS).

    Windows begin every second. A song shorter than 8 s has one window, so that both speeds are equal.
    """
    seconds = min(len(joints) / 30, len(waveform) / sample_rate)
    levels_and_starts = []
    for start in np.arange(0, max(seconds - LOUDNESS_WINDOW_SECONDS, 0) + 1e-9, 1.0):
        samples = waveform[int(start * sample_rate) : int((start + LOUDNESS_WINDOW_SECONDS) * sample_rate)]
        levels_and_starts.append((10 * np.log10(float(np.mean(samples.astype(np.float64) ** 2)) + 1e-12), float(start)))
    (low_level, quiet_start), (high_level, loud_start) = min(levels_and_starts), max(levels_and_starts)
    speeds = [mean_speed(joints, start, start + LOUDNESS_WINDOW_SECONDS) for start in (quiet_start, loud_start)]
    return speeds[0], speeds[1], high_level - low_level


def variety(joints: np.ndarray, beats: np.ndarray, fps: int = 30) -> float:
    """Mean distance of all pairs of two-beat windows of one dance, metres; NaN with fewer than two windows.

    A window is 8 poses relative to the pelvis, evenly spaced from a beat to the next but one; windows do not overlap.
    The distance of two windows is the root mean square over poses and joints of the distance of a joint to itself, so
    that hands and feet, which move far, count more than the trunk.
    """
    relative, windows = joints - joints[:, :1], []
    for start, stop in zip(beats[:-2:2], beats[2::2], strict=False):
        if start >= 0 and stop * fps < len(joints) - 1:
            frames = np.linspace(start * fps, stop * fps, FRAMES_PER_WINDOW, endpoint=False).round().astype(int)
            windows.append(relative[frames])
    pairs = [np.sqrt(((a - b) ** 2).sum(-1).mean()) for a, b in combinations(windows, 2)]
    return float(np.mean(pairs)) if pairs else float("nan")
