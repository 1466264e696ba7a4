"""Finding people in pictures: what a detector is, and the one for real pictures."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from zoo.body.blazepose import BODY_POINTS, MIN_SCORE, BlazePose, Landmarks, Person, Region
from zoo.body.skeleton import JOINTS

# SMPL's joints from BlazePose's 33 points, left and right: the points whose mean a joint is
SIDES = {
    "hip": ((23,), (24,)), "knee": ((25,), (26,)), "ankle": ((27,), (28,)), "foot": ((31,), (32,)),
    "shoulder": ((11,), (12,)), "elbow": ((13,), (14,)), "wrist": ((15,), (16,)), "hand": ((17, 19), (18, 20)),
}  # fmt: skip
EARS = (7, 8)
# how far up from the hips to the shoulders (1) the joints of the spine are in SMPL's mean body, and how far out collars
SPINE = {"pelvis": 0.15, "spine1": 0.37, "spine2": 0.62, "spine3": 0.72, "neck": 1.09}
COLLAR_UP, COLLAR_OUT = 0.92, 0.4


def _to_joints() -> np.ndarray:
    """(24, 33): joints from points."""
    rows = {}
    for name, sides in SIDES.items():
        for side, points in zip(("left", "right"), sides, strict=True):
            rows[f"{side}_{name}"] = np.eye(BODY_POINTS)[list(points)].mean(0)
    hips, shoulders = ((rows[f"left_{name}"] + rows[f"right_{name}"]) / 2 for name in ("hip", "shoulder"))
    for name, height in SPINE.items():
        rows[name] = hips + height * (shoulders - hips)
    for side in ("left", "right"):
        out = COLLAR_OUT * (rows[f"{side}_shoulder"] - shoulders)
        rows[f"{side}_collar"] = hips + COLLAR_UP * (shoulders - hips) + out
    rows["head"] = np.eye(BODY_POINTS)[list(EARS)].mean(0)
    return np.stack([rows[name] for name in JOINTS])


TO_JOINTS = _to_joints()


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


class PeopleDetector(PoseDetector):
    """BlazePose (`zoo.body.blazepose`): finds people in any picture, photographed or made.

    path: the mediapipe 0.10.21 wheel, or a folder with its pose_detection.tflite and pose_landmark_full.tflite. Raises
    ValueError in one line when it is neither.
    """

    def __init__(self, path: str | Path):
        self._network = BlazePose(path)
        self.name = f"BlazePose full, mediapipe's files {self._network.hash}"

    def find_people(self, image: np.ndarray) -> list[Person]:
        """The people in an image (H, W, 3) uint8, surest first."""
        return self._network.find(image)

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
                joints[index] = TO_JOINTS @ found.points
                confidence[index] = np.where(TO_JOINTS != 0, found.visibility, 1).min(
                    1
                )  # as sure as its unsurest point
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
