"""Identity metrics: similarity to the figure of the reference image, and its drift over time.

A figure is described by its colours: the distributions of the three CIELAB values for each region of the body. The
distance of two figures is the earth mover's distance of these distributions, in CIELAB units; 2.3 is just noticeable.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from zoo.body.detection.base import Poses
from zoo.body.labels import FOOT, FOREARM, HAND, HEAD, JOINT_LIMB, SHIN, THIGH, TORSO, UPPER_ARM
from zoo.body.skeleton import PARENTS
from zoo.metrics.base import OTHER_SONG, TIME_SUFFIX, ClipMetric, Column, Measurement, MetricInput

COLOR_REGIONS = ("head", "torso", "upper arms", "forearms", "thighs", "shins", "feet")
_REGION_OF = {HEAD: 0, TORSO: 1, UPPER_ARM: 2, FOREARM: 3, HAND: 3, THIGH: 4, SHIN: 5, FOOT: 6}
_PARENT = np.array(PARENTS[1:])  # of joints 1..23: a bone leads to each, and moves with its parent joint
_BONE_FRACTIONS = (0.25, 0.5, 0.75)
_END_JOINTS = np.setdiff1d(np.arange(len(PARENTS)), PARENTS)
_JOINT_REGION = np.array([_REGION_OF[limb] for limb in JOINT_LIMB])
_POINT_REGION = np.concatenate([np.tile(_JOINT_REGION[_PARENT], len(_BONE_FRACTIONS)), _JOINT_REGION[_END_JOINTS]])
SAMPLES_PER_SIDE = 64  # along the image's shorter side
BIN_WIDTH, MIN_VALUE, NUM_BINS = 2.0, -128.0, 128  # of every colour value: CIELAB units
MIN_SAMPLES = 4.0  # of a region, to be compared
MASK_THRESHOLD = 0.5  # above it a pixel belongs to the figure


@dataclass(frozen=True)
class Signature:
    """The colours of figures. counts (..., regions, 3, NUM_BINS) float32: samples by region, CIELAB value and bin."""

    counts: np.ndarray

    def __getitem__(self, index) -> "Signature":
        return Signature(self.counts[index])

    def pooled(self) -> "Signature":
        """Sum over the first dimension, (F, ...) -> (...)."""
        return Signature(self.counts.sum(0))

    @property
    def has_figure(self) -> np.ndarray:
        """bool (...): whether the figure has enough samples."""
        return (self.counts[..., 0, :].sum(-1) >= MIN_SAMPLES).any(-1)


def signature(frames: np.ndarray, poses: Poses) -> Signature:
    """The signature of the figure in each frame, with counts (F, regions, 3, BINS).

    frames (F, H, W, 3) uint8. The figure is where `poses.mask` is above its threshold; a pixel belongs to the region of
    the nearest joint or middle of a bone. A frame without a figure has no counts.
    """
    stride, frame_index, rows, columns = _figure_samples(frames, poses)
    colors = frames[frame_index, rows * stride, columns * stride]  # (N, 3)
    region = nearest_region(poses.joints, frame_index, columns * stride, rows * stride)
    lab_colors = cv2.cvtColor(colors[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0] if len(colors) else colors
    bins = np.clip((lab_colors - MIN_VALUE) / BIN_WIDTH, 0, NUM_BINS - 1).astype(np.int64)
    histogram_index = (frame_index * len(COLOR_REGIONS) + region)[:, None] * 3 + np.arange(3)
    counts = np.bincount(
        (histogram_index * NUM_BINS + bins).reshape(-1), minlength=len(frames) * len(COLOR_REGIONS) * 3 * NUM_BINS
    )
    return Signature(counts.reshape(len(frames), len(COLOR_REGIONS), 3, NUM_BINS).astype(np.float32))


def signature_distance(a: Signature, b: Signature) -> np.ndarray:
    """CIELAB units between the figures of `a` and `b`, mean over common regions; NaN without any. (...)

    Of a region: the root of the summed squares of the earth mover's distances of its three colour values; the distance
    of plain colours is then CIE76's. Leading dimensions broadcast: pass (N, 1, ...) and (M, ...) for all pairs.
    """
    sizes = [s.counts.sum(-1, keepdims=True) for s in (a, b)]
    cumulative = [np.cumsum(s.counts, -1) / np.maximum(size, 1) for s, size in zip((a, b), sizes, strict=True)]
    moved_distance = (
        np.abs(cumulative[0] - cumulative[1]).sum(-1) * BIN_WIDTH
    )  # (..., regions, 3): the area between two cumulative shares
    is_shared = (sizes[0][..., 0, 0] >= MIN_SAMPLES) & (sizes[1][..., 0, 0] >= MIN_SAMPLES)
    total_distance = np.where(is_shared, np.sqrt((moved_distance**2).sum(-1)), 0).sum(-1)
    num_shared = is_shared.sum(-1)
    return np.where(num_shared > 0, total_distance / np.maximum(num_shared, 1), np.nan)


def _figure_samples(frames: np.ndarray, poses: Poses) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Return the stride of the grid, and frame, row and column on it of the samples of figures."""
    stride = max(1, round(min(frames.shape[1:3]) / SAMPLES_PER_SIDE))
    is_figure = poses.mask[:, ::stride, ::stride] > MASK_THRESHOLD
    is_figure &= np.isfinite(poses.joints).all((1, 2))[:, None, None]
    return stride, *np.nonzero(is_figure)


