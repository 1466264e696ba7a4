"""Retarget the motion of another skeleton to SMPL's: bones keep their directions in space, the feet their steps.

A source joint's rotation is relative to the source's own rest pose. If the two rest poses differ (A-pose, splayed legs,
hanging arms), the limb's rest direction is first rotated to the source's, so that in every frame the limb has the
source's direction. Feet are assumed to be flat in both rest poses.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.batch import MOTION_FPS
from zoo.body.skeleton import (
    JOINTS,
    OFFSETS,
    PARENTS,
    STANDING,
    matrix_from_quaternion,
    pack,
    perpendicular,
    put_on_floor,
    quaternion_from_matrix,
    resample,
    slerp,
    unpack,
)

MAX_SECONDS = 1200  # of a motion: longer ones take more memory than any dance needs
MAX_REST_LEAN = 0.17  # about 10 degrees: a rest pose that leans less is upright, and turned by less is not turned
MAX_COORDINATE = 1000.0  # metres from the origin
# (hip, knee, ankle) twice, (shoulder, elbow, wrist) twice
_LIMB_CHAINS = ((1, 4, 7), (2, 5, 8), (16, 18, 20), (17, 19, 21))
_ANKLE_AND_TOES = ((7, 10), (8, 11))
# wrist, hand or toes -> joint whose rest rotation it has
_END_TO_LIMB_JOINT = {20: 18, 22: 18, 21: 19, 23: 19, 10: 7, 11: 8}
_TRUNK_CHAINS = ((0, 3, 6, 9), (9, 12, 15))  # missing joints are interpolated between their neighbours
REQUIRED_JOINTS = frozenset((0, *_LIMB_CHAINS[0], *_LIMB_CHAINS[1], *_LIMB_CHAINS[2], *_LIMB_CHAINS[3]))


def _rotation_between(start: Tensor, end: Tensor) -> Tensor:
    """The smallest rotation of direction `start` (3,) onto `end` (3,). -> (3, 3)"""
    start, end = F.normalize(start, dim=0), F.normalize(end, dim=0)
    cosine = start @ end
    axis = perpendicular(start) if cosine < -0.9999 else torch.linalg.cross(start, end)
    return matrix_from_quaternion(torch.cat([(1 + cosine).clamp(min=0)[None], axis]))


def _rest_frame(rest: dict[int, Tensor]) -> Tensor:
    """Columns: the source's left, up and front in its own coordinates, exact axes where they nearly are. -> (3, 3)

    Raises ValueError when the rest pose is not that of an upright body.
    """
    hips, shoulders, ankles = ((rest[a] + rest[b]) / 2 for a, b in ((1, 2), (16, 17), (7, 8)))
    up = _nearest_axis(F.normalize(shoulders - hips, dim=0))
    left = rest[1] - rest[2]
    left = _nearest_axis(F.normalize(left - (left @ up) * up, dim=0))
    up = F.normalize(up - (up @ left) * left, dim=0)
    if not (F.normalize(hips - ankles, dim=0) @ up > 0.8 and torch.isfinite(left).all() and left.norm() > 0.5):
        raise ValueError("its rest pose is not an upright body, so its joints' rotations cannot be interpreted")
    return torch.stack([left, up, torch.linalg.cross(left, up)], 1)


def _nearest_axis(direction: Tensor) -> Tensor:
    """The coordinate axis within MAX_REST_LEAN of a direction (3,), or the direction itself."""
    index = int(direction.abs().argmax())
    axis = torch.zeros_like(direction)
    axis[index] = direction[index].sign()
    return axis if (direction - axis).norm() < MAX_REST_LEAN else direction


def _rest_rotations(rest: dict[int, Tensor], rest_frame: Tensor, offsets: Tensor) -> dict[int, Tensor]:
    """Rotations (3, 3) from our rest limbs to the source's, in our rest frame, of the joints that have one."""
    rotations = {}
    for chain in _LIMB_CHAINS:
        for joint, child in zip(chain[:-1], chain[1:], strict=True):
            rotations[joint] = _rotation_between(offsets[child], rest_frame.T @ (rest[child] - rest[joint]))
    horizontal = torch.tensor([1.0, 0.0, 1.0]).to(offsets)
    for ankle, toes in _ANKLE_AND_TOES:
        if toes in rest:  # toes outwards or inwards, but never up or down
            direction = rest_frame.T @ (rest[toes] - rest[ankle])
            rotations[ankle] = _rotation_between(offsets[toes] * horizontal, direction * horizontal)
    return rotations | {end: rotations[joint] for end, joint in _END_TO_LIMB_JOINT.items() if joint in rotations}


