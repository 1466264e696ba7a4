"""Body integrity: whether the figure of every frame is whole, solid and has no limb too many.

Six signals are mapped to [0, 1] each and multiplied, so that one kind of damage is enough for a low value:

| signal | damage that it sees |
|---|---|
| `head` | no head where the pose has one: confidence of neck and head |
| `weakest_joint` | a missing limb: the lowest confidence of a joint |
| `opacity` | a translucent figure: its colours between the background's and the reference figure's |
| `one_piece` | floating parts: fraction of the figure in its largest connected component |
| `third_hand` | a third arm: the third highest peak of the heat maps of wrists and hands |
| `outside` | further limbs or smear: fraction of the figure far from every bone, more than in the reference |

Lengths of bones and their change over time are not among them: the detector predicts a whole skeleton for a figure
without a head or with three arms, with lengths as in a true frame. results/body_integrity.md has the validation.
"""

from collections.abc import Mapping
from typing import ClassVar

import cv2
import numpy as np

from zoo.body.detection.base import Poses
from zoo.body.detection.synthetic_detector import PosesWithFeatures
from zoo.body.image_skeleton import JOINT_INDEX, LIMB_EXTENSION, LIMBS, TORSO_CORNERS, stature_from_joints
from zoo.metrics.base import TIME_SUFFIX, ClipMetric, Column, Measurement, MetricInput
from zoo.metrics.identity import COLOR_REGIONS, MASK_THRESHOLD, MIN_SAMPLES, nearest_region

# signal -> its values that count as 0 and as 1; chosen on the validation clips of the world
SCORE_RANGES: Mapping[str, tuple[float, float]] = {
    "head": (0.1, 0.6),
    "weakest_joint": (0.0, 0.15),
    "opacity": (0.4, 0.9),
    "one_piece": (0.8, 0.97),
    "third_hand": (-2.0, -7.0),
    "outside": (0.16, 0.02),
}
HEAD_JOINTS = [JOINT_INDEX["neck"], JOINT_INDEX["head"]]
LIMB_SCALE = 1.2  # widens the limbs of the skeleton: errors of the joints are no damage
TORSO_WIDTH = 0.2  # of the stature
MAX_BACKGROUND_FRAMES = 12  # frames from which the background is estimated
NO_FIGURE_THRESHOLD = 0.1  # of the mask: pixels below it, and 2 pixels away from others, show the background
MIN_FIGURE_PIXELS = 10


