"""Rotations in numpy, the two-bone leg solver and the arm solver of the choreography.

Everything is in SMPL's rest frame, Y up: +x the body's left, +z ahead. Leading dimensions are free; angles in radians.
"""

import numpy as np
from numpy.typing import ArrayLike

STRAIGHT = 1e-6  # sine of an angle between two bones that counts as none


def rotation(axis: int, angle: ArrayLike) -> np.ndarray:
    """Matrices (..., 3, 3) that rotate by `angle` (...,) about the coordinate axis 0, 1 or 2."""
    angle = np.asarray(angle, float)
    c, s, i, j = np.cos(angle), np.sin(angle), (axis + 1) % 3, (axis + 2) % 3
    out = np.zeros(angle.shape + (3, 3))
    out[..., axis, axis] = 1
    out[..., i, i] = out[..., j, j] = c
    out[..., i, j], out[..., j, i] = -s, s
    return out


def rotation_about(axis: np.ndarray, angle: ArrayLike) -> np.ndarray:
    """Matrices (..., 3, 3) that rotate by `angle` (...,) about one unit vector `axis` (3,)."""
    x, y, z = axis
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.asarray(angle, float)[..., None, None]
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * (cross @ cross)


def unit(v: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length 1."""
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def frame(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Orthonormal frames (..., 3, 3) whose columns are `first`, `second` made perpendicular to it, and their cross."""
    x = unit(first)
    y = unit(second - (second * x).sum(-1, keepdims=True) * x)
    return np.stack([x, y, np.cross(x, y)], -1)


def quaternions(matrices: np.ndarray) -> np.ndarray:
    """Unit quaternions (..., 4), wxyz, of rotation matrices (..., 3, 3), by Bar-Itzhack's eigenvector."""
    m = matrices
    trace = m[..., 0, 0] + m[..., 1, 1] + m[..., 2, 2]
    k = np.empty(m.shape[:-2] + (4, 4))
    k[..., 0, 0] = trace
    off = np.stack([m[..., 2, 1] - m[..., 1, 2], m[..., 0, 2] - m[..., 2, 0], m[..., 1, 0] - m[..., 0, 1]], -1)
    k[..., 0, 1:] = k[..., 1:, 0] = off
    k[..., 1:, 1:] = m + np.swapaxes(m, -1, -2) - trace[..., None, None] * np.eye(3)
    return np.linalg.eigh(k)[1][..., -1]


def matrices(q: np.ndarray) -> np.ndarray:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4), wxyz, of any length but 0."""
    w, x, y, z = np.moveaxis(q / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def leg_reach(thigh: np.ndarray, shin: np.ndarray, straight: float) -> float:
    """Longest allowed distance hip to ankle, m: the leg's full length times `straight` (< 1 keeps the knee bent)."""
    return float(straight * (np.linalg.norm(thigh) + np.linalg.norm(shin)))


def solve_leg(
    thigh: np.ndarray, shin: np.ndarray, target: np.ndarray, ahead: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Two-bone inverse kinematics of a leg whose knee bends one way.

    thigh, shin (3,): rest offsets hip to knee and knee to ankle. target (T, 3): ankle minus hip, no longer than
    `leg_reach`. ahead (T, 3): direction in which the knee points. Returns the hip's rotation (T, 3, 3), in the frame of
    `target`, and the knee's flexion (T,) >= 0 about local +x.
    """
    distance = np.linalg.norm(target, axis=-1)
    # |thigh + Rx(a) shin| = distance, solved for the flexion a: constant + b cos a + c sin a = half_difference.
    half_difference = (distance**2 - thigh @ thigh - shin @ shin) / 2
    b = thigh[1] * shin[1] + thigh[2] * shin[2]
    c = thigh[2] * shin[1] - thigh[1] * shin[2]
    flexion = np.arctan2(c, b) + np.arccos(np.clip((half_difference - thigh[0] * shin[0]) / np.hypot(b, c), -1, 1))
    local = thigh + (rotation(0, flexion) @ shin)
    hinge = np.cross(ahead, target)
    rest_frame = frame(local, np.broadcast_to([1.0, 0, 0], local.shape))
    target_frame = frame(target, hinge)
    return target_frame @ np.swapaxes(rest_frame, -1, -2), flexion


def solve_arm(
    upper: np.ndarray, fore: np.ndarray, rest: np.ndarray, hinge: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Shoulder rotation (..., 3, 3) and elbow flexion (...,) that bring a T-pose arm into these directions.

    upper, fore (..., 3): directions of upper arm and forearm. rest (3,): the arm's direction in the T-pose; hinge (3,):
    the axis there about which a positive flexion brings the hand forward. A straight arm has no plane: its hinge is
    brought there by the smallest rotation.
    """
    upper, fore = unit(upper), unit(fore)
    normal = np.cross(upper, fore)
    is_straight = np.linalg.norm(normal, axis=-1, keepdims=True) < STRAIGHT
    if is_straight.any():
        middle = unit(rest) + upper
        length = (middle**2).sum(-1, keepdims=True) / 2
        carried = hinge - np.where(
            length > STRAIGHT, (upper @ hinge)[..., None] * middle / np.maximum(length, STRAIGHT), 0
        )
        normal = np.where(is_straight, carried, normal)
    target_frame = frame(upper, normal)
    rest_frame = frame(np.asarray(rest, float), np.asarray(hinge, float))
    return target_frame @ rest_frame.T, np.arccos(np.clip((upper * fore).sum(-1), -1, 1))
