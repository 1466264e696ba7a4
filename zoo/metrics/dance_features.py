"""Kinetic and geometric features of dances, as AIST++, Bailando and EDGE use them.

Definitions as in fairmotion (kinetic: Onuma et al. 2008; geometric: Mueller et al. 2005), for SMPL's 24 joints in world
coordinates, metres, Z up. Where the public code deviates from its definition, the definition is used here.
"""

import numpy as np

from zoo.body.skeleton import JOINTS

WINDOW = 2  # frames either side over which velocity and acceleration are averaged
UPPER_ARM, SHOULDERS, HIPS = 0.257, 0.391, 0.119  # metres: lengths of SMPL's mean body, units of the geometric features
UP = np.array([0.0, 0.0, 1.0])


def kinetic_features(joints: np.ndarray, fps: float) -> np.ndarray:
    """Energies of every joint: mean squared horizontal and vertical speed, mean acceleration. (T, J, 3) -> (3 J,)

    Joint by joint, in m^2/s^2, m^2/s^2 and m/s^2; T at least 3. Velocity and acceleration are first averaged over
    `WINDOW` frames either side, near the ends over fewer.
    """
    velocity = np.diff(joints.astype(np.float64), axis=0) * fps  # (T - 1, J, 3)
    num_steps = len(velocity)
    smooth_velocity = _average(velocity, num_steps)
    acceleration = np.linalg.norm(_average(np.diff(velocity, axis=0) * fps, num_steps), axis=-1)
    horizontal, vertical = (smooth_velocity[..., :2] ** 2).sum(-1), smooth_velocity[..., 2] ** 2
    return np.stack([horizontal.mean(0), vertical.mean(0), acceleration.mean(0)], -1).reshape(-1)


def _average(values: np.ndarray, count: int) -> np.ndarray:
    """Mean of the available values k - WINDOW .. k + WINDOW, for k in 0..count - 1. (N, ...) -> (count, ...)"""
    total = np.concatenate([np.zeros_like(values[:1]), np.cumsum(values, axis=0)])
    centre = np.arange(count)
    first, last = np.maximum(centre - WINDOW, 0), np.minimum(centre + WINDOW + 1, len(values))
    return (total[last] - total[first]) / (last - first).reshape(-1, *[1] * (values.ndim - 1))


def geometric_features(joints: np.ndarray, fps: float) -> np.ndarray:
    """Fraction of frames in which each of 32 statements about the pose holds. (T, 24, 3) -> (32,), T at least 2

    Pairs are right, left. The public code assumes frames of 1/120 s, compares other joints than Mueller's table in
    'moves up' and 'moves away', and confuses front and back on one side of the body. Here a mirrored dance gives the
    same values with each pair exchanged.
    """
    position = {name: joints[1:, index].astype(np.float64) for index, name in enumerate(JOINTS)}
    velocity = np.diff(joints.astype(np.float64), axis=0) * fps
    velocity = {name: velocity[:, index] for index, name in enumerate(JOINTS)}
    floor_height = joints[1:, :, 2].min(1)
    root, neck, arm_length = position["pelvis"], position["neck"], UPPER_ARM
    neck_to_root = root - neck
    front = _unit(np.cross(position["right_hip"] - neck, position["left_hip"] - neck))

    def pair(statement) -> list[np.ndarray]:
        """Evaluate a statement of (this side, other side) for the right and for the left side."""
        return [statement(side, opposite) for side, opposite in (("right_", "left_"), ("left_", "right_"))]

    def is_ahead(side: str, opposite: str) -> np.ndarray:
        plane_edges = (position[opposite + "foot"] - root, position[opposite + "hip"] - root)
        forward = _unit(np.cross(*plane_edges)) * (1 if opposite == "left_" else -1)
        return _dot(forward, position[side + "ankle"] - root) > 0.38 * arm_length

    def is_bent(side: str, top: str, joint: str, end: str) -> np.ndarray:
        middle = position[side + joint]
        return _angle(position[side + top] - middle, position[side + end] - middle) < 110

    across_hands, across_feet = (position["right_" + end] - position["left_" + end] for end in ("wrist", "ankle"))
    shoulder_axis = _unit(position["right_shoulder"] - position["left_shoulder"])
    hip_axis = _unit(position["right_hip"] - position["left_hip"])
    spine = _unit(position["spine3"] - position["spine1"])
    ankle_plane_normal = _unit(
        np.cross(position["left_ankle"] - position["right_ankle"], neck - position["right_ankle"])
    )
    statements = [
        *pair(
            lambda s, _: _dot(velocity[s + "wrist"] - velocity["neck"], front) > 1.8 * arm_length
        ),  # hand moves ahead
        *pair(
            lambda s, _: _dot(position[s + "wrist"] - neck, _unit(neck - position["spine3"])) > 0.2 * arm_length
        ),  # above neck
        *pair(lambda s, _: _dot(velocity[s + "wrist"] - velocity["spine3"], spine) > 1.8 * arm_length),  # hand moves up
        *pair(lambda s, _: is_bent(s, "shoulder", "elbow", "wrist")),
        _dot(across_hands, shoulder_axis) > 2.5 * SHOULDERS,  # hands far apart
        _dot(velocity["left_wrist"] - velocity["right_wrist"], _unit(across_hands))
        > 1.4 * arm_length,  # hands approach
        *pair(
            lambda s, _: (
                _dot(velocity["pelvis"] - velocity[s + "wrist"], _unit(root - position[s + "wrist"])) > 1.4 * arm_length
            )
        ),
        *pair(lambda s, _: _length(velocity[s + "wrist"]) > 2.5 * arm_length),  # fast hand
        *pair(is_ahead),  # foot ahead of the other leg and its toes
        *pair(lambda s, _: position[s + "ankle"][:, 2] - floor_height > 1.2 * arm_length),  # foot lifted
        _dot(across_feet, hip_axis) > 2.1 * HIPS,  # feet apart
        *pair(lambda s, _: is_bent(s, "hip", "knee", "ankle")),
        *pair(lambda s, _: _length(velocity[s + "ankle"]) > 2.5 * arm_length),  # fast foot
        *pair(
            lambda s, _: _angle(neck_to_root, position[s + "elbow"] - position[s + "shoulder"]) > 25
        ),  # arm off the trunk
        *pair(
            lambda s, _: _angle(neck_to_root, position[s + "knee"] - position[s + "hip"]) > 50
        ),  # thigh off the trunk's line
        _dot(ankle_plane_normal, root - position["right_ankle"]) > 0.5 * arm_length,  # pelvis ahead of ankles and neck
        np.abs(_angle(neck_to_root, UP) - 90) < 20,  # trunk level
        *pair(lambda s, _: position[s + "wrist"][:, 2] - floor_height < 1.2 * arm_length),  # hand low
        _length(velocity["pelvis"]) > 2.3 * arm_length,
    ]
    return np.stack(statements, -1).mean(0)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(_dot(vectors, vectors))


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(-1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(_length(vectors), 1e-9)[..., None]


def _angle(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Degrees in [0, 180]."""
    return np.degrees(np.arccos(np.clip(_dot(_unit(a), _unit(b)), -1, 1)))
