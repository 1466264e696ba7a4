"""Motion of another skeleton onto the zoo's: bones keep their directions in space, the feet their steps.

A source joint's rotation is taken relative to the source's own rest pose. Where the two rest poses differ (arms of an
A-pose, splayed legs, arms that hang) the limb's rest direction is turned from ours to the source's first, so that in
every frame our limb points where the source's does. Feet are taken as flat in both rest poses.
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
    across,
    matrix_from_quaternion,
    pack,
    put_on_floor,
    quaternion_from_matrix,
    resample,
    slerp,
    unpack,
)

_LIMBS = ((1, 4, 7), (2, 5, 8), (16, 18, 20), (17, 19, 21))  # hip, knee, ankle and shoulder, elbow, wrist
_FEET = ((7, 10), (8, 11))  # ankle, toes
_ENDS = {20: 18, 22: 18, 21: 19, 23: 19, 10: 7, 11: 8}  # these rest as the bone before them does
_TRUNK = ((0, 3, 6, 9), (9, 12, 15))  # a joint that the source lacks here shares the turn of its neighbours
NEEDED = frozenset((0, *_LIMBS[0], *_LIMBS[1], *_LIMBS[2], *_LIMBS[3]))


def _turn_between(start: Tensor, end: Tensor) -> Tensor:
    """The smallest rotation of direction `start` (3,) onto `end` (3,). -> (3, 3)"""
    start, end = F.normalize(start, dim=0), F.normalize(end, dim=0)
    cosine = start @ end
    axis = across(start) if cosine < -0.9999 else torch.linalg.cross(start, end)
    return matrix_from_quaternion(torch.cat([(1 + cosine).clamp(min=0)[None], axis]))


def _rest_frame(rest: dict[int, Tensor]) -> Tensor:
    """Columns: the source's left, up and front in its own coordinates, exact axes where they nearly are. -> (3, 3)

    Raises ValueError when the rest pose is not that of an upright body.
    """
    hips, shoulders, ankles = ((rest[a] + rest[b]) / 2 for a, b in ((1, 2), (16, 17), (7, 8)))
    up = F.normalize(shoulders - hips, dim=0)
    left = rest[1] - rest[2]
    left = F.normalize(left - (left @ up) * up, dim=0)
    if not (F.normalize(hips - ankles, dim=0) @ up > 0.8 and torch.isfinite(left).all() and left.norm() > 0.5):
        raise ValueError("its rest pose is not an upright body, so its joints' rotations cannot be understood")
    frame = torch.stack([left, up, torch.linalg.cross(left, up)], 1)
    axes = frame.round()
    return axes if torch.equal(axes @ axes.T, torch.eye(3).to(axes)) else frame


def _rest_turns(rest: dict[int, Tensor], frame: Tensor, offsets: Tensor) -> dict[int, Tensor]:
    """For each joint that needs it, the rotation (3, 3) of our rest limb onto the source's, in our rest frame."""
    turns = {}
    for limb in _LIMBS:
        for joint, child in zip(limb[:-1], limb[1:], strict=True):
            turns[joint] = _turn_between(offsets[child], frame.T @ (rest[child] - rest[joint]))
    level = torch.tensor([1.0, 0.0, 1.0]).to(offsets)
    for ankle, toes in _FEET:
        if toes in rest:  # toes out or in, but never up or down
            turns[ankle] = _turn_between(offsets[toes] * level, frame.T @ (rest[toes] - rest[ankle]) * level)
    return turns | {end: turns[bone] for end, bone in _ENDS.items() if bone in turns}


def _fill_trunk(world: dict[int, Tensor]) -> None:
    """Give the trunk's missing joints their share of the turn between the neighbours that are there."""
    for chain in _TRUNK:
        known = [i for i, joint in enumerate(chain) if joint in world]
        for low, high in zip(known[:-1], known[1:], strict=True):
            start, end = (quaternion_from_matrix(world[chain[i]]) for i in (low, high))
            for i in range(low + 1, high):
                world[chain[i]] = matrix_from_quaternion(slerp(start, end, (i - low) / (high - low)))


def retarget(
    turns: dict[int, Tensor], rest: dict[int, Tensor], hips: Tensor, offsets: Tensor = OFFSETS
) -> tuple[Tensor, Tensor]:
    """Local rotations (T, 24, 3, 3) and root (T, 3) metres of our skeleton, from another one's motion.

    All by our joint number, in the source's coordinates and unit of length: turns (T, 3, 3), each joint's rotation in
    the world relative to the rest pose; rest (3,), joint positions in the rest pose; hips (T, 3), the middle of the hip
    joints. The joints of `NEEDED` must be in both. Lengths are scaled by the legs', which makes metres of any unit.
    Raises ValueError when the rest pose is not an upright body.
    """
    assert set(turns) >= NEEDED and set(rest) >= NEEDED
    offsets = offsets.to(hips)
    standing = STANDING.to(hips)
    frame = _rest_frame(rest)
    rest_turns = _rest_turns(rest, frame, offsets)
    world = {}
    for joint, turn in turns.items():
        world[joint] = standing @ frame.T @ turn @ frame @ rest_turns.get(joint, torch.eye(3).to(hips))
    _fill_trunk(world)

    local = torch.eye(3).to(hips).repeat(len(hips), len(JOINTS), 1, 1)
    local[:, 0] = world[0]
    for joint, parent in enumerate(PARENTS[1:], 1):
        if joint in world:
            local[:, joint] = world[parent].mT @ world[joint]
        else:
            world[joint] = world[parent]

    ours = sum(offsets[child].norm() for leg in _LIMBS[:2] for child in leg[1:])
    theirs = sum((rest[b] - rest[a]).norm() for leg in _LIMBS[:2] for a, b in zip(leg[:-1], leg[1:], strict=True))
    middle = (offsets[1] + offsets[2]) / 2
    root = (standing @ frame.T @ hips.T).T * (ours / theirs) - world[0] @ middle
    return local, root


def at_motion_rate(local: Tensor, root: Tensor, fps: float) -> Tensor:
    """Motion (T, 151) float32 at 30 Hz on the floor, from rotations (S, 24, 3, 3) and root (S, 3) at `fps`."""
    if abs(fps - round(fps)) < 0.02:  # "Frame Time: 0.008333" means 120, and 29.97 means 29.97
        fps = round(fps)
    frames = int((len(root) - 1) / fps * MOTION_FPS + 1e-6) + 1
    motion = resample(pack(local, root), torch.arange(frames, dtype=torch.float64) / MOTION_FPS, fps)
    _, root, local = unpack(motion)
    return put_on_floor(pack(local, root)).float()
