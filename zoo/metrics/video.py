"""What a video is like as a whole, told by a network that ships with the zoo."""

from collections.abc import Sequence

import numpy as np

from zoo.body.detection.synthetic_detector import WEIGHTS, WINDOW_FRAMES, SyntheticPoseDetector
from zoo.files import file_hash
from zoo.metrics.base import STILL_IMAGE, Column, Measurement, MetricInput, SetMetric
from zoo.metrics.frechet import frechet_distance


class FvdWorld(SetMetric):
    """The Frechet distance of the world judge's features: a stand-in for FVD that needs no download, and is not FVD.

    64 features of every stretch of 16 frames, of a small network that was trained on the built-in world
    (zoo/body/detection/synthetic_detector.py).
    Its numbers compare with each other within one protocol alone, never with a published FVD. With few clips it is too
    high, as every Frechet distance is (Chong and Forsyth 2020): the less, the more clips, so compare equally many.
    """

    columns = {"fvd_world": Column("FVD-world", "lower", digits=2, must_beat=frozenset({STILL_IMAGE}))}

    @property
    def weights_hash(self) -> str:
        """Of the synthetic detector's weights."""
        return file_hash(WEIGHTS)

    def measure(self, clip: MetricInput) -> Measurement:
        """features: (n, 64) float32. Raises ValueError for a clip of fewer than 16 frames."""
        if len(clip.frames) < WINDOW_FRAMES:
            raise ValueError(f"fvd_world needs clips of {WINDOW_FRAMES} frames; here are {len(clip.frames)}")
        if isinstance(clip.detector, SyntheticPoseDetector):
            return {"features": clip.poses.features}  # it has looked, or this look serves the others too
        return {
            "features": clip.cached("synthetic detector", lambda: SyntheticPoseDetector().detect(clip.frames)).features
        }

    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        """The squared distance; NaN with fewer than two windows on either side."""
        features, true_features = (np.concatenate([clip["features"] for clip in clips]) for clips in (measured, true))
        return {"fvd_world": frechet_distance(features, true_features)}
