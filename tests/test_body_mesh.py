"""Skinning, labels and grounding of every body."""

import numpy as np
import pytest
import torch

from zoo.body.labels import HEAD, JOINT_LIMB, TORSO
from zoo.body.render.clothing import HAIR_STYLES, LEGWEAR, SLEEVES, add_clothes
from zoo.body.render.mesh import body_names, human_names, load_body
from zoo.body.skeleton import FEET, FOOT_HEIGHTS, OFFSETS, STANDING, forward_kinematics, matrix_from_axis_angle

REST = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
STAND = np.concatenate([STANDING.numpy()[None], REST[1:]])
STANDING_ROOT = np.array([0, 0, FOOT_HEIGHTS[2] - OFFSETS[[1, 4, 7, 10], 1].sum().item()], np.float32)


@pytest.fixture(params=body_names())
def figure(request):
    return load_body(request.param)


def test_rest_pose_is_the_rest_mesh(figure):
    transforms, joints = figure.transforms(REST, np.zeros(3))
    pelvis = figure.scale_root(np.zeros(3))
    np.testing.assert_allclose(figure.skin(REST, np.zeros(3)), figure.vertices + pelvis, atol=1e-5)
    np.testing.assert_allclose(joints, figure.joints + pelvis, atol=1e-5)
    np.testing.assert_allclose(figure.weights.sum(1), 1, atol=1e-5)
    assert (figure.weights > 0).sum(1).max() <= 5
    assert figure.faces.max() < len(figure.vertices)


def test_a_root_rotation_moves_the_whole_mesh(figure):
    turn = matrix_from_axis_angle(torch.tensor([0.3, -1.1, 0.7])).numpy()
    posed = figure.skin(np.concatenate([turn[None], REST[1:]]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(
        posed, figure.vertices @ turn.T + figure.scale_root(np.array([1.0, 2.0, 3.0])), atol=1e-4
    )


def test_a_bent_elbow_moves_the_left_hand_only(figure):
    bent_pose = REST.copy()
    bent_pose[18] = matrix_from_axis_angle(torch.tensor([0.0, -1.5, 0.0])).numpy()
    displacement = np.linalg.norm(figure.skin(bent_pose, np.zeros(3)) - figure.skin(REST, np.zeros(3)), axis=1)
    arm = figure.weights[:, [18, 20, 22]].sum(1)
    assert displacement[arm == 0].max() < 1e-6 and displacement[arm > 0.99].min() >= 0 and displacement.max() > 0.2
    assert figure.vertices[displacement > 0.05, 0].min() > 0  # left is +X, not mirrored


def test_normals_point_outwards(figure):
    corner = figure.vertices[figure.faces].astype(float)
    face_normals = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    assert (corner[:, 0] * face_normals).sum() / 6 > 0.01, "volume of the mesh, in cubic metres"
    agree = (face_normals * figure.normals[figure.faces].mean(1)).sum(1) > 0
    assert np.average(agree, weights=np.linalg.norm(face_normals, axis=1)) > 0.98


def test_soles_touch_the_floor_where_the_canonical_feet_stand(figure):
    posed = figure.skin(STAND, STANDING_ROOT)
    assert abs(posed[:, 2].min()) < 1e-3
    assert posed[:, 1].min() < 0 < posed[:, 1].max() and posed[np.argmax(posed[:, 2])][2] > 1.0


def test_feet_of_every_body_follow_the_canonical_feet(figure):
    """A body's feet are the canonical ones times one factor, so that planted feet stay planted."""
    generator = torch.Generator().manual_seed(3)
    rotations = matrix_from_axis_angle(torch.randn(20, 24, 3, generator=generator) * 0.4)
    root = torch.randn(20, 3, generator=generator)
    canonical = forward_kinematics(rotations, root).numpy()[:, FEET]
    feet = figure.transforms(rotations, root)[1][:, FEET]
    np.testing.assert_allclose(feet, canonical * figure.leg_scale + [0, 0, figure.sole_offset], atol=1e-4)


def test_the_man_has_the_canonical_bones():
    np.testing.assert_allclose(load_body("man").offsets, OFFSETS.numpy(), atol=1e-6)
    assert load_body("man").leg_scale == pytest.approx(1)


@pytest.mark.parametrize("name", human_names())
def test_limbs_cut_by_planes_agree_with_the_skinning_weights(name):
    """Independent of each other: planes in space, and the joint that moves a point most."""
    human = load_body(name)
    centers, faces = human.vertices[human.faces].mean(1), np.arange(len(human.faces))
    limb = human.limbs_at(faces, centers)
    weights = human.weights[human.faces].mean(1)
    by_weight = np.array(JOINT_LIMB)[weights.argmax(1)]
    is_certain = weights.max(1) > 0.9
    agree = (limb == by_weight)[is_certain]
    assert agree.mean() > 0.93
    assert set(limb) == set(range(8))
    parts = human.parts_at(limb, centers)
    assert set(parts) == set(range(1, 25))
    # DensePose: even is left from the thighs down to the shins, odd from the upper arms on; head 23 right, 24 left
    left = centers[:, 0] > 0.02
    assert set(parts[left & (limb != TORSO)]) == {4, 5, 8, 10, 12, 14, 15, 17, 19, 21, 24}
    assert set(parts[limb == HEAD]) == {23, 24}


@pytest.mark.parametrize("hair", HAIR_STYLES)
def test_clothes_and_hair_change_the_shape_but_not_the_floor(hair):
    bare = load_body("woman")
    for sleeves, legs in zip(SLEEVES, LEGWEAR, strict=True):
        clothed = add_clothes("woman", hair, sleeves, legs)
        assert clothed.vertices[:, 1].min() == bare.vertices[:, 1].min()
        np.testing.assert_allclose(clothed.weights.sum(1), 1, atol=1e-5)
        assert clothed.limbs.shape == clothed.semantic.shape == (len(clothed.faces),)
        assert len(clothed.vertices) == len(clothed.normals) == len(clothed.weights) > clothed.faces.max()
        has_more_faces = len(clothed.faces) > len(bare.faces)
        assert has_more_faces == (hair != "bald" or legs == "skirt")


def test_an_unknown_body_is_reported():
    with pytest.raises(ValueError, match="unknown body 'ghost'.*man"):
        load_body("ghost")
