"""Motion metrics: physical plausibility and diversity of the exact body motion.

Joints are (T, 24, 3) metres in world coordinates (Z up), SMPL's order, at `fps` (see zoo.body.skeleton).
"""

import hashlib
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import ClassVar

import numpy as np

from zoo.batch import MOTION_FPS
from zoo.metrics.base import ClipMetric, Column, Measurement, MetricInput, SetMetric
from zoo.metrics.dance_features import geometric_features, kinetic_features
from zoo.metrics.frechet import frechet_distance

NUM_POSES = 8  # per clip, that are compared with those of all other clips
MIN_STD = 1e-6  # a feature with a smaller deviation over the ground truth is not scaled
LEFT_FOOT, RIGHT_FOOT = (7, 10), (8, 11)  # ankle and toe joint


def physical_foot_contact(joints: np.ndarray, fps: float = 30) -> float:
    """PFC (EDGE sec. 5.1, eq. 8-9, as its public scorer computes it), lower is better.

    Mean over frames of |root acceleration| (upward part only, over its maximum) x left x right foot's horizontal step,
    each foot's the smaller of ankle and toe in metres a frame, x 1e4. 0 for a body that never accelerates.
    """
    acceleration = np.diff(joints[:, 0], n=2, axis=0) * fps**2  # (T - 2, 3)
    acceleration[:, 2] = np.maximum(acceleration[:, 2], 0)
    acceleration_size = np.linalg.norm(acceleration, axis=-1)
    if acceleration_size.max(initial=0) == 0:
        return 0.0
    steps = np.linalg.norm(np.diff(joints[1:, :, :2], axis=0), axis=-1)  # (T - 2, J), metres a frame
    foot_steps = [steps[:, foot].min(1) for foot in (LEFT_FOOT, RIGHT_FOOT)]
    return float((acceleration_size / acceleration_size.max() * foot_steps[0] * foot_steps[1]).mean() * 1e4)


def foot_sliding(joints: np.ndarray, fps: float = 30, height: float = 0.05) -> float:
    """Mean horizontal speed (m/s) of toe joints while they are within `height` metres of their lowest in the clip."""
    toes = joints[:, [10, 11]]
    is_down = (toes[1:, :, 2] - toes[..., 2].min() < height) & (toes[:-1, :, 2] - toes[..., 2].min() < height)
    speed = np.linalg.norm(np.diff(toes[..., :2], axis=0), axis=-1) * fps
    return float(speed[is_down].mean()) if is_down.any() else 0.0


def jitter(joints: np.ndarray, fps: float = 30) -> float:
    """Mean size of the third derivative of joint positions, in 1e3 m/s^3."""
    return float(np.linalg.norm(np.diff(joints, n=3, axis=0), axis=-1).mean() * fps**3 / 1e3)


def motion_distance(first: np.ndarray, second: np.ndarray) -> float:
    """Distance of two dances of the same length: mean distance of joints relative to the pelvis, in metres.

    Positions are relative to the pelvis, so that the place on the floor does not count.
    """
    relative_joints = [joints - joints[:, :1] for joints in (first, second)]
    return float(np.linalg.norm(relative_joints[0] - relative_joints[1], axis=-1).mean())


def diversity(dances: Sequence[np.ndarray]) -> float:
    """Mean `motion_distance` over all pairs: for seeds of one song, its multimodality; for songs, the diversity."""
    distances = [motion_distance(a, b) for a, b in combinations(dances, 2)]
    if not distances:
        raise ValueError("diversity needs at least two dances")
    return float(np.mean(distances))


class _MotionMetric(ClipMetric):
    """A metric of the clip's exact joints."""

    required_inputs: ClassVar = frozenset({"joints"})
    compute: ClassVar[Callable[[np.ndarray, float], float]]

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        (name,) = self.columns
        return {name: np.float64(self.compute(clip.joints, MOTION_FPS))}


class PFC(_MotionMetric):
    """Physical foot contact (EDGE sec. 5.1, eq. 8-9): root acceleration without a standing foot, x 1e4."""

    columns: ClassVar = {"pfc": Column("PFC", "lower")}
    compute: ClassVar = staticmethod(physical_foot_contact)


