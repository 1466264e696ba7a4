"""Finding people in pictures: what a detector is, and the one for real pictures."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.body.detection.blazepose import BODY_POINTS, MIN_SCORE, BlazePose, Landmarks, Person, Region
from zoo.body.skeleton import JOINTS

# SMPL's joints from BlazePose's 33 points, left and right: the points whose mean a joint is
SIDES = {
    "knee": ((25,), (26,)), "ankle": ((27,), (28,)), "foot": ((31,), (32,)),
    "shoulder": ((11,), (12,)), "elbow": ((13,), (14,)), "wrist": ((15,), (16,)), "hand": ((17, 19), (18, 20)),
}  # fmt: skip
SHOULDERS, HIPS, EARS = (11, 12), (23, 24), (7, 8)
# the others, from the hips (0) up to the shoulders (1), in SMPL's mean body; but BlazePose's hips are points of the
# outline, 0.09 above SMPL's and 1.75 times as wide, and its ears are 0.08 above SMPL's head (measured on the world's)
SPINE = {"pelvis": 0.07, "spine1": 0.31, "spine2": 0.57, "spine3": 0.68, "neck": 1.09}
HIP_UP, HIP_OUT = -0.09, 0.57  # out: in widths of BlazePose's hips
COLLAR_UP, COLLAR_OUT = 0.91, 0.4  # out: in widths of the shoulders
HEAD_OVER_EARS = -0.08
SURE = 0.9  # presence above which one look at a figure is enough


def joint_weights(
    points: int,
    sides: Mapping[str, Sequence[Sequence[int]]] = SIDES,
    shoulders: Sequence[int] = SHOULDERS,
    hips: Sequence[int] = HIPS,
    ears: Sequence[int] = EARS,
) -> np.ndarray:
    """(24, points): SMPL's joints from a detector's points, as weights; which points these are, left before right."""
    point = np.eye(points)
    middle, neck = point[list(hips)].mean(0), point[list(shoulders)].mean(0)
    up = neck - middle
    rows = {name: middle + height * up for name, height in SPINE.items()}
    rows["head"] = point[list(ears)].mean(0) + HEAD_OVER_EARS * up
    for side, name in enumerate(("left", "right")):
        rows[f"{name}_hip"] = middle + HIP_UP * up + HIP_OUT * (point[hips[side]] - middle)
        rows[f"{name}_collar"] = middle + COLLAR_UP * up + COLLAR_OUT * (point[shoulders[side]] - neck)
        rows |= {f"{name}_{joint}": point[list(those[side])].mean(0) for joint, those in sides.items()}
    return np.stack([rows[name] for name in JOINTS])


TO_JOINTS = joint_weights(BODY_POINTS)


def as_joints(weights: np.ndarray, points: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Joints (24, 2) from points (P, 2) by `joint_weights`, each as sure (24,) as its unsurest point (P,)."""
    return weights @ points, np.where(weights != 0, sure, 1).min(1)


@dataclass(frozen=True)
class Poses:
    """What a detector found in F frames, in SMPL's 24 joints (zoo.body.skeleton)."""

    joints: np.ndarray  # (F, 24, 2) float32 pixels, x right, y down; NaN in frames where no figure was found
    confidence: np.ndarray  # (F, 24) float32 in [0, 1]
    mask: np.ndarray  # (F, H, W) float32 in [0, 1]: how surely a pixel is the figure's


class PoseDetector(ABC):
    """Finds the one figure in each frame of a video."""

    name: str  # said beside every number that rests on it, with its version

    @abstractmethod
    def detect(self, frames: np.ndarray) -> Poses:
        """frames: (F, H, W, 3) uint8."""


class FindsPeople(PoseDetector):
    """A detector for real pictures, of which one may show nobody, or several."""

    @abstractmethod
    def find_people(self, image: np.ndarray) -> Sequence:
        """The people in an image (H, W, 3) uint8, surest first; each has a `box` (4,) x0, y0, x1, y1 in pixels."""


class PeopleDetector(FindsPeople):
    """BlazePose (`zoo.body.detection.blazepose`): finds people in any picture, photographed or made.

    path: the mediapipe 0.10.21 wheel, or a folder with its pose_detection.tflite and pose_landmark_full.tflite. Raises
    ValueError in one line when it is neither.
    """

    def __init__(self, path: str | Path):
        self._path = path
        self._network = BlazePose(path)
        self.name = f"BlazePose full, mediapipe's files {self._network.hash}"

    def __reduce__(self):
        return type(self), (self._path,)  # for other processes; the networks cannot travel

    def find_people(self, image: np.ndarray) -> list[Person]:
        """The people in an image (H, W, 3) uint8, surest first.

        Sees figures that fill a quarter of the picture's shorter side or more; of several it may miss one.
        """
        return self._network.find(image)

    def look(self, image: np.ndarray, person: Person) -> tuple[Landmarks, np.ndarray]:
        """Points and mask (H, W) float32 in [0, 1] of one of the people in an image (H, W, 3) uint8.

        A look that is not sure is followed by another, at where the points of the first one say.
        """
        region = person.region
        found = self._network.look(image, region)
        if found.presence < SURE:
            region = found.next_region
            found = self._network.look(image, region)
        return found, self._network.paste(found.mask, region, *image.shape[:2])

    def detect(self, frames: np.ndarray) -> Poses:
        """The surest person of the first frame that has one, followed through the (F, H, W, 3) uint8 frames.

        The frame before tells where to look; a figure that is lost there is looked for in the whole frame.
        """
        count, height, width, _ = frames.shape
        joints = np.full((count, len(JOINTS), 2), np.nan, np.float32)
        confidence = np.zeros((count, len(JOINTS)), np.float32)
        mask = np.zeros((count, height, width), np.float32)
        region = None
        for index, frame in enumerate(frames):
            region, found = self._follow(frame, region)
            if found is not None:
                joints[index], confidence[index] = as_joints(TO_JOINTS, found.points, found.visibility)
                mask[index] = self._network.paste(found.mask, region, height, width)
                region = found.next_region
        return Poses(joints, confidence, mask)

    def _follow(self, frame: np.ndarray, region: Region | None) -> tuple[Region | None, Landmarks | None]:
        """Where the figure was looked for in a frame, and what was found; None, None without a figure."""
        if region is not None:
            found = self._network.look(frame, region)
            if found.presence >= MIN_SCORE:
                return region, found
        for person in self.find_people(frame)[:1]:
            found = self._network.look(frame, person.region)
            if found.presence >= MIN_SCORE:
                return person.region, found
        return None, None
