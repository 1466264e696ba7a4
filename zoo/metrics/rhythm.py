"""Rhythm metrics: alignment of kinematic beats with music beats.

Frame counts of the published code are given here in seconds, so that values do not depend on the frame rate: AIST++ (Li
et al. 2021) works at 60 fps with sigma = 3 frames, and the public scorers smooth the joint speed by 5 frames first.

Clips have ends. A kinematic beat counts only where its nearest music beat is sure to lie in the clip
(`matchable_beats`), and a music beat counts as missed only where a kinematic beat could have been found.
"""

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import find_peaks

from zoo.batch import MOTION_FPS
from zoo.body.detection.base import Poses
from zoo.metrics.base import OTHER_SONG, STILL_IMAGE, ClipMetric, Column, Measurement, MetricInput

SIGMA = 3 / 60  # seconds
SMOOTHING_SIGMA = 5 / 60  # seconds
HIT_TOLERANCE = 0.07  # seconds either side: the window of equal beats in music research (mir_eval)
MIN_DIP_DEPTH = 0.03  # figure heights a second: a shallower dip in the speed of detected joints is noise


def kinematic_beats(joints: np.ndarray, fps: float, smooth: float = SMOOTHING_SIGMA, depth: float = 0.0) -> np.ndarray:
    """Times in seconds of the local minima of the joints' mean speed (AIST++ sec. 5.2.2).

    joints (T, J, 3) or (T, J, 2); `smooth` is the standard deviation of the Gaussian that the speed is smoothed with;
    `depth`, in units of `joints` a second, is how far the speed has to rise on either side of a minimum.
    The speed between frames t and t + 1 counts at the time half-way, so that a beat is not early by half a frame, and
    each minimum is where a parabola through its three values has it: at 12 fps a frame is longer than sigma.
    """
    speed = np.linalg.norm(np.diff(joints, axis=0), axis=-1).mean(-1)  # (T, J, 3) -> (T - 1,)
    speed = gaussian_filter1d(speed.astype(np.float64), smooth * fps, mode="nearest")
    minima = find_peaks(-speed, prominence=depth / fps)[0]
    left, center, right = speed[minima - 1], speed[minima], speed[minima + 1]
    curvature = left - 2 * center + right
    shift = 0.5 * (left - right) / np.where(curvature > 0, curvature, 1)  # 0 on a plateau: its middle is the minimum
    return (minima + shift + 0.5) / fps


def matchable_beats(kinematic: np.ndarray, music: np.ndarray) -> np.ndarray:
    """The kinematic beats from half a gap before the first to half a gap after the last of the music's beats.

    Beyond that the nearest music beat may lie outside the clip. The distance to a wrong beat would make the score
    depend on the cut. A gap is that of the two music beats at the same end.
    """
    if len(music) < 2:
        return kinematic
    first, last = music[0] - (music[1] - music[0]) / 2, music[-1] + (music[-1] - music[-2]) / 2
    return kinematic[(kinematic >= first) & (kinematic <= last)]


def beat_alignment(kinematic: np.ndarray, music: np.ndarray, sigma: float = SIGMA) -> float:
    """Beat alignment score: mean over kinematic beats of exp(-d^2 / 2 sigma^2), d to the nearest music beat.

    AIST++ sec. 5.2.2, as EDGE uses it; times in seconds, in [0, 1], higher is better. Exchange the two arguments for
    the score per music beat that some public code computes. No kinematic beats score 0; no music beats are `nan`.
    """
    if len(music) == 0:
        return float("nan")
    if len(kinematic) == 0:
        return 0.0
    return float(np.exp(-(_nearest_distance(kinematic, music) ** 2) / (2 * sigma**2)).mean())


def beat_hits(
    kinematic: np.ndarray, music: np.ndarray, seconds: float, edge: float = 0.0, tolerance: float = HIT_TOLERANCE
) -> tuple[float, float, float]:
    """Beat coverage and beat hit rate (Lee et al. 2019, "Dancing to Music", sec. 4.2), and the fraction of beats met.

    With B_m music beats, B_k kinematic beats and B_a kinematic beats within `tolerance` seconds of a music beat:
    coverage B_k / B_m, hit rate B_a / B_k. Met: music beats with a kinematic beat within `tolerance`, of those at least
    `edge` seconds inside [0, seconds], where kinematic beats can be found. `nan` for no music beats.
    """
    if len(music) == 0:
        return (float("nan"),) * 3
    if len(kinematic) == 0:
        return 0.0, 0.0, 0.0
    findable = music[(music >= edge) & (music <= seconds - edge)]
    met_share = (_nearest_distance(findable, kinematic) <= tolerance).mean() if len(findable) else float("nan")
    hit_rate = (_nearest_distance(kinematic, music) <= tolerance).mean()
    return len(kinematic) / len(music), float(hit_rate), float(met_share)