class FootSliding(_MotionMetric):
    """Mean horizontal speed of the toes while they are within 5 cm of their lowest."""

    columns: ClassVar = {"foot_sliding": Column("foot sliding", "lower", unit="m/s")}
    compute: ClassVar = staticmethod(foot_sliding)


class Jitter(_MotionMetric):
    """Mean size of the third derivative of joint positions. Lower is smoother; a motionless dance has 0."""

    columns: ClassVar = {"jitter": Column("jitter", None, digits=2, unit="1e3 m/s³")}
    compute: ClassVar = staticmethod(jitter)


class Multimodality(ClipMetric):
    """Mean distance of two dances to the same music, of joints relative to the pelvis (`motion_distance`).

    There is no good direction: noise is diverse, too. The ground truth's value, two dancers to one song, is the
    measure.
    """

    columns: ClassVar = {"multimodality": Column("multimodality", None, unit="m")}
    required_inputs: ClassVar = frozenset({"joints", "second_joints"})

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        num_frames = min(len(clip.joints), len(clip.second_joints))
        distance = motion_distance(clip.joints[:num_frames], clip.second_joints[:num_frames])
        return {"multimodality": np.float64(distance)}


class Diversity(SetMetric):
    """How far apart dances to different songs are: mean `motion_distance` over all pairs, at 8 moments of the clip.

    There is no good direction: noise is diverse, too. Compare with the ground truth.
    """

    columns: ClassVar = {"diversity": Column("diversity", None, unit="m")}
    required_inputs: ClassVar = frozenset({"joints"})

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        moments = np.linspace(0, len(clip.joints) - 1, NUM_POSES).round().astype(int)
        song = hashlib.sha256(clip.labels.get("song", clip.key).encode()).digest()[:8]
        poses = clip.joints[moments] - clip.joints[moments, :1]
        return {"poses": poses.astype(np.float32), "song": np.frombuffer(song, np.int64)}

    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        """See SetMetric. Pairs of the same song are excluded, and so are copies of a clip in a bootstrap sample."""
        songs = np.array([clip["song"][0] for clip in measured])
        points = np.stack([clip["poses"].reshape(-1, 3) for clip in measured], 1)  # (POSES * 24, N, 3)
        squared_distance = (points**2).sum(-1)
        squared_distance = (
            squared_distance[:, :, None] + squared_distance[:, None] - 2 * points @ points.transpose(0, 2, 1)
        )
        distance = np.sqrt(np.maximum(squared_distance, 0)).mean(0)  # (N, N)
        other_song_distances = distance[songs[:, None] != songs[None]]
        return {"diversity": float(other_song_distances.mean()) if len(other_song_distances) else float("nan")}


class _FeatureDistance(SetMetric):
    """A Frechet distance of features, each divided by its standard deviation over the ground truth."""

    required_inputs: ClassVar = frozenset({"joints"})
    features: ClassVar[Callable[[np.ndarray, float], np.ndarray]]

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        return {"features": self.features(clip.joints, MOTION_FPS).astype(np.float32)}

    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        """Compare the sets."""
        (name,) = self.columns
        x, y = (np.stack([clip["features"] for clip in clips]).astype(np.float64) for clips in (measured, true))
        std = y.std(0)
        scale = np.where(std > MIN_STD, std, 1.0)
        return {name: frechet_distance(x / scale, y / scale)}


class FrechetKinetic(_FeatureDistance):
    """FID_k (AIST++ sec. 5.2.1): Frechet distance of 72 kinetic features, each divided by its deviation over the truth.

    72 features need several hundred clips. With fewer it is biased upwards: compare only equal numbers of clips.
    """

    columns: ClassVar = {"fid_k": Column("FID_k", "lower", digits=2)}
    features: ClassVar = staticmethod(kinetic_features)


class FrechetGeometric(_FeatureDistance):
    """FID_g (AIST++ sec. 5.2.1): Frechet distance of 32 geometric features, each divided by its deviation over the
    truth.

    32 features need a hundred clips or more. With fewer it is biased upwards: compare only equal numbers of clips.
    The features are Mueller's, without the public code's errors (see zoo.metrics.dance_features): published values
    have another scale.
    """

    columns: ClassVar = {"fid_g": Column("FID_g", "lower", digits=2)}
    features: ClassVar = staticmethod(geometric_features)
