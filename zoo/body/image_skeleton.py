"""The skeleton of a figure in an image: limbs between SMPL's 24 joints, their thickness, and the figure's stature.

Positions are pixels, x right, y down. Lengths are given as fractions of the stature, the figure's standing height.
"""

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


def limb_offsets(joints: np.ndarray, stature: float) -> tuple[torch.Tensor, float]:
    """Scale the mean skeleton to the limb lengths of a figure in an image.

    A limb gets the longer one of the two sides' lengths, because limbs that point at the viewer look short.

    joints (24, 2) and stature in pixels -> offsets (24, 3) in pixels, and how plausible the lengths are, in [0, 1]
    """
    scale = stature / SMPL_STATURE
    offsets, plausibilities = OFFSETS * scale, []
    for child, name in enumerate(JOINTS):
        if name.startswith(("left", "right")) and name.split("_")[1] in ("knee", "ankle", "elbow", "wrist"):
            opposite = JOINT_INDEX[name.replace("left", "x").replace("right", "left").replace("x", "right")]
            length = max(np.linalg.norm(joints[joint] - joints[PARENTS[joint]]) for joint in (child, opposite))
            ratio = length / float(offsets[child].norm())
            plausibilities.append(np.exp(-max(0.0, abs(np.log(ratio)) - LENGTH_RATIO_TOLERANCE)))
            offsets[child] = offsets[child] * float(np.clip(ratio, *LENGTH_RATIO_RANGE))
    return offsets, float(np.mean(plausibilities))
