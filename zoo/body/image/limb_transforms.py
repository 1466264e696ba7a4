"""Map each limb from the image to a pose, and order the limbs by depth. Points are pixels, maps are affine (2, 3)."""

from collections.abc import Sequence

import numpy as np

from zoo.body.image_skeleton import JOINT_INDEX, LIMBS, TORSO_CORNERS

STRETCH_RANGE, HEAD_STRETCH_RANGE = (0.3, 1.6), (0.95, 1.05)  # the length of a limb, over its pictured length
TRUNK_STRETCH_RANGE, TRUNK_WIDTH_RANGE = (0.7, 1.2), (0.75, 1.1)  # its length and width, over the pictured ones


def limb_transforms(pictured_joints: np.ndarray, joints: np.ndarray) -> dict[str, np.ndarray]:
    """Affine map (2, 3) of each limb, from an image with its joints at (24, 2) to a frame with them at (24, 2).

    Limbs keep their thickness and stay connected: where the stretch of a limb is limited, the limbs at its end move
    along with it.
    """
    source_corners, target_corners = (
        pose[[JOINT_INDEX[name] for name in TORSO_CORNERS]] for pose in (pictured_joints, joints)
    )
    transforms = {"torso": trunk_transform(source_corners, target_corners)}
    limb_at_joint = {JOINT_INDEX[name]: "torso" for name in (*TORSO_CORNERS, "neck")}
    for name, (first, second, *_) in LIMBS.items():
        a, b = pictured_joints[JOINT_INDEX[first]], pictured_joints[JOINT_INDEX[second]]
        limb_start = _apply(transforms[limb_at_joint[JOINT_INDEX[first]]], a)
        direction = joints[JOINT_INDEX[second]] - joints[JOINT_INDEX[first]]
        stretch_range = STRETCH_RANGE if name != "head" else HEAD_STRETCH_RANGE
        transforms[name] = _limb_transform(a, b, limb_start, direction, stretch_range)
        limb_at_joint[JOINT_INDEX[second]] = name
    return transforms


def drawing_order(joints: np.ndarray, depth: np.ndarray) -> list[str]:
    """Limbs from the farthest to the nearest.

    An arm is in front of the trunk or behind it by its depth, a leg only in front if its knee is raised over the hips.
    """
    trunk_depth = depth[[JOINT_INDEX[name] for name in TORSO_CORNERS]].mean()
    hip_row = joints[[JOINT_INDEX["left_hip"], JOINT_INDEX["right_hip"]], 1].mean()
    behind: list[tuple[float, list[str]]] = []
    in_front: list[tuple[float, list[str]]] = []
    for side in ("left", "right"):
        arm_depth = depth[[JOINT_INDEX[f"{side}_elbow"], JOINT_INDEX[f"{side}_wrist"]]].mean()
        arm = [f"{side}_upper_arm", f"{side}_forearm"]
        (behind if arm_depth > trunk_depth else in_front).append((arm_depth, arm))
        leg_depth = depth[[JOINT_INDEX[f"{side}_knee"], JOINT_INDEX[f"{side}_ankle"]]].mean()
        is_raised = joints[JOINT_INDEX[f"{side}_knee"], 1] < hip_row and leg_depth < trunk_depth
        leg = [f"{side}_sole", f"{side}_shin", f"{side}_thigh"]
        (in_front if is_raised else behind).append((leg_depth, leg))

    def by_depth(limbs: list[tuple[float, list[str]]]) -> list[str]:
        return [name for _, names in sorted(limbs, key=lambda limb: -limb[0]) for name in names]

    return [*by_depth(behind), "torso", "head", *by_depth(in_front)]


def _apply(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Apply an affine map (2, 3) to a point (2,)."""
    return matrix[:, :2] @ point + matrix[:, 2]


def _axes(direction: np.ndarray) -> np.ndarray:
    """(2, 2): columns are the unit vector along a direction, and the one to its right."""
    unit = direction / max(float(np.linalg.norm(direction)), 1e-6)
    return np.array([[unit[0], -unit[1]], [unit[1], unit[0]]])


def _stretch_between(
    source: np.ndarray, target: np.ndarray, stretch: Sequence[float], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """The map that takes a to b, the direction `source` to `target`, and stretches by (along, across)."""
    linear = _axes(target) @ np.diag(stretch) @ _axes(source).T
    return np.hstack([linear, (b - linear @ a)[:, None]])


def _limb_transform(
    a: np.ndarray, b: np.ndarray, start: np.ndarray, direction: np.ndarray, stretch_range: Sequence[float]
) -> np.ndarray:
    """The map that takes a to `start`, and b along `direction`; the stretch stays within limits."""
    length = max(float(np.linalg.norm(b - a)), 1e-6)
    stretch = float(np.clip(np.linalg.norm(direction) / length, *stretch_range))
    return _stretch_between(b - a, direction, (stretch, 1.0), a, start)


def trunk_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The map of the trunk between corners (4, 2) in the order of TORSO_CORNERS."""
    (source_up, source_hips, source_shoulder_width), (target_up, target_hips, target_shoulder_width) = (
        (corners[:2].mean(0) - corners[2:].mean(0), corners[2:].mean(0), np.linalg.norm(corners[0] - corners[1]))
        for corners in (source, target)
    )
    ratio = np.linalg.norm(target_up) / max(np.linalg.norm(source_up), 1e-6)
    stretch = float(np.clip(ratio, *TRUNK_STRETCH_RANGE))
    widening = float(np.clip(target_shoulder_width / max(source_shoulder_width, 1e-6), *TRUNK_WIDTH_RANGE))
    return _stretch_between(source_up, target_up, (stretch, widening), source_hips, target_hips)
