"""The skeleton of a figure in an image: limbs between SMPL's 24 joints, their thickness, and the figure's stature.

Positions are pixels, x right, y down. Lengths are given as fractions of the stature, the figure's standing height.
"""

from collections.abc import Collection

import numpy as np
import torch

from zoo.body.skeleton import JOINTS, OFFSETS, PARENTS

JOINT_INDEX = {name: index for index, name in enumerate(JOINTS)}
SMPL_STATURE = 1.66  # m, of a body with the bones OFFSETS, from the soles to the top of the head
TORSO_CORNERS = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
# limb: (first joint, second joint, half its thickness, radius about the first joint in which it overlaps its parent
# limb); thickness and radius are fractions of the stature
LIMBS = {
    "head": ("neck", "head", 0.07, 0.05),
    **{
        f"{side}_{name}": (f"{side}_{first}", f"{side}_{second}", thickness, overlap)
        for side in ("left", "right")
        for name, first, second, thickness, overlap in (
            ("thigh", "hip", "knee", 0.06, 0.075),
            ("shin", "knee", "ankle", 0.045, 0.045),
            ("sole", "ankle", "foot", 0.04, 0.03),
            ("upper_arm", "shoulder", "elbow", 0.05, 0.04),
            ("forearm", "elbow", "wrist", 0.033, 0.033),
        )
    },
}
TRUNK_JOINTS = ("hip", "spine1", "spine2", "spine3", "neck", "collar", "shoulder")
LIMB_ENDS = tuple(f"{side}_{joint}" for side in ("left", "right") for joint in ("knee", "ankle", "elbow", "wrist"))
LIMB_EXTENSION = {"head": 1.6, "forearm": 1.6, "sole": 1.3}  # length of a limb, over the distance of its joints

# Pose detectors place the hips on the body's outline. SMPL's hips are HIP_RISE of the trunk's length above a detector's
# (negative: below), and HIP_WIDTH of a detector's distance apart.
HIP_RISE, HIP_WIDTH = -0.09, 0.57

UPPER_BODY_BONES = ((0, 12), (12, 15))  # pelvis to neck, neck to head
LEFT_LEG_BONES = ((1, 4), (4, 7))  # hip to knee, knee to ankle; the right joints have the next indices
BONE_CHAIN_LENGTH = 0.875  # sum of these bones over the stature, in SMPL's mean body
LENGTH_RATIO_RANGE = (0.8, 1.3)  # plausible lengths of a limb, over those of the mean body
LENGTH_RATIO_TOLERANCE = 0.25  # |log ratio| up to which a length is fully plausible


def stature_from_joints(joints: np.ndarray) -> float:
    """Standing height in pixels of a figure, by its joints (24, 2). The longer one of the two legs counts."""
    upper_body_bones = [np.linalg.norm(joints[a] - joints[b]) for a, b in UPPER_BODY_BONES]
    leg_bones = [max(np.linalg.norm(joints[a + side] - joints[b + side]) for side in (0, 1)) for a, b in LEFT_LEG_BONES]
    return float(sum(upper_body_bones) + sum(leg_bones)) / BONE_CHAIN_LENGTH


def limb_offsets(
    joints: np.ndarray, stature: float, limb_ends: Collection[str] = LIMB_ENDS
) -> tuple[torch.Tensor, float]:
    """Scale the mean skeleton to the limb lengths of a figure in an image.

    A limb gets the longer one of the two sides' lengths, because limbs that point at the viewer look short. limb_ends:
    joints at the ends of the limbs that are measured; other limbs keep the mean skeleton's length.

    joints (24, 2) and stature in pixels -> offsets (24, 3) in pixels, and how plausible the lengths are, in [0, 1]
    """
    scale = stature / SMPL_STATURE
    offsets, plausibilities = OFFSETS * scale, []
    for child, name in enumerate(JOINTS):
        if name in limb_ends:
            opposite = name.replace("left", "x").replace("right", "left").replace("x", "right")
            both = [JOINT_INDEX[joint] for joint in (name, opposite) if joint in limb_ends]
            length = max(np.linalg.norm(joints[joint] - joints[PARENTS[joint]]) for joint in both)
            ratio = length / float(offsets[child].norm())
            plausibilities.append(np.exp(-max(0.0, abs(np.log(ratio)) - LENGTH_RATIO_TOLERANCE)))
            offsets[child] = offsets[child] * float(np.clip(ratio, *LENGTH_RATIO_RANGE))
    return offsets, float(np.mean(plausibilities)) if plausibilities else 1.0


def fit_trunk(offsets: torch.Tensor, joints: np.ndarray) -> torch.Tensor:
    """Scale the trunk and the neck of a skeleton, offsets (24, 3) in pixels, to those of a figure's joints (24, 2)."""
    rest = torch.zeros_like(offsets)
    for child, parent in enumerate(PARENTS[1:], 1):
        rest[child] = rest[parent] + offsets[child]
    corners = [JOINT_INDEX[name] for name in TORSO_CORNERS]
    lengths = [
        np.linalg.norm(pose[corners[:2]].mean(0) - pose[corners[2:]].mean(0)) for pose in (joints, rest[:, :2].numpy())
    ]
    neck, head = JOINT_INDEX["neck"], JOINT_INDEX["head"]
    ratios = np.array(
        [lengths[0] / lengths[1], np.linalg.norm(joints[head] - joints[neck]) / float(offsets[head].norm())]
    )
    trunk_ratio, head_ratio = ratios.clip(*LENGTH_RATIO_RANGE)
    offsets = offsets.clone()
    trunk = [child for child, name in enumerate(JOINTS) if name.split("_")[-1] in TRUNK_JOINTS]
    offsets[trunk, 1] *= trunk_ratio
    offsets[head] *= head_ratio
    return offsets
