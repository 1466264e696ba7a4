"""Masks of figures: people in a group are told apart, and what a figure encloses is judged by the detector's doubt."""

import numpy as np
import torch

from zoo.body.detection.figure_mask import Body, fill_uncertain_holes, separate_people
from zoo.body.image_skeleton import SMPL_STATURE
from zoo.body.skeleton import OFFSETS, STANDING, forward_kinematics

STATURE = 200  # pixels


def test_people_in_a_group_are_told_apart():
    """Two shirts side by side, and a detector whose masks each show both: each pixel goes to its person."""
    rest = forward_kinematics(STANDING.expand(1, 24, 3, 3), torch.zeros(1, 3), OFFSETS)[0].numpy()
    pose = np.stack([rest[:, 0], -rest[:, 2]], 1) * STATURE / SMPL_STATURE + [0, 110]
    pose[16:] = pose[[16, 17, 16, 17, 16, 17, 16, 17]]  # no arms
    y, x = np.mgrid[:220, :260]
    image = np.full((220, 260, 3), 220, np.uint8)
    truths = [np.abs(x - column) < 35 for column in (95, 165)]
    for truth, color in zip(truths, ((160, 40, 50), (60, 90, 60)), strict=True):
        image[truth] = color
    image = (image + np.random.default_rng(0).normal(0, 6, image.shape)).clip(0, 255).astype(np.uint8)
    both = np.float32(truths[0] | truths[1])
    is_visible = np.isin(np.arange(24), (0, 1, 2, 3, 6, 9, 12, 15, 16, 17))
    bodies = [Body(pose + [column, 0], is_visible, STATURE) for column in (95, 165)]
    for mask, truth in zip(separate_people(image, [both, both], bodies), truths, strict=True):
        is_person = mask > 0.5
        assert (is_person & truth).sum() > 0.97 * (is_person | truth).sum()
    alone = [both, np.zeros_like(both)]
    far = Body(pose + [1000, 0], is_visible, STATURE)
    assert separate_people(image, alone, [bodies[0], far])[0] is both, "nobody is near"


def test_a_face_is_of_its_own_person_alone():
    """A face before another's trunk, which both masks show: it goes to its person, with its hair."""
    rest = forward_kinematics(STANDING.expand(1, 24, 3, 3), torch.zeros(1, 3), OFFSETS)[0].numpy()
    pose = np.stack([rest[:, 0], -rest[:, 2]], 1) * STATURE / SMPL_STATURE + [130, 110]
    is_visible = np.isin(np.arange(24), (0, 1, 2, 3, 6, 9, 12, 15, 16, 17))
    y, x = np.mgrid[:260, :260]
    image = np.full((260, 260, 3), 220, np.uint8)
    center, width = np.array([130.0, 85.0]), 24.0
    trunk = (np.abs(x - 130) < 35) & (y > 30)
    distance = np.hypot(x - center[0], y - center[1])
    head = distance < width
    image[trunk] = (60, 90, 60)
    image[head] = (90, 60, 30)
    image[distance < width / 2] = (230, 180, 150)
    both = np.float32(trunk | head)
    low = pose.copy()
    low[15], low[12] = center, center + [0, 20]
    low[[16, 17, 1, 2]] = center + [[20, 30], [-20, 30], [15, 100], [-15, 100]]
    bodies = [Body(pose, is_visible, STATURE), Body(low, is_visible, STATURE, (center, width))]
    farther, nearer = separate_people(image, [both, both], bodies)
    assert (nearer[head] > 0.5).mean() > 0.95 and (farther[distance < width / 2] < 0.5).all()


def test_a_hole_is_filled_where_the_detector_doubts_it():
    """A sure gap stays, also one that is open to the border of the image; a doubtful one is the figure's."""
    alpha = np.zeros((100, 100))
    alpha[10:, 20:80] = 1
    alpha[20:30, 30:40] = 0.3
    alpha[50:60, 30:40] = 0.05
    alpha[90:, 45:55] = 0.3
    filled = fill_uncertain_holes(alpha)
    assert (filled[20:30, 30:40] == 1).all()
    filled[20:30, 30:40] = alpha[20:30, 30:40]
    assert np.array_equal(filled, alpha)