def estimate_background(frames: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Median of the frames that show a pixel without the figure, inpainted where none does; the camera must not move.

    frames (F, H, W, 3) uint8, mask (F, H, W) in [0, 1] -> (H, W, 3) uint8
    """
    kernel = np.ones((5, 5), np.uint8)
    hidden = np.stack([cv2.dilate((values > NO_FIGURE_THRESHOLD).astype(np.uint8), kernel) for values in mask]) > 0
    ordered = np.sort(np.where(hidden[..., None], 255, frames), 0)  # hidden values come last
    count = (~hidden).sum(0)
    middle = np.maximum(count - 1, 0) // 2
    median = np.take_along_axis(ordered, middle[None, ..., None], 0)[0]
    return cv2.inpaint(median, (count == 0).astype(np.uint8), 3, cv2.INPAINT_TELEA)


def skeleton_area(joints: np.ndarray, stature: float, shape: tuple[int, int]) -> np.ndarray:
    """(H, W) bool: where the skeleton's limbs and torso are expected. joints (24, 2) and stature in pixels"""
    area = np.zeros(shape, np.uint8)

    def draw(start: np.ndarray, end: np.ndarray, width: float) -> None:
        points = ((np.stack([start, end]) * 8).round().astype(int)).tolist()  # eighths of a pixel
        cv2.line(area, tuple(points[0]), tuple(points[1]), 1, max(1, round(width * stature)), cv2.LINE_8, 3)

    for name, (first, last, thickness, _) in LIMBS.items():
        start, end = joints[JOINT_INDEX[first]], joints[JOINT_INDEX[last]]
        extension = LIMB_EXTENSION.get(name.removeprefix("left_").removeprefix("right_"), 1.0)
        draw(start, start + extension * (end - start), 2 * thickness * LIMB_SCALE)
    corners = joints[[JOINT_INDEX[name] for name in TORSO_CORNERS]].astype(np.float32)
    cv2.fillConvexPoly(area, cv2.convexHull(corners).round().astype(np.int32), 1)
    draw(joints[JOINT_INDEX["pelvis"]], joints[JOINT_INDEX["neck"]], TORSO_WIDTH)
    return area > 0


def integrity_signals(
    frames: np.ndarray, poses: PosesWithFeatures, reference: np.ndarray, reference_poses: Poses
) -> dict[str, np.ndarray]:
    """The signals of `SCORE_RANGES` before they are mapped, (F,) each; NaN in frames without a figure.

    frames (F, H, W, 3), reference (H, W, 3) uint8; reference_poses: (1, ...), of an image with a figure.
    """
    num_frames, shape = len(frames), frames.shape[1:3]
    is_figure = poses.mask > MASK_THRESHOLD
    has_figure = np.isfinite(poses.joints).all((1, 2)) & (is_figure.sum((1, 2)) >= MIN_FIGURE_PIXELS)
    signals = {name: np.full(num_frames, np.nan) for name in SCORE_RANGES}
    if not has_figure.any():
        return signals
    is_figure &= has_figure[:, None, None]
    signals["head"] = poses.confidence[:, HEAD_JOINTS].mean(1)
    signals["weakest_joint"] = poses.confidence.min(1)
    signals["third_hand"] = poses.third_hand
    signals["opacity"] = _opacity(frames, poses, is_figure, reference, reference_poses)
    reference_figure = reference_poses.mask[0] > MASK_THRESHOLD
    reference_joints = reference_poses.joints[0]
    reference_area = skeleton_area(reference_joints, stature_from_joints(reference_joints), reference_figure.shape)
    reference_outside = (reference_figure & ~reference_area).sum() / reference_figure.sum()
    stature = float(np.median([stature_from_joints(joints) for joints in poses.joints[has_figure]]))
    for frame in np.flatnonzero(has_figure):
        figure = is_figure[frame]
        outside = figure & ~skeleton_area(poses.joints[frame], stature, shape)
        signals["outside"][frame] = outside.sum() / figure.sum() - reference_outside
        _, _, stats, _ = cv2.connectedComponentsWithStats(figure.astype(np.uint8))
        signals["one_piece"][frame] = stats[1:, cv2.CC_STAT_AREA].max() / figure.sum()
    return {name: np.where(has_figure, values, np.nan) for name, values in signals.items()}


def integrity_scores(signals: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Map signals to [0, 1] by `SCORE_RANGES`, linear within; 0 in frames without a figure. (F,) each"""
    scores = {}
    for name, (zero, one) in SCORE_RANGES.items():
        scores[name] = np.nan_to_num(np.clip((signals[name] - zero) / (one - zero), 0, 1))
    return scores


def _opacity(
    frames: np.ndarray, poses: Poses, is_figure: np.ndarray, reference: np.ndarray, reference_poses: Poses
) -> np.ndarray:
    """The figure's opacity in each frame, (F,): NaN without a figure.

    The least-squares alpha of frame = background + alpha (colour - background) over the figure's pixels, where colour
    is the mean colour of the same region of the body in the reference.
    """
    indices = np.unique(np.linspace(0, len(frames) - 1, MAX_BACKGROUND_FRAMES).round().astype(int))
    background = estimate_background(
        np.concatenate([frames[indices], reference[None]]), np.concatenate([poses.mask[indices], reference_poses.mask])
    ).astype(np.float32)
    colors = _region_colors(reference, reference_poses)
    frame_index, rows, columns = np.nonzero(is_figure)
    behind = background[rows, columns]
    contrast = colors[nearest_region(poses.joints, frame_index, columns, rows)] - behind
    difference = frames[frame_index, rows, columns] - behind
    products = (np.bincount(frame_index, (x * contrast).sum(1), len(frames)) for x in (difference, contrast))
    covariance, variance = products
    return np.where(is_figure.any((1, 2)), covariance / np.maximum(variance, 1), np.nan)


def _region_colors(reference: np.ndarray, poses: Poses) -> np.ndarray:
    """Mean colours (regions, 3) of the figure in an image; a region that is not visible gets the whole figure's."""
    frame_index, rows, columns = np.nonzero(poses.mask > MASK_THRESHOLD)
    colors = reference[rows, columns].astype(np.float32)
    region = nearest_region(poses.joints, frame_index, columns, rows)
    return np.stack(
        [
            colors[region == index].mean(0) if (region == index).sum() >= MIN_SAMPLES else colors.mean(0)
            for index in range(len(COLOR_REGIONS))
        ]
    )


class BodyIntegrity(ClipMetric):
    """Whether the figure is whole, solid and without further limbs: the product of six scores, mean over frames.

    1 is a figure as in true videos, 0 a damaged one or none. Only the synthetic detector has the heat maps and the
    confidences for which the scores' ranges were chosen; with another detector clips have no value (NaN). Figures are
    compared with the reference's: another person is measured as damaged. Missing arms and legs are seen less often than
    a missing head.
    """

    columns: ClassVar = {"body_integrity": Column("body integrity", "higher")}
    required_inputs: ClassVar = frozenset({"detector"})
    in_protocol_hash: ClassVar = False

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        poses, detector = clip.poses, clip.detector
        assert detector is not None  # listed in `required_inputs`
        reference_poses = clip.cached("reference poses", lambda: detector.detect(clip.reference[None]))
        has_reference = np.isfinite(reference_poses.joints).all() and (reference_poses.mask > MASK_THRESHOLD).any()
        if not isinstance(poses, PosesWithFeatures) or not has_reference:
            return {"body_integrity": np.asarray(np.nan)}
        signals = integrity_signals(clip.frames, poses, clip.reference, reference_poses)
        values = np.prod(list(integrity_scores(signals).values()), 0)
        return {"body_integrity": np.asarray(values.mean()), "body_integrity" + TIME_SUFFIX: values}
