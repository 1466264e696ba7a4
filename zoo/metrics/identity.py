"""Identity: is it still the figure of the reference picture, and does it drift away from it over time?

A figure is known by its colours: for each region of the body, how the lightness and the two colour values (CIELAB) of
its pixels are distributed. Two figures are as far apart as their distributions have to be moved, in CIELAB units: 2.3
is a difference that a person just sees.
"""

from dataclasses import dataclass
from typing import ClassVar

import cv2
import numpy as np

from zoo.body.detection.blazepose_detector import Poses
from zoo.body.labels import FOOT, FOREARM, HAND, HEAD, JOINT_LIMB, SHIN, THIGH, TORSO, UPPER_ARM
from zoo.body.skeleton import PARENTS
from zoo.metrics.base import OTHER_SONG, OVER_TIME, ClipMetric, Column, Evidence, Measurement

REGIONS = ("head", "torso", "upper arms", "forearms", "thighs", "shins", "feet")
_REGION_OF = {HEAD: 0, TORSO: 1, UPPER_ARM: 2, FOREARM: 3, HAND: 3, THIGH: 4, SHIN: 5, FOOT: 6}
_PARENT = np.array(PARENTS[1:])  # of joints 1..23: a bone leads to each, and moves with the joint it comes from
_SHARES = (0.25, 0.5, 0.75)
_ENDS = np.setdiff1d(np.arange(len(PARENTS)), PARENTS)
_JOINT_REGION = np.array([_REGION_OF[limb] for limb in JOINT_LIMB])
_POINT_REGION = np.concatenate([np.tile(_JOINT_REGION[_PARENT], len(_SHARES)), _JOINT_REGION[_ENDS]])
GRID = 64  # samples along the picture's shorter side
BIN, LOW, BINS = 2.0, -128.0, 128  # of every colour value: CIELAB units
ENOUGH = 4.0  # samples that a region must have to be compared
SURE = 0.5  # of the mask: above it a pixel is the figure's


@dataclass(frozen=True)
class Signature:
    """The colours of figures. counts (..., regions, 3, BINS) float32: samples by region, CIELAB value and bin."""

    counts: np.ndarray

    def __getitem__(self, which) -> "Signature":
        return Signature(self.counts[which])

    def pooled(self) -> "Signature":
        """That of all together, (F, ...) -> (...)."""
        return Signature(self.counts.sum(0))

    @property
    def found(self) -> np.ndarray:
        """bool (...): whether there is anything of a figure."""
        return (self.counts[..., 0, :].sum(-1) >= ENOUGH).any(-1)


