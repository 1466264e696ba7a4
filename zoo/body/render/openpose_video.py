"""The pose video that drives Wan-Animate: 20 points of a body, drawn as its public preprocessing draws them.

Cheng et al. 2025 (arXiv 2509.14055) condition on skeletons. Points, colors and widths are those of Wan2.2's
wan/modules/animate/preprocess: OpenPose's 18 points and the toes, each limb an ellipse, each point a disc, on black.
There a detector finds the points in a video; here they come from a body mesh. Hands are left out, as they are there if
none are detected: motion has no fingers.
"""

import math

import cv2
import numpy as np

from zoo.body.camera import Camera
from zoo.body.image_skeleton import HIP_RISE, HIP_WIDTH
from zoo.body.render.mesh import Body
from zoo.body.skeleton import JOINTS

POSE_POINTS = (
    "nose neck right_shoulder right_elbow right_wrist left_shoulder left_elbow left_wrist right_hip right_knee "
    "right_ankle left_hip left_knee left_ankle right_eye left_eye right_ear left_ear left_toes right_toes"
).split()
# the points at a limb's ends, in the order in which limbs are drawn; the n-th limb and the n-th point have one color
POSE_LIMBS = (
    *((1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13)),
    *((1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (13, 18), (10, 19)),
)
POSE_COLORS = (
    *((255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0)),
    *((0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255)),
    *((170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85), (200, 200, 0), (100, 100, 0)),
)
LIMB_BRIGHTNESS = 0.6  # over its color's
# points that are no joints: the joint that they move with; their position relative to it at rest, in metres (left is
# +X, up +Y, the body faces +Z; measured on the human meshes); and, on the head, the normal of the skin
SURFACE_POINTS = {
    "nose": ("head", (0.0, 0.02, 0.115), (0.0, 0.0, 1.0)),
    "right_eye": ("head", (-0.031, 0.056, 0.1), (-0.3, 0.0, 0.95)),
    "left_eye": ("head", (0.031, 0.056, 0.1), (0.3, 0.0, 0.95)),
    "right_ear": ("head", (-0.086, 0.046, -0.015), (-1.0, 0.0, 0.0)),
    "left_ear": ("head", (0.086, 0.046, -0.015), (1.0, 0.0, 0.0)),
    "left_toes": ("left_foot", (0.027, -0.012, 0.068), None),
    "right_toes": ("right_foot", (-0.027, -0.012, 0.068), None),
}
MIN_FACING = -0.3  # cosine of the angle between normal and viewer below which a detector misses a point


def pose_points(body: Body, rotations: np.ndarray, root: np.ndarray, camera: Camera, side: int) -> np.ndarray:
    """Positions of POSE_POINTS in an image of side x side pixels, NaN behind the head. -> (F, 20, 2) float32

    rotations (F, 24, 3, 3) local; root (F, 3) canonical, metres (`Body.scale_root`).
    """
    transforms, joints = body.transforms(rotations, root)
    points = {name: joints[:, index] for index, name in enumerate(JOINTS)}
    mid_shoulder = points["neck"] = (points["left_shoulder"] + points["right_shoulder"]) / 2
    # a detector's hips are wider apart than SMPL's and higher (zoo.body.image_skeleton)
    mid_hip = (points["left_hip"] + points["right_hip"]) / 2
    detector_mid_hip = (mid_hip - HIP_RISE * mid_shoulder) / (1 - HIP_RISE)
    points |= {name: detector_mid_hip + (points[name] - mid_hip) / HIP_WIDTH for name in ("left_hip", "right_hip")}
    for name, (joint, offset, normal) in SURFACE_POINTS.items():
        transform = transforms[:, JOINTS.index(joint)]
        rest_position = body.joints[JOINTS.index(joint)] + np.float32(offset)
        points[name] = transform[:, :, :3] @ rest_position + transform[:, :, 3]
        if normal is not None:
            to_viewer = np.float32(camera.position) - points[name]
            facing = ((transform[:, :, :3] @ np.float32(normal)) * to_viewer).sum(-1) / np.linalg.norm(
                to_viewer, axis=-1
            )
            points[name] = np.where(facing[:, None] < MIN_FACING, np.nan, points[name])
    return camera.project(np.stack([points[name] for name in POSE_POINTS], 1), side, side)[0].astype(np.float32)


def draw_pose(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """points (20, 2) pixels -> (H, W, 3) uint8; points that are not finite are left out with their limbs."""
    image = np.zeros((height, width, 3), np.uint8)
    thickness = max(min(height, width) // 200 - 1, 1)
    is_finite = np.isfinite(points).all(1)
    for (a, b), color in zip(POSE_LIMBS, POSE_COLORS, strict=False):
        if is_finite[a] and is_finite[b]:
            center_x, center_y = (points[a] + points[b]) / 2
            direction = points[a] - points[b]
            half_length, angle = math.hypot(*direction) / 2, math.degrees(math.atan2(direction[1], direction[0]))
            ellipse = cv2.ellipse2Poly(
                (int(center_x), int(center_y)), (int(half_length), thickness), int(angle), 0, 360, 1
            )
            cv2.fillConvexPoly(image, ellipse, [int(LIMB_BRIGHTNESS * channel) for channel in color])
    for index in np.flatnonzero(is_finite):
        cv2.circle(image, tuple(map(int, points[index])), thickness, POSE_COLORS[index], -1)
    return image