def detected_beats(poses: Poses, fps: float) -> np.ndarray:
    """Kinematic beats, seconds, of joints that a detector found in the frames.

    Frames without a figure are interpolated linearly, which adds no minima. Without three frames of a figure there are
    no beats. Dips below `MIN_DIP_DEPTH` are ignored.
    """
    valid_frames = np.flatnonzero(np.isfinite(poses.joints).all((1, 2)))
    if len(valid_frames) < 3:
        return np.empty(0)
    joints = poses.joints[valid_frames].astype(np.float64)
    height = float(np.median(np.ptp(joints[..., 1], axis=1)))
    frames = np.arange(valid_frames[0], valid_frames[-1] + 1)
    left_index = np.clip(np.searchsorted(valid_frames, frames, side="right") - 1, 0, len(valid_frames) - 2)
    weight = (frames - valid_frames[left_index]) / (valid_frames[left_index + 1] - valid_frames[left_index])
    joints = joints[left_index] + weight[:, None, None] * (joints[left_index + 1] - joints[left_index])
    return valid_frames[0] / fps + kinematic_beats(joints, fps, depth=MIN_DIP_DEPTH * height)


def _nearest_distance(times: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Distance of each time to the nearest reference, seconds."""
    return np.abs(np.asarray(times)[:, None] - np.asarray(references)[None]).min(1)


def _exact_beats(clip: MetricInput) -> tuple[np.ndarray, float]:
    """Kinematic beats of the exact joints, and the margin at the clip's ends without beats, seconds."""
    beats = clip.cached("kinematic beats", lambda: kinematic_beats(clip.joints, MOTION_FPS))
    return matchable_beats(beats, clip.beats), SMOOTHING_SIGMA + 1.5 / MOTION_FPS


def _detected_beats(clip: MetricInput) -> tuple[np.ndarray, float]:
    """The same of detected joints."""
    fps = float(clip.fps)
    beats = clip.cached("kinematic beats 2d", lambda: detected_beats(clip.poses, fps))
    return matchable_beats(beats, clip.beats), SMOOTHING_SIGMA + 1.5 / fps


class BeatAlignment(ClipMetric):
    """Beat alignment score of the exact motion: mean over kinematic beats of exp(-d^2 / 2 sigma^2) (AIST++, EDGE).

    d is the time to the nearest music beat, sigma 50 ms (3 frames at AIST++'s 60 fps). 1: every stop falls
    on a beat; 0: the dance never stops.
    """

    columns: ClassVar = {"beat_align": Column("beat align", "higher", must_beat=frozenset({OTHER_SONG}))}
    required_inputs: ClassVar = frozenset({"joints", "beats"})
    beats_of: ClassVar[Callable[[MetricInput], tuple[np.ndarray, float]]] = staticmethod(_exact_beats)

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        (name,) = self.columns
        return {name: np.float64(beat_alignment(self.beats_of(clip)[0], clip.beats))}


class BeatAlignment2D(BeatAlignment):
    """2D-MM Align (DabFusion sec. 4.2) = 1/n sum_i exp(-min_j ||f_i^x - f_j^y||^2 / 2 sigma^2), of detected joints.

    f^x are the n kinematic beats, f^y the music beats. The paper counts in frames and does not give sigma. Here they
    are times, and sigma is AIST++'s 50 ms, so that values do not depend on the frame rate.
    """

    columns: ClassVar = {
        "beat_align_2d": Column("2D-MM align", "higher", must_beat=frozenset({STILL_IMAGE, OTHER_SONG}))
    }
    required_inputs: ClassVar = frozenset({"detector", "beats"})
    beats_of: ClassVar = staticmethod(_detected_beats)


class BeatHitRate(ClipMetric):
    """Beat coverage B_k / B_m and beat hit rate B_a / B_k (Lee et al. 2019), and the fraction of music beats met.

    B_m music beats, B_k kinematic beats, B_a of them within 70 ms of a music beat. Of the exact motion. Coverage has no
    good direction: below 1 beats are left out, above 1 the dance also stops between them.
    """

    columns: ClassVar = {
        "beat_coverage": Column("beat coverage", None),
        "beat_hit_rate": Column("beat hit rate", "higher", must_beat=frozenset({OTHER_SONG})),
        "beats_met": Column("beats met", "higher", must_beat=frozenset({OTHER_SONG})),
    }
    required_inputs: ClassVar = frozenset({"joints", "beats"})
    beats_of: ClassVar[Callable[[MetricInput], tuple[np.ndarray, float]]] = staticmethod(_exact_beats)

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        kinematic, edge = self.beats_of(clip)
        seconds = len(clip.frames) / float(clip.fps)
        hits = beat_hits(kinematic, clip.beats, seconds, edge)
        return {name: np.float64(value) for name, value in zip(self.columns, hits, strict=True)}


class BeatHitRate2D(BeatHitRate):
    """Beat coverage, beat hit rate (Lee et al. 2019) and the fraction of music beats met, of detected joints.

    As BeatHitRate, for videos without exact motion.
    """

    columns: ClassVar = {
        "beat_coverage_2d": Column("beat coverage 2D", None),
        "beat_hit_rate_2d": Column("beat hit rate 2D", "higher", must_beat=frozenset({STILL_IMAGE, OTHER_SONG})),
        "beats_met_2d": Column("beats met 2D", "higher", must_beat=frozenset({STILL_IMAGE, OTHER_SONG})),
    }
    required_inputs: ClassVar = frozenset({"detector", "beats"})
    beats_of: ClassVar = staticmethod(_detected_beats)
