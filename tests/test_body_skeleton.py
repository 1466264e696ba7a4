"""The skeleton: rotations against scipy, kinematics in closed form and against EDGE's public code, the motion vector.

`data/edge_skeleton.npz` holds inputs and outputs of EDGE's `SMPLSkeleton`, `ax_to_6v` and `Normalizer` (seed 0).
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation, Slerp

from zoo.body import skeleton
from zoo.body.skeleton import (
    FEET,
    JOINTS,
    OFFSETS,
    STANDING,
    Normalizer,
    axis_angle_from_matrix,
    forward_kinematics,
    joints_of,
    matrix_from_6d,
    matrix_from_axis_angle,
    matrix_from_quaternion,
    pack,
    put_on_floor,
    quaternion_from_matrix,
    resample,
    sixd_from_matrix,
    slerp,
    unpack,
    world_transforms,
)

EDGE = {k: torch.from_numpy(v) for k, v in np.load(Path(__file__).parent / "data/edge_skeleton.npz").items()}
EYE = torch.eye(3)


@pytest.fixture(scope="module")
def axis_angles() -> torch.Tensor:
    """Angles from 0 over tiny ones up to just under a half turn, in every direction."""
    axes = torch.nn.functional.normalize(torch.randn(200, 3, generator=torch.Generator().manual_seed(1)), dim=-1)
    angles = torch.cat([torch.tensor([0.0, 1e-7, 1e-4, 1e-3, math.pi - 1e-3]), torch.linspace(0, 3.13, 195)])
    return axes * angles[:, None]


def test_axis_angle_agrees_with_scipy_and_round_trips(axis_angles):
    matrix = matrix_from_axis_angle(axis_angles)
    expected = Rotation.from_rotvec(axis_angles.double().numpy()).as_matrix()
    np.testing.assert_allclose(matrix.numpy(), expected, atol=1e-6)
    torch.testing.assert_close(axis_angle_from_matrix(matrix), axis_angles, atol=3e-4, rtol=0)
    restored = matrix_from_axis_angle(axis_angle_from_matrix(matrix.double()))
    torch.testing.assert_close(restored, matrix.double(), atol=1e-6, rtol=0)


def test_quaternions_agree_with_scipy_including_half_turns(axis_angles):
    half_turns = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1]]))
    matrix = torch.cat([matrix_from_axis_angle(axis_angles), half_turns])
    quaternion = quaternion_from_matrix(matrix)
    assert (quaternion[:, 0] >= 0).all()
    xyzw = Rotation.from_matrix(matrix.double().numpy()).as_quat()
    dot = (xyzw * quaternion.numpy()[:, [1, 2, 3, 0]]).sum(-1)
    np.testing.assert_allclose(np.abs(dot), 1, atol=1e-6)
    torch.testing.assert_close(matrix_from_quaternion(quaternion), matrix, atol=1e-6, rtol=0)


def test_sixd_is_the_first_two_rows():
    matrix = matrix_from_axis_angle(EDGE["axis_angle"])
    torch.testing.assert_close(sixd_from_matrix(matrix), EDGE["sixd"], atol=1e-6, rtol=0)
    torch.testing.assert_close(sixd_from_matrix(matrix), torch.cat([matrix[..., 0, :], matrix[..., 1, :]], -1))
    torch.testing.assert_close(matrix_from_6d(EDGE["sixd"]), matrix, atol=1e-6, rtol=0)


def test_any_six_values_give_a_rotation_and_finite_gradients():
    sixd = torch.cat(
        [
            torch.randn(50, 6, generator=torch.Generator().manual_seed(2)),
            torch.zeros(1, 6),
            torch.tensor([[1.0, 2, 3, 2, 4, 6], [0, 0, -1, 0, 0, 1], [0, 0, 0, 0, 1, 0], [1e-20, 0, 0, 1, 0, 0]]),
        ]
    ).requires_grad_()
    matrix = matrix_from_6d(sixd)
    torch.testing.assert_close(matrix @ matrix.mT, EYE.expand(len(sixd), 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(matrix), torch.ones(len(sixd)), atol=1e-5, rtol=0)
    (matrix * torch.randn(3, 3)).sum().backward()
    assert torch.isfinite(sixd.grad).all()


def test_gram_schmidt_gradient_is_right():
    sixd = torch.randn(4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    assert torch.autograd.gradcheck(matrix_from_6d, sixd)


def test_slerp_agrees_with_scipy_and_takes_the_shorter_arc():
    ends = Rotation.from_rotvec([[0.2, 0.1, -0.4], [1.5, -0.7, 2.0]])
    start, end = (torch.from_numpy(q[[3, 0, 1, 2]]) for q in ends.as_quat())
    weights = torch.linspace(0, 1, 7, dtype=torch.float64)
    expected = Slerp([0, 1], ends)(weights.numpy()).as_matrix()
    for sign in (1, -1):  # q and -q are one rotation
        interpolated = slerp(start.expand(7, 4), sign * end.expand(7, 4), weights)
        np.testing.assert_allclose(matrix_from_quaternion(interpolated).numpy(), expected, atol=1e-12)
    torch.testing.assert_close(slerp(start, start, 0.3), start)


def test_kinematics_equal_those_of_edges_public_code():
    joints = forward_kinematics(matrix_from_axis_angle(EDGE["axis_angle"]), EDGE["root"])
    torch.testing.assert_close(joints, EDGE["joints"], atol=3e-6, rtol=0)


def test_kinematics_in_closed_form():
    rest = EYE.expand(24, 3, 3).clone()
    joints = forward_kinematics(rest, torch.zeros(3))
    torch.testing.assert_close(joints[22], OFFSETS[[3, 6, 9, 13, 16, 18, 20, 22]].sum(0))

    # upright: left hand at +X, the toes before the body (towards -Y), head over pelvis over feet
    rest[0] = STANDING
    upright = dict(zip(JOINTS, forward_kinematics(rest, torch.tensor([0, 0, 0.98])), strict=True))
    assert upright["left_hand"][0] > 0.6 and upright["right_hand"][0] < -0.6
    assert upright["left_foot"][1] < upright["left_ankle"][1] - 0.1
    assert upright["head"][2] > 1.55 and 0 < upright["left_foot"][2] < 0.1

    # the left knee bent by 90 degrees about +X moves the shin only, backwards and level
    bent_pose = rest.clone()
    bent_pose[4] = matrix_from_axis_angle(torch.tensor([math.pi / 2, 0, 0]))
    bent = dict(zip(JOINTS, forward_kinematics(bent_pose, torch.tensor([0, 0, 0.98])), strict=True))
    torch.testing.assert_close(bent["left_knee"], upright["left_knee"])
    torch.testing.assert_close(bent["right_foot"], upright["right_foot"])
    x, y, z = OFFSETS[7]  # rest offset (x, y, z), bent: (x, -z, y); in the world: (x, -y, -z)
    torch.testing.assert_close(bent["left_ankle"] - bent["left_knee"], torch.stack([x, -y, -z]))


def test_world_rotations_carry_offsets_and_leading_dims_broadcast():
    local = matrix_from_axis_angle(EDGE["axis_angle"])  # (2, 5, 24, 3)
    offsets = OFFSETS * torch.tensor([1.0, 1.5])[:, None, None, None]  # (2, 1, 24, 3)
    rotations, positions = world_transforms(local, EDGE["root"][0], offsets)
    for joint, parent in enumerate(skeleton.PARENTS[1:], 1):
        torch.testing.assert_close(rotations[:, :, joint], rotations[:, :, parent] @ local[:, :, joint])
        bone = (rotations[:, :, parent] @ offsets[:, :, joint, :, None]).squeeze(-1)
        torch.testing.assert_close(positions[:, :, joint] - positions[:, :, parent], bone, atol=1e-5, rtol=0)
    torch.testing.assert_close(positions[1, :, 0], EDGE["root"][0])


def test_motion_vector_round_trip_layout_and_contacts():
    local = matrix_from_axis_angle(EDGE["axis_angle"])
    motion = pack(local, EDGE["root"])
    assert motion.shape == (2, 5, 151)
    contacts, root, rotations = unpack(motion)
    torch.testing.assert_close(root, EDGE["root"])
    torch.testing.assert_close(rotations, local, atol=1e-6, rtol=0)
    torch.testing.assert_close(motion[..., 7:].unflatten(-1, (24, 6)), EDGE["sixd"], atol=1e-6, rtol=0)
    torch.testing.assert_close(joints_of(motion), EDGE["joints"], atol=3e-6, rtol=0)
    assert torch.equal(contacts[:, -1], torch.ones(2, 4))

    # the pelvis glides at 0.9 cm a frame, then 1.1 cm: all feet are in contact, then none; the last frame always is
    steps = torch.tensor([0.0, 0.009, 0.009, 0.011, 0.011]).cumsum(0)
    root = torch.stack([steps, torch.zeros(5), torch.ones(5)], -1)
    contacts = pack(EYE.expand(5, 24, 3, 3), root)[:, :4]
    assert torch.equal(contacts, torch.tensor([1.0, 1, 0, 0, 1])[:, None].expand(5, 4))
    # a bent left knee moves the left ankle and toes only
    local = EYE.expand(2, 24, 3, 3).clone()
    local[1, 4] = matrix_from_axis_angle(torch.tensor([0.2, 0, 0]))
    assert pack(local, torch.zeros(2, 3))[0, :4].tolist() == [0, 1, 0, 1] and FEET == (7, 8, 10, 11)


def test_put_on_floor_moves_the_whole_clip_to_its_lowest_foot():
    local = matrix_from_axis_angle(EDGE["axis_angle"][1] * torch.cat([torch.zeros(5, 1, 1), torch.ones(5, 23, 1)], 1))
    local[:, 0] = STANDING
    root = torch.tensor([[0.3, -2.0, z] for z in (1.7, 1.5, 1.2, 1.4, 1.9)])
    motion = torch.stack([pack(local, root), pack(local, root - torch.tensor([0, 0, 5.0]))])
    floored = put_on_floor(motion)
    heights = joints_of(floored)[..., FEET, 2] - torch.tensor(skeleton.FOOT_HEIGHTS)
    torch.testing.assert_close(heights.amin((1, 2)), torch.zeros(2), atol=1e-5, rtol=0)
    assert heights.amin(-1).argmin(-1).tolist() == [2, 2]  # the lowest frame stands, the others keep their jump
    torch.testing.assert_close(floored[0], floored[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(floored[0] - motion[0], (floored[0] - motion[0])[:1].expand(5, 151), atol=1e-6, rtol=0)


def test_kinematic_loss_has_finite_gradients_under_bfloat16_autocast():
    motion = torch.zeros(2, 4, 151, requires_grad=True)  # an untrained network: zero 6D values
    target = EDGE["joints"][:, :4]
    with torch.autocast("cpu", torch.bfloat16):
        joints = joints_of(motion)
    assert joints.dtype == joints_of(motion.bfloat16()).dtype == torch.float32
    (joints - target).square().mean().backward()
    assert torch.isfinite(motion.grad).all()


def test_normalizer_equals_edges():
    normalizer = Normalizer(7).fit(EDGE["train"])
    torch.testing.assert_close(normalizer.low, EDGE["low"])
    torch.testing.assert_close(normalizer.high, EDGE["high"])
    torch.testing.assert_close(
        normalizer(EDGE["values"]), EDGE["normalized"], atol=1e-6, rtol=0
    )  # value 2 never varies
    torch.testing.assert_close(normalizer.inverse(EDGE["values"]), EDGE["unnormalized"], atol=1e-6, rtol=0)
    torch.testing.assert_close(normalizer.inverse(normalizer(EDGE["train"])), EDGE["train"], atol=1e-6, rtol=0)
    loaded = Normalizer(7)
    loaded.load_state_dict({"low": EDGE["low"], "high": EDGE["high"]})
    torch.testing.assert_close(loaded(EDGE["values"]), normalizer(EDGE["values"]))
    with pytest.raises(ValueError, match="no motion"):
        Normalizer(7).fit([])


def test_resample_keeps_frames_and_interpolates_between_them():
    angle = torch.linspace(0, 1.2, 7)  # a root that turns and moves at a steady speed
    local = EYE.expand(7, 24, 3, 3).clone()
    local[:, 0] = matrix_from_axis_angle(torch.stack([torch.zeros(7), angle, torch.zeros(7)], -1))
    motion = pack(local, torch.stack([angle, angle * 2, torch.ones(7)], -1))
    exact = torch.arange(7, dtype=torch.float64) / 30
    torch.testing.assert_close(resample(motion, exact), motion, atol=1e-6, rtol=0)

    times = torch.tensor([-1.0, 0.05, 0.11, 9.0], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.05 / 0.2 * 1.2, 0.11 / 0.2 * 1.2, 1.2])
    _, root, rotations = unpack(resample(motion, times))
    torch.testing.assert_close(root[:, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(axis_angle_from_matrix(rotations[:, 0])[:, 1], expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(resample(motion, times / 2, fps=60), resample(motion, times), atol=1e-6, rtol=0)
