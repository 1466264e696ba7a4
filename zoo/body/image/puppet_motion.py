"""Fit a dance to a figure of an image: the side that it shows, what of it can move, and the pose that it begins in."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from zoo.body.image.limb_transforms import trunk_transform
from zoo.body.image_skeleton import JOINT_INDEX, TORSO_CORNERS
from zoo.body.skeleton import PARENTS, STANDING

MAX_TURN = np.radians(35)  # an image shows one side of a figure: the motion turns it by at most so much
SIDE_HEADING = np.radians(80)  # of a profile: both arms and legs can be told apart
# of the stature, shoulders and hips, or both feet, together: a profile has less width and longer feet (mean body from
# the front: 0.31 and 0.0; exact profile: 0.0 and 0.15)
MAX_PROFILE_WIDTH, MIN_PROFILE_FEET = 0.14, 0.03


@dataclass(frozen=True)
class LowerCut:
    """Where a figure is cut off below, and which parts of it the motion moves."""

    row: float  # of pixels, below which the figure is not visible
    fade_length: float  # pixels from there over which the motion fades in; the shortest one of all edges
    node_weights: np.ndarray  # (N,) of the mesh's nodes: 0 rests, 1 moves


def pictured_heading(joints: np.ndarray, stature: float) -> float:
    """The side of the figure that an image shows, radians: 0 its front, pi its back, +-SIDE_HEADING its profiles.

    joints (24, 2), stature: pixels. It is positive where the figure looks to the right: then the width of shoulders and
    hips is small, and the toes are on the right of the ankles.
    """
    column = {name: float(joints[index, 0]) / stature for name, index in JOINT_INDEX.items()}
    width = sum(column[f"left_{joint}"] - column[f"right_{joint}"] for joint in ("shoulder", "hip"))
    toes = sum(column[f"{side}_foot"] - column[f"{side}_ankle"] for side in ("left", "right"))
    if abs(width) < MAX_PROFILE_WIDTH and abs(toes) > MIN_PROFILE_FEET:
        return float(np.copysign(SIDE_HEADING, toes))
    return 0.0 if width >= 0 else np.pi


def limit_turn(root_rotations: torch.Tensor, pictured: float) -> torch.Tensor:
    """Root rotations (F, 3, 3) whose dancer shows the pictured side: quarter turns become MAX_TURN, half turns zero.

    pictured: see `pictured_heading`.
    """
    front = root_rotations @ (STANDING.T.to(root_rotations) @ torch.tensor([0.0, -1.0, 0.0]).to(root_rotations))
    heading = torch.atan2(front[:, 0], -front[:, 1])
    heading_change = MAX_TURN * torch.sin(heading) - heading + pictured
    zero, cos, sin = torch.zeros_like(heading_change), heading_change.cos(), heading_change.sin()
    turn_matrix = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))
    return turn_matrix @ root_rotations


def move_anchor(pictured: np.ndarray, pixels: np.ndarray, cut: LowerCut, move: np.ndarray) -> None:
    """Shift poses (F, 24, 2), in place, so that an anchor moves by (F, 2) pixels from where it is pictured.

    The anchor is the pelvis; where the image does not show it, the point of the trunk's axis on the cut.
    """
    pelvis, neck = pictured[0], pictured[JOINT_INDEX["neck"]]
    fraction = float(np.clip((pelvis[1] - cut.row) / max(pelvis[1] - neck[1], 1e-6), 0, 0.9))
    anchor = (1 - fraction) * pixels[:, 0] + fraction * pixels[:, JOINT_INDEX["neck"]]
    pixels += ((1 - fraction) * pelvis + fraction * neck + move - anchor)[:, None]


def hold_still_legs(pictured: np.ndarray, pixels: np.ndarray) -> None:
    """Put knees, ankles and feet of poses (F, 24, 2), in place, where they are pictured (24, 2)."""
    legs = [JOINT_INDEX[f"{side}_{joint}"] for side in ("left", "right") for joint in ("knee", "ankle", "foot")]
    pixels[:, legs] = pictured[legs]


def hold_still_arms(pictured: np.ndarray, pixels: np.ndarray, sides: Collection[str]) -> None:
    """Put the arms of some sides, in poses (F, 24, 2), in place, where the trunk takes them from (24, 2)."""
    arms = [JOINT_INDEX[f"{side}_{joint}"] for side in sides for joint in ("elbow", "wrist", "hand")]
    corners = [JOINT_INDEX[name] for name in TORSO_CORNERS]
    for pose in pixels if arms else ():
        matrix = trunk_transform(pictured[corners], pose[corners])
        pose[arms] = pictured[arms] @ matrix[:, :2].T + matrix[:, 2]


def blend_from_pose(start_pose: np.ndarray, poses: np.ndarray, progress: np.ndarray) -> np.ndarray:
    """Blend from the pictured pose (24, 2) to poses (F, 24, 2), by progress (F,) in [0, 1].

    Each bone turns the shorter way.
    """
    weight = (progress * progress * (3 - 2 * progress))[:, None]
    blended = np.empty_like(poses)
    blended[:, 0] = start_pose[0] * (1 - weight) + poses[:, 0] * weight
    for joint, parent in enumerate(PARENTS[1:], 1):
        start_bone, target_bone = start_pose[joint] - start_pose[parent], poses[:, joint] - poses[:, parent]
        start_angle = np.arctan2(start_bone[1], start_bone[0])
        turn = np.arctan2(target_bone[:, 1], target_bone[:, 0]) - start_angle
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        length = np.linalg.norm(start_bone) * (1 - weight[:, 0]) + np.linalg.norm(target_bone, axis=1) * weight[:, 0]
        angle = start_angle + turn * weight[:, 0]
        blended[:, joint] = blended[:, parent] + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return blended
