"""A Frechet video distance by a network that ships with the zoo."""

from collections.abc import Sequence

import numpy as np

from zoo.body.detection.synthetic_detector import WEIGHTS, WINDOW_FRAMES, SyntheticPoseDetector
from zoo.files import file_hash
from zoo.metrics.base import STILL_IMAGE, Column, Measurement, MetricInput, SetMetric
from zoo.metrics.frechet import frechet_distance


class FvdWorld(SetMetric):
    """Frechet distance of the synthetic detector's features: a substitute for FVD without a download, not FVD itself.

    64 features of every window of 16 frames, of a small network that was trained on the built-in world
    (zoo/body/detection/synthetic_detector.py). Values are comparable within one protocol only, never with a published
    FVD. As every Frechet distance it is biased upwards for few clips (Chong and Forsyth 2020): compare only equal
    numbers of clips.
    """

    columns = {"fvd_world": Column("FVD-world", "lower", digits=2, must_beat=frozenset({STILL_IMAGE}))}

    @property
    def weights_hash(self) -> str:
        """Hash of the synthetic detector's weights."""
        return file_hash(WEIGHTS)

    def measure(self, clip: MetricInput) -> Measurement:
        """Return features, (n, 64) float32. Raises ValueError for a clip of fewer than 16 frames."""
        if len(clip.frames) < WINDOW_FRAMES:
            raise ValueError(f"fvd_world needs clips of {WINDOW_FRAMES} frames, not {len(clip.frames)}")
        if isinstance(clip.detector, SyntheticPoseDetector):
            return {"features": clip.poses.features}  # shared with the metrics of poses
        return {
            "features": clip.cached("synthetic detector", lambda: SyntheticPoseDetector().detect(clip.frames)).features
        }

    def combine(self, measured: Sequence[Measurement], true: Sequence[Measurement]) -> dict[str, float]:
        """Squared distance; NaN with fewer than two windows on either side."""
        features, true_features = (np.concatenate([clip["features"] for clip in clips]) for clips in (measured, true))
        return {"fvd_world": frechet_distance(features, true_features)}
