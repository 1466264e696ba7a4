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
    """Energies of every joint: mean squared speed across and up, mean acceleration. (T, J, 3) -> (3 J,)

    Joint by joint, in m^2/s^2, m^2/s^2 and m/s^2; T at least 3. Velocity and acceleration are first averaged over
    `WINDOW` frames either side, near the ends over the available ones.
    """
    velocity = np.diff(joints.astype(np.float64), axis=0) * fps  # (T - 1, J, 3)
    steps = len(velocity)
    smooth = _average(velocity, steps)
    force = np.linalg.norm(_average(np.diff(velocity, axis=0) * fps, steps), axis=-1)
    across, up = (smooth[..., :2] ** 2).sum(-1), smooth[..., 2] ** 2
    return np.stack([across.mean(0), up.mean(0), force.mean(0)], -1).reshape(-1)


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
    speed = np.diff(joints.astype(np.float64), axis=0) * fps
    speed = {name: speed[:, index] for index, name in enumerate(JOINTS)}
    lowest = joints[1:, :, 2].min(1)
    root, neck, arm = position["pelvis"], position["neck"], UPPER_ARM
    trunk = root - neck
    front = _unit(np.cross(position["right_hip"] - neck, position["left_hip"] - neck))

    def pair(statement) -> list[np.ndarray]:
        """Evaluate a statement of (this side, other side) for the right and for the left side."""
        return [statement(side, opposite) for side, opposite in (("right_", "left_"), ("left_", "right_"))]

    def is_ahead(side: str, opposite: str) -> np.ndarray:
        leg = (position[opposite + "foot"] - root, position[opposite + "hip"] - root)
        forward = _unit(np.cross(*leg)) * (1 if opposite == "left_" else -1)
        return _dot(forward, position[side + "ankle"] - root) > 0.38 * arm

    def is_bent(side: str, top: str, joint: str, end: str) -> np.ndarray:
        middle = position[side + joint]
        return _angle(position[side + top] - middle, position[side + end] - middle) < 110

    across_hands, across_feet = (position["right_" + end] - position["left_" + end] for end in ("wrist", "ankle"))
    shoulders = _unit(position["right_shoulder"] - position["left_shoulder"])
    hips = _unit(position["right_hip"] - position["left_hip"])
    spine = _unit(position["spine3"] - position["spine1"])
    ankles = _unit(np.cross(position["left_ankle"] - position["right_ankle"], neck - position["right_ankle"]))
    statements = [
        *pair(lambda s, _: _dot(speed[s + "wrist"] - speed["neck"], front) > 1.8 * arm),  # hand moves ahead
        *pair(
            lambda s, _: _dot(position[s + "wrist"] - neck, _unit(neck - position["spine3"])) > 0.2 * arm
        ),  # above neck
        *pair(lambda s, _: _dot(speed[s + "wrist"] - speed["spine3"], spine) > 1.8 * arm),  # hand moves up
        *pair(lambda s, _: is_bent(s, "shoulder", "elbow", "wrist")),
        _dot(across_hands, shoulders) > 2.5 * SHOULDERS,  # hands far apart
        _dot(speed["left_wrist"] - speed["right_wrist"], _unit(across_hands)) > 1.4 * arm,  # hands approach
        *pair(lambda s, _: _dot(speed["pelvis"] - speed[s + "wrist"], _unit(root - position[s + "wrist"])) > 1.4 * arm),
        *pair(lambda s, _: _length(speed[s + "wrist"]) > 2.5 * arm),  # fast hand
        *pair(is_ahead),  # foot ahead of the other leg and its toes
        *pair(lambda s, _: position[s + "ankle"][:, 2] - lowest > 1.2 * arm),  # foot lifted
        _dot(across_feet, hips) > 2.1 * HIPS,  # feet apart
        *pair(lambda s, _: is_bent(s, "hip", "knee", "ankle")),
        *pair(lambda s, _: _length(speed[s + "ankle"]) > 2.5 * arm),  # fast foot
        *pair(lambda s, _: _angle(trunk, position[s + "elbow"] - position[s + "shoulder"]) > 25),  # arm off the trunk
        *pair(
            lambda s, _: _angle(trunk, position[s + "knee"] - position[s + "hip"]) > 50
        ),  # thigh off the trunk's line
        _dot(ankles, root - position["right_ankle"]) > 0.5 * arm,  # pelvis ahead of ankles and neck
        np.abs(_angle(trunk, UP) - 90) < 20,  # trunk level
        *pair(lambda s, _: position[s + "wrist"][:, 2] - lowest < 1.2 * arm),  # hand low
        _length(speed["pelvis"]) > 2.3 * arm,
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
