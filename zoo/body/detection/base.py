"""Interfaces of pose detectors, what they return, and SMPL's joints from a detector's own keypoints."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass

import numpy as np

from zoo.body.detection.figure_mask import mask_to_alpha, refine_mask
from zoo.body.image_skeleton import HIP_RISE, HIP_WIDTH, stature_from_joints
from zoo.body.skeleton import JOINTS

# The joints of the trunk that detectors do not have: heights over the hips (0) on the line to the shoulders (1), in
# SMPL's mean body. Detectors' hips and ears differ from SMPL's; the differences were measured on rendered bodies.
SPINE_HEIGHTS = {"pelvis": 0.07, "spine1": 0.31, "spine2": 0.57, "spine3": 0.68, "neck": 1.09}
COLLAR_HEIGHT, COLLAR_WIDTH = 0.91, 0.4  # the width is a fraction of the shoulders'
HEAD_ABOVE_EARS = -0.08
MAX_BOTTOM_EDGE_WIDTH = 0.13  # of the stature: a mask that is wider on the lower image edge has its feet cut off


@dataclass(frozen=True)
class Poses:
    """Detections in F frames, as SMPL's 24 joints (zoo.body.skeleton)."""

    joints: np.ndarray  # (F, 24, 2) float32 pixels, x right, y down; NaN in frames without a figure
    confidence: np.ndarray  # (F, 24) float32 in [0, 1]
    mask: np.ndarray  # (F, H, W) float32 in [0, 1]: probability that a pixel belongs to the figure


@dataclass(frozen=True)
class SegmentedFigure:
    """The one figure of an image (H, W)."""

    alpha: np.ndarray  # (H, W) float32 in [0, 1]
    joints: np.ndarray  # (24, 2) float32 pixels
    quality: float  # in [0, 1]: visibility of arms and legs
    stature: float  # pixels: its height when standing upright
    note: str | None = None  # one line for the user: which one of several people this is, and what of it is missing
    cut_row: float | None = None  # row of pixels below which the figure is not visible; None: it is whole
    cut_sides: tuple[str, ...] = ()  # edges of the image, "left" and "right", that cut off a figure that is not whole
    visible_arms: tuple[str, ...] = ("left", "right")  # sides of the arms that the image shows up to the hand
    other_people: np.ndarray | None = None  # (H, W) bool: pixels that show someone else


class PersonNumberError(ValueError):
    """The image has no person of the number that the user gave."""


class PoseDetector(ABC):
    """Detects the one figure in each frame of a video."""

    name: str  # with its version; shown beside every number that depends on it

    @abstractmethod
    def detect(self, frames: np.ndarray) -> Poses:
        """frames: (F, H, W, 3) uint8."""

    def segment_figure(
        self, image: np.ndarray, min_confidence: float = 0.0, half_body: bool = False
    ) -> SegmentedFigure:
        """Segment the one figure of an image (H, W, 3) uint8; the detector's coarse mask is refined.

        min_confidence: smallest mean confidence of the joints. half_body: a figure whose feet are cut off is segmented
        too, by detectors that know which points they see. Raises ValueError, one line without the image's name, where
        no figure is detected or its feet are cut off.
        """
        poses, note = self.detect_figure(image)
        joints = poses.joints[0]
        if not np.isfinite(joints).all() or poses.confidence[0].mean() < min_confidence:
            raise ValueError(f"no figure was detected (by the {self.name})")
        mask = refine_mask(image, poses.mask[0], joints)
        stature = stature_from_joints(joints)
        if (mask[-1] > 0.5).sum() > MAX_BOTTOM_EDGE_WIDTH * stature:
            raise ValueError("the feet of the figure are cut off; use an image that shows the whole body")
        return SegmentedFigure(mask_to_alpha(mask), joints, 1.0, stature, note)

    def detect_figure(self, image: np.ndarray) -> tuple[Poses, str | None]:
        """The poses (1, ...) of the figure of an image (H, W, 3) uint8, and a note on the choice among several."""
        return self.detect(image[None]), None


class PersonDetector(PoseDetector):
    """Detects people in photographs, which may show none or several.

    person: number of the person that `segment_figure` segments, counted from the left and from 1; None: the largest;
    several numbers: for callers that take the detectors of `one_by_one`.
    """

    person: int | tuple[int, ...] | None = None

    @abstractmethod
    def find_people(self, image: np.ndarray) -> Sequence:
        """The people in an image (H, W, 3) uint8, highest score first; each has a `box` (4,) x0, y0, x1, y1."""

    def one_by_one(self) -> "list[PersonDetector]":
        """A detector for each number of `person`; they share the networks."""
        numbers = self.person if isinstance(self.person, tuple) else (self.person,)
        detectors = [copy(self) for _ in numbers]
        for detector, number in zip(detectors, numbers, strict=True):
            detector.person = number
        return detectors

    def choose_person(self, boxes: Sequence[np.ndarray]) -> tuple[int, str | None]:
        """Index of the box (4,) of person number `person`, or of the largest box, and a note where there are several.

        Raises PersonNumberError where `person` is not among the boxes, or is several numbers.
        """
        if isinstance(self.person, tuple):
            numbers = ",".join(map(str, self.person))
            raise PersonNumberError(f"person=[{numbers}]: several people dance together with renderer=warp only")
        if self.person is None:
            index = int(np.argmax([np.prod(box[2:] - box[:2]) for box in boxes]))
        elif self.person > len(boxes):
            count = f"{len(boxes)} people were" if len(boxes) > 1 else f"{len(boxes) or 'no'} person was"
            raise PersonNumberError(f"person={self.person}: {count} detected")
        from_left = sorted(range(len(boxes)), key=lambda position: float(boxes[position][0] + boxes[position][2]))
        if self.person is not None:
            return from_left[self.person - 1], None
        if len(boxes) == 1:
            return index, None
        number = 1 + from_left.index(index)
        return index, (
            f"{len(boxes)} people were detected, of whom person {number} from the left is the largest; "
            "person=N chooses another"
        )


def joint_weights(
    num_points: int,
    limb_points: Mapping[str, Sequence[Sequence[int]]],
    shoulders: Sequence[int],
    hips: Sequence[int],
    ears: Sequence[int],
) -> np.ndarray:
    """(24, num_points): SMPL's joints as weighted sums of a detector's keypoints.

    limb_points: joint name without its side -> the keypoints to average, on the left and on the right.
    shoulders, hips, ears: indices of the left and the right keypoint.
    """
    point = np.eye(num_points)
    mid_hip, mid_shoulder = point[list(hips)].mean(0), point[list(shoulders)].mean(0)
    trunk = mid_shoulder - mid_hip
    rows = {name: mid_hip + height * trunk for name, height in SPINE_HEIGHTS.items()}
    rows["head"] = point[list(ears)].mean(0) + HEAD_ABOVE_EARS * trunk
    for side, name in enumerate(("left", "right")):
        rows[f"{name}_hip"] = mid_hip + HIP_RISE * trunk + HIP_WIDTH * (point[hips[side]] - mid_hip)
        rows[f"{name}_collar"] = (
            mid_hip + COLLAR_HEIGHT * trunk + COLLAR_WIDTH * (point[shoulders[side]] - mid_shoulder)
        )
        rows |= {f"{name}_{joint}": point[list(sides[side])].mean(0) for joint, sides in limb_points.items()}
    return np.stack([rows[name] for name in JOINTS])


def weighted_joints(weights: np.ndarray, points: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (24, 2) from keypoints (P, 2) by `joint_weights`; a joint's score (24,) is its lowest keypoint's."""
    return weights @ points, np.where(weights != 0, scores, 1).min(1)