def nearest_region(joints: np.ndarray, frame_index: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Find the region of the skeleton's point nearest to each sample: (N,) int64.

    The points are a quarter, half and three quarters of the way along every bone, and the ends of the limbs.
    """
    upper, lower = joints[:, _PARENT], joints[:, 1:]
    points = np.concatenate(
        [upper + fraction * (lower - upper) for fraction in _BONE_FRACTIONS] + [joints[:, _END_JOINTS]], 1
    )
    region = np.empty(len(frame_index), np.int64)
    positions = np.stack([x, y], 1).astype(np.float32)
    frame_bounds = np.searchsorted(frame_index, np.arange(len(joints) + 1))  # samples are sorted by frame
    for frame, (first, last) in enumerate(zip(frame_bounds[:-1], frame_bounds[1:], strict=True)):
        if first < last:
            frame_points = points[frame].astype(np.float32)
            nearest = np.argmin((frame_points**2).sum(1) - 2 * positions[first:last] @ frame_points.T, axis=1)
            region[first:last] = _POINT_REGION[nearest]
    return region


class Identity(ClipMetric):
    """Distance of the figure's colours, region by region, to the reference image, and its drift.

    The detector segments the figure in every frame and in the reference. Distance: the mean over frames of the earth
    mover's distance in CIELAB (see `signature_distance`), of the frames with a figure; their fraction is a column of
    its own. Drift: the last quarter's distance less the first's. Background: mean CIE76 difference of the pixels
    outside the figures of frame and reference; the camera must not move.
    """

    columns: ClassVar = {
        "identity_distance": Column("identity", "lower", digits=2, unit="ΔE", must_beat=frozenset({OTHER_SONG})),
        "identity_drift": Column("identity drift", "lower", digits=2, unit="ΔE"),
        "background_distance": Column("background", "lower", digits=2, unit="ΔE", must_beat=frozenset({OTHER_SONG})),
        "figure_found": Column("figure found", "higher", digits=2),
    }
    required_inputs: ClassVar = frozenset({"detector"})

    def measure(self, clip: MetricInput) -> Measurement:
        """Measure one clip."""
        reference_poses = clip.cached("reference poses", lambda: clip.detector.detect(clip.reference[None]))
        reference_signature = signature(clip.reference[None], reference_poses)[0]
        signatures = signature(clip.frames, clip.poses)
        distance = signature_distance(signatures, reference_signature)
        quarter = max(1, len(distance) // 4)
        return {
            "identity_distance": _mean(distance),
            "identity_distance" + TIME_SUFFIX: distance,
            "identity_drift": _mean(distance[-quarter:]) - _mean(distance[:quarter]),
            "background_distance": _mean(
                background_difference(clip.frames, clip.poses.mask, clip.reference, reference_poses.mask[0])
            ),
            "figure_found": np.float64(signatures.has_figure.mean()),
        }


def _mean(values: np.ndarray) -> np.float64:
    """Mean of the finite values; NaN without any."""
    values = values[np.isfinite(values)]
    return np.float64(values.mean()) if len(values) else np.float64("nan")


def background_difference(
    frames: np.ndarray, mask: np.ndarray, reference: np.ndarray, reference_mask: np.ndarray
) -> np.ndarray:
    """CIE76 difference to the reference of the samples outside both figures: (F,), NaN without samples."""
    stride = max(1, round(2 * min(frames.shape[1:3]) / SAMPLES_PER_SIDE))
    sampled_frames = np.concatenate([reference[None], frames])[:, ::stride, ::stride]
    lab_colors = cv2.cvtColor(
        sampled_frames.reshape(len(sampled_frames), -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB
    )
    is_background = (mask[:, ::stride, ::stride] <= MASK_THRESHOLD) & (
        reference_mask[::stride, ::stride] <= MASK_THRESHOLD
    )
    is_background = is_background.reshape(len(frames), -1)
    change = lab_colors[1:] - lab_colors[:1]
    difference = np.sqrt(np.einsum("fnc,fnc->fn", change, change))
    count = is_background.sum(1)
    return np.where(count > 0, (difference * is_background).sum(1) / np.maximum(count, 1), np.nan)
