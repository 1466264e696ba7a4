"""Metrics of videos that show the ground truth's own motion: how well a renderer draws it.

They are measured by default under protocols with `exact_motion`, such as `renderer-v1`. One detector sees the video
and the true frames, so the ground truth has a joint error of 0. Not in the papers.
"""

import cv2
import numpy as np

from zoo.body.detection.base import Poses
from zoo.body.image_skeleton import JOINT_INDEX, stature_from_joints
from zoo.metrics.base import TIME_SUFFIX, ClipMetric, Column, Measurement, MetricInput
from zoo.metrics.frames import BOTH_BASELINES, PEAK
from zoo.metrics.identity import MASK_THRESHOLD

PELVIS = JOINT_INDEX["pelvis"]
HEAD_CENTER = 1.15  # on the line from neck (0) to head (1)
HEAD_RADIUS = 0.08  # of the stature: half a side of the square around the head


class JointError(ClipMetric):
    """Mean distance of the 24 detected joints from those detected in the true frames, as a fraction of the stature.

    Positions are relative to the pelvis: renderers choose the place in the image. The stature is the largest one of the
    true frames, from `stature_from_joints`. Frames in which no figure is detected have no value: `body_integrity`
    counts them.
    """

    columns = {"joint_error": Column("joint error", "lower", digits=3, must_beat=BOTH_BASELINES)}
    required_inputs = frozenset({"detector"})
    in_protocol_hash = False
    needs_exact_motion = True

    def measure(self, clip: MetricInput) -> Measurement:
        """Return joint_error and joint_error@time, (F,) fractions of the stature."""
        true_joints = _true_poses(clip).joints
        places = [joints - joints[:, [PELVIS]] for joints in (clip.poses.joints, true_joints)]
        distances = np.linalg.norm(places[0] - places[1], axis=-1).mean(1) / _stature(true_joints)
        has_figure = np.isfinite(distances)
        mean = distances[has_figure].mean() if has_figure.any() else np.nan
        return {"joint_error": np.array(mean), "joint_error" + TIME_SUFFIX: distances}


class PsnrParts(ClipMetric):
    """PSNR of the pixels of the true figure, and of a square around its head, dB; the mean over frames.

    10 log10(255^2 / MSE) over the pixels and channels of the part. The square has sides of 0.16 times the stature
    around the true head. Frames in which the part is not detected, or equal to the true frame, are left out of the
    mean; a clip of equal frames only is inf.
    """

    columns = {
        "psnr_figure": Column("PSNR of the figure", "higher", digits=2, unit="dB", must_beat=BOTH_BASELINES),
        "psnr_head": Column("PSNR of the head", "higher", digits=2, unit="dB", must_beat=BOTH_BASELINES),
    }
    required_inputs = frozenset({"detector"})
    in_protocol_hash = False
    needs_exact_motion = True

    def measure(self, clip: MetricInput) -> Measurement:
        """Return psnr_figure and psnr_head, dB."""
        poses = _true_poses(clip)
        squared_errors = ((clip.frames.astype(np.float32) - clip.true_frames) ** 2).mean(-1)
        parts = {"psnr_figure": poses.mask > MASK_THRESHOLD, "psnr_head": head_squares(poses.joints, poses.mask.shape)}
        return {name: np.array(_psnr(squared_errors, part)) for name, part in parts.items()}


def head_squares(joints: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Squares around heads. joints (F, 24, 2) pixels, NaN in frames without a figure; shape (F, H, W) -> bool of it"""
    squares = np.zeros(shape, np.uint8)
    stature = _stature(joints)
    neck, head = joints[:, JOINT_INDEX["neck"]], joints[:, JOINT_INDEX["head"]]
    for square, center in zip(squares, neck + HEAD_CENTER * (head - neck), strict=True):
        if np.isfinite(center).all():
            corners = [tuple((center + sign * HEAD_RADIUS * stature).round().astype(int).tolist()) for sign in (-1, 1)]
            cv2.rectangle(square, corners[0], corners[1], 1, cv2.FILLED)
    return squares > 0


def _true_poses(clip: MetricInput) -> Poses:
    assert clip.detector is not None, "it is one of `required_inputs`"
    detector = clip.detector
    return clip.cached("true poses", lambda: detector.detect(clip.true_frames))


def _stature(joints: np.ndarray) -> float:
    """The largest stature of frames (F, 24, 2), pixels; NaN without a figure."""
    statures = [stature_from_joints(frame) for frame in joints]
    return float(np.nanmax(statures)) if np.isfinite(statures).any() else np.nan


def _psnr(squared_errors: np.ndarray, part: np.ndarray) -> float:
    """Mean over frames, dB, of the pixels `part`. (F, H, W) both; NaN where no frame has the part"""
    num_pixels = part.sum((1, 2))
    has_part = num_pixels > 0
    if not has_part.any():
        return np.nan
    mse = (squared_errors * part).sum((1, 2))[has_part] / num_pixels[has_part]
    values = 10 * np.log10(PEAK**2 / mse[mse > 0])
    return float(values.mean()) if values.size else np.inf