def signature(frames: np.ndarray, poses: Poses) -> Signature:
    """The signature of the figure in each frame, with counts (F, regions, 3, BINS).

    frames (F, H, W, 3) uint8. The figure is where `poses.mask` is sure; a pixel belongs to the region of the nearest
    joint or middle of a bone. A frame without a figure has no counts.
    """
    step, frames_at, rows, columns = _figure(frames, poses)
    colour = frames[frames_at, rows * step, columns * step]  # (N, 3)
    region = _regions(poses.joints, frames_at, columns * step, rows * step)
    lab = cv2.cvtColor(colour[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0] if len(colour) else colour
    level = np.clip((lab - LOW) / BIN, 0, BINS - 1).astype(np.int64)
    place = (frames_at * len(REGIONS) + region)[:, None] * 3 + np.arange(3)
    counts = np.bincount((place * BINS + level).reshape(-1), minlength=len(frames) * len(REGIONS) * 3 * BINS)
    return Signature(counts.reshape(len(frames), len(REGIONS), 3, BINS).astype(np.float32))


def signature_distance(a: Signature, b: Signature) -> np.ndarray:
    """CIELAB units between the figures of `a` and `b`, mean over the regions that both show; NaN where none is. (...)

    Of a region: the root of the summed squares of the earth mover's distances of its three colour values; the distance
    of plain colours is then CIE76's. Leading dimensions broadcast: give (N, 1, ...) and (M, ...) for all pairs.
    """
    sizes = [s.counts.sum(-1, keepdims=True) for s in (a, b)]
    below = [np.cumsum(s.counts, -1) / np.maximum(size, 1) for s, size in zip((a, b), sizes, strict=True)]
    moved = np.abs(below[0] - below[1]).sum(-1) * BIN  # (..., regions, 3): the area between two cumulative shares
    both = (sizes[0][..., 0, 0] >= ENOUGH) & (sizes[1][..., 0, 0] >= ENOUGH)
    far = np.where(both, np.sqrt((moved**2).sum(-1)), 0).sum(-1)
    shown = both.sum(-1)
    return np.where(shown > 0, far / np.maximum(shown, 1), np.nan)


def _figure(frames: np.ndarray, poses: Poses) -> tuple[int, np.ndarray, np.ndarray, np.ndarray]:
    """Step of the grid of samples, and frame, row and column on the grid of the samples that are a figure's."""
    step = max(1, round(min(frames.shape[1:3]) / GRID))
    sure = poses.mask[:, ::step, ::step] > SURE
    sure &= np.isfinite(poses.joints).all((1, 2))[:, None, None]
    return step, *np.nonzero(sure)


def _regions(joints: np.ndarray, frames_at: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The region of the point of the skeleton that is nearest to each sample. -> (N,) int64

    The points are a quarter, half and three quarters of the way along every bone, and the ends of the limbs.
    """
    upper, lower = joints[:, _PARENT], joints[:, 1:]
    points = np.concatenate([upper + share * (lower - upper) for share in _SHARES] + [joints[:, _ENDS]], 1)
    region = np.empty(len(frames_at), np.int64)
    places = np.stack([x, y], 1).astype(np.float32)
    bounds = np.searchsorted(frames_at, np.arange(len(joints) + 1))  # samples come frame by frame
    for frame, (first, last) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        if first < last:
            point = points[frame].astype(np.float32)
            nearest = np.argmin((point**2).sum(1) - 2 * places[first:last] @ point.T, axis=1)
            region[first:last] = _POINT_REGION[nearest]
    return region


class Identity(ClipMetric):
    """How far the figure's colours, region by region, are from the reference picture's, and whether they drift.

    The detector cuts the figure out of every frame and of the reference. Distance: the mean over frames of the
    earth mover's distance in CIELAB (see `signature_distance`), of the frames with a figure; how many those are is a
    column of its own. Drift: the last quarter's distance less the first's. Background: mean CIE76 difference of the
    pixels that are no figure's in the frame or the reference, whose camera stands still.
    """

    columns: ClassVar = {
        "identity_distance": Column("identity", "lower", digits=2, unit="ΔE", sees=frozenset({OTHER_SONG})),
        "identity_drift": Column("identity drift", "lower", digits=2, unit="ΔE"),
        "background_distance": Column("background", "lower", digits=2, unit="ΔE", sees=frozenset({OTHER_SONG})),
        "figure_found": Column("figure found", "higher", digits=2),
    }
    needs: ClassVar = frozenset({"detector"})

    def measure(self, clip: Evidence) -> Measurement:
        """See Metric."""
        still = clip.once("reference poses", lambda: clip.detector.detect(clip.reference[None]))
        known = signature(clip.reference[None], still)[0]
        found = signature(clip.frames, clip.poses)
        distance = signature_distance(found, known)
        quarter = max(1, len(distance) // 4)
        return {
            "identity_distance": _mean(distance),
            "identity_distance" + OVER_TIME: distance,
            "identity_drift": _mean(distance[-quarter:]) - _mean(distance[:quarter]),
            "background_distance": _mean(
                background_difference(clip.frames, clip.poses.mask, clip.reference, still.mask[0])
            ),
            "figure_found": np.float64(found.found.mean()),
        }


def _mean(values: np.ndarray) -> np.float64:
    """Of what is not NaN; NaN where nothing is."""
    values = values[np.isfinite(values)]
    return np.float64(values.mean()) if len(values) else np.float64("nan")


def background_difference(
    frames: np.ndarray, mask: np.ndarray, reference: np.ndarray, covered: np.ndarray
) -> np.ndarray:
    """CIE76 difference to the reference of each frame's samples outside both figures. -> (F,), NaN where none is"""
    step = max(1, round(2 * min(frames.shape[1:3]) / GRID))
    thin = np.concatenate([reference[None], frames])[:, ::step, ::step]
    lab = cv2.cvtColor(thin.reshape(len(thin), -1, 3).astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    free = (mask[:, ::step, ::step] <= SURE) & (covered[::step, ::step] <= SURE)
    free = free.reshape(len(frames), -1)
    change = lab[1:] - lab[:1]
    difference = np.sqrt(np.einsum("fnc,fnc->fn", change, change))
    count = free.sum(1)
    return np.where(count > 0, (difference * free).sum(1) / np.maximum(count, 1), np.nan)
