"""How a set of dances responds to its songs: measures of several dances, or of one with the song's loudness.

Joints are (T, 24, 3) metres in world coordinates (Z up), SMPL's order, at `fps` (see zoo.body.skeleton).
"""

import hashlib
from collections.abc import Sequence
from itertools import combinations
from typing import ClassVar

import numpy as np

from zoo.batch import MOTION_FPS
from zoo.metrics.base import ClipMetric, Column, Measurement, MetricInput, SetMetric

PELVIS, HEAD, SHOULDERS, HANDS = 0, 15, (16, 17), (22, 23)  # joints
STEP_SECONDS = 0.5  # of the parts of a clip whose loudness and speed are compared
MIN_RANGE = 6.0  # dB between a clip's loudest and quietest part, below which there is nothing to follow
SILENCE_BELOW, SILENCE_LEVEL = 40.0, -75.0  # dB below the clip's loudest part, and of full scale: silence
SETTLING_SECONDS = 1.0  # of a silence, in which the dancer may come to rest
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


def loudness_of_parts(waveform: np.ndarray, sample_rate: int, num_parts: int) -> np.ndarray:
    """Level of each STEP_SECONDS of the waveform, dB of full scale: (num_parts,)."""
    size = int(STEP_SECONDS * sample_rate)
    parts = waveform[: num_parts * size].astype(np.float64).reshape(num_parts, size)
    return 10 * np.log10((parts**2).mean(1) + 1e-12)


def speed_of_parts(joints: np.ndarray, num_parts: int, fps: int = 30) -> np.ndarray:
    """Mean speed of all joints in each STEP_SECONDS, m/s: (num_parts,)."""
    starts = np.arange(num_parts) * STEP_SECONDS
    return np.array([mean_speed(joints, start, start + STEP_SECONDS, fps) for start in starts])


def loudness_correlation(speeds: np.ndarray, levels: np.ndarray) -> float:
    """Pearson's correlation of speed and level over the parts of a clip.

    NaN where the levels are within MIN_RANGE of each other; 0 where the speed never changes.
    """
    levels = np.maximum(levels, levels.max(initial=SILENCE_LEVEL) - SILENCE_BELOW)
    if len(levels) < 3 or np.ptp(levels) < MIN_RANGE:
        return float("nan")
    if np.ptp(speeds) < 1e-6:
        return 0.0
    return float(np.corrcoef(speeds, levels)[0, 1])


def speed_in_silence(speeds: np.ndarray, levels: np.ndarray) -> float:
    """Mean speed (m/s) in the silent parts, without the first SETTLING_SECONDS of each silence; NaN without any."""
    is_silent = levels < max(levels.max(initial=SILENCE_LEVEL) - SILENCE_BELOW, SILENCE_LEVEL)
    settling = round(SETTLING_SECONDS / STEP_SECONDS)
    rests = [index for index in range(settling, len(levels)) if is_silent[index - settling : index + 1].all()]
    return float(speeds[rests].mean()) if rests else float("nan")


class SongResponse(ClipMetric):
    """How a dance uses the body and responds to loudness and silence, of the exact motion.

    arms used: fraction of frames with a hand above the shoulders; upright head: mean cosine of pelvis to head against
    the vertical; variety: `variety` over the clip's beats; loudness response: `loudness_correlation`; speed in silence:
    `speed_in_silence`. The first three have no good direction: the ground truth's value is the measure. Toe sliding is
    the metric foot_sliding.
    """

    in_protocol_hash: ClassVar = False
    columns: ClassVar = {
        "arms_used": Column("arms used", None),
        "upright_head": Column("upright head", None),
        "variety": Column("variety", None, unit="m"),
        "loudness_response": Column("loudness response", "higher"),
        "speed_in_silence": Column("speed in silence", "lower", unit="m/s"),
    }
    required_inputs: ClassVar = frozenset({"joints", "beats"})

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        assert clip.joints is not None
        seconds = min(len(clip.joints) / MOTION_FPS, len(clip.waveform) / clip.sample_rate)
        num_parts = int(seconds / STEP_SECONDS)
        levels = loudness_of_parts(clip.waveform, clip.sample_rate, num_parts)
        speeds = speed_of_parts(clip.joints, num_parts, MOTION_FPS)
        values = (
            arms_used(clip.joints),
            upright_head(clip.joints),
            variety(clip.joints, clip.beats, MOTION_FPS),
            loudness_correlation(speeds, levels),
            speed_in_silence(speeds, levels),
        )
        return {name: np.float64(value) for name, value in zip(self.columns, values, strict=True)}


class SongCorrelation(SetMetric):
    """Mean correlation of the slow poses of dances to different songs (`song_correlation`), in [-1, 1].

    Near 0 where the song decides the dance, high where all songs get the same one. Of the seconds that all clips have.
    """

    in_protocol_hash: ClassVar = False
    columns: ClassVar = {"song_correlation": Column("song correlation", "lower")}
    required_inputs: ClassVar = frozenset({"joints"})

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        assert clip.joints is not None
        song = hashlib.sha256(clip.labels.get("song", clip.key).encode()).digest()[:8]
        poses = slow_poses(clip.joints, MOTION_FPS).astype(np.float32)
        return {"poses": poses, "song": np.frombuffer(song, np.int64)}

    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        """See SetMetric. Pairs of the same song are excluded, and so are copies of a clip in a bootstrap sample."""
        length = min(len(clip["poses"]) for clip in measured)
        songs = np.array([clip["song"][0] for clip in measured])
        values = np.stack([clip["poses"][:length] for clip in measured]).astype(np.float64)
        values = (values - values.mean((0, 1))).reshape(len(values), -1)
        norms = np.linalg.norm(values, axis=1)
        is_pair = (songs[:, None] != songs[None]) & (norms[:, None] * norms[None] > 0)
        if not length or not is_pair.any():
            return {"song_correlation": float("nan")}
        correlation = values @ values.T / np.maximum(norms[:, None] * norms[None], 1e-12)
        return {"song_correlation": float(correlation[is_pair].mean())}