def _interpolate_trunk(world_rotations: dict[int, Tensor]) -> None:
    """Interpolate the rotations of the trunk's missing joints between those of their neighbours, in place."""
    for chain in _TRUNK_CHAINS:
        available_indices = [index for index, joint in enumerate(chain) if joint in world_rotations]
        for low_index, high_index in zip(available_indices[:-1], available_indices[1:], strict=True):
            start, end = (quaternion_from_matrix(world_rotations[chain[index]]) for index in (low_index, high_index))
            for index in range(low_index + 1, high_index):
                world_rotations[chain[index]] = matrix_from_quaternion(
                    slerp(start, end, (index - low_index) / (high_index - low_index))
                )


def retarget(
    rotations: dict[int, Tensor], rest: dict[int, Tensor], hips: Tensor, offsets: Tensor = OFFSETS
) -> tuple[Tensor, Tensor]:
    """Local rotations (T, 24, 3, 3) and root (T, 3) metres of our skeleton, from the motion of another one.

    All by our joint number, in the source's coordinates and unit of length: rotations (T, 3, 3), of each joint in the
    world relative to the rest pose; rest (3,), joint positions in the rest pose; hips (T, 3), the middle of the hip
    joints. REQUIRED_JOINTS must be in both. Lengths are scaled by those of the legs, which gives metres from any unit.
    Raises ValueError if the rest pose is not an upright body.
    """
    assert set(rotations) >= REQUIRED_JOINTS and set(rest) >= REQUIRED_JOINTS
    offsets = offsets.to(hips)
    standing_rotation = STANDING.to(hips)
    rest_frame = _rest_frame(rest)
    rest_rotations = _rest_rotations(rest, rest_frame, offsets)
    world_rotations = {}
    for joint, rotation in rotations.items():
        world_rotations[joint] = (
            standing_rotation @ rest_frame.T @ rotation @ rest_frame @ rest_rotations.get(joint, torch.eye(3).to(hips))
        )
    _interpolate_trunk(world_rotations)

    local = torch.eye(3).to(hips).repeat(len(hips), len(JOINTS), 1, 1)
    local[:, 0] = world_rotations[0]
    for joint, parent in enumerate(PARENTS[1:], 1):
        if joint in world_rotations:
            local[:, joint] = world_rotations[parent].mT @ world_rotations[joint]
        else:
            world_rotations[joint] = world_rotations[parent]

    leg_length = sum(offsets[child].norm() for leg in _LIMB_CHAINS[:2] for child in leg[1:])
    leg_bones = [(a, b) for leg in _LIMB_CHAINS[:2] for a, b in zip(leg[:-1], leg[1:], strict=True)]
    source_leg_length = sum((rest[b] - rest[a]).norm() for a, b in leg_bones)
    hip_offset = (offsets[1] + offsets[2]) / 2
    world_hips = (standing_rotation @ rest_frame.T @ hips.T).T * (leg_length / source_leg_length)
    return local, world_hips - world_rotations[0] @ hip_offset


def to_motion_rate(local: Tensor, root: Tensor, fps: float, on_floor: bool = True) -> Tensor:
    """Motion (T, 151) float32 at 30 Hz, from rotations (S, 24, 3, 3) and root (S, 3) at `fps`.

    on_floor: raise or lower it until its lowest foot stands on the floor. Raises ValueError for no frames, values that
    are not finite, and a motion that is too long.
    """
    if not len(root) or not 0 < fps < float("inf") or len(root) / fps > MAX_SECONDS:
        raise ValueError(f"it has {len(root)} frames at {fps:g} Hz; a motion lasts at most {MAX_SECONDS} s")
    if not (torch.isfinite(local).all() and bool((root.abs() <= MAX_COORDINATE).all())):
        raise ValueError(f"it has values that are not finite, or leads farther than {MAX_COORDINATE:g} m")
    if abs(fps - round(fps)) < 0.02:  # "Frame Time: 0.008333" means 120, but 29.97 means 29.97
        fps = round(fps)
    num_frames = int((len(root) - 1) / fps * MOTION_FPS + 1e-6) + 1
    motion = resample(pack(local, root), torch.arange(num_frames, dtype=torch.float64) / MOTION_FPS, fps)
    _, root, local = unpack(motion)
    motion = pack(local, root)
    return (put_on_floor(motion) if on_floor else motion).float()
