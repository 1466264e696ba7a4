"""Metrics of a given motion: joints moved by known distances, errors of known size, and a whole evaluation."""

import json
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch

from zoo.body.camera import CAMERAS
from zoo.body.detection.base import PoseDetector, Poses
from zoo.body.image.alignment import turn_to_camera
from zoo.body.image_skeleton import JOINT_INDEX, stature_from_joints
from zoo.body.skeleton import STANDING, forward_kinematics, joints_of, matrix_from_axis_angle, pack
from zoo.metrics.base import MetricInput
from zoo.metrics.exact_motion import JointError, PsnrParts, head_squares

SIDE, FRAMES = 96, 4


class TwoVideos(PoseDetector):
    """The poses of the true frames for them, other poses for all other frames."""

    name = "known"

    def __init__(self, true_frames: np.ndarray, true_poses: Poses, poses: Poses):
        self.true_frames, self.true_poses, self.poses = true_frames, true_poses, poses

    def detect(self, frames: np.ndarray) -> Poses:
        return self.true_poses if frames is self.true_frames else self.poses


def standing_poses(shift: float = 0.0) -> Poses:
    """A standing figure in every frame, moved right by `shift` pixels."""
    rotations = torch.eye(3).repeat(1, 24, 1, 1)
    rotations[:, 0] = STANDING
    place = forward_kinematics(rotations, torch.zeros(1, 3))[0].numpy()
    joints = np.stack([48 + shift + 50 * place[:, 0], 45 - 50 * place[:, 2]], -1).astype(np.float32)
    mask = np.zeros((FRAMES, SIDE, SIDE), np.float32)
    mask[:, 20:80, 40:56] = 1
    return Poses(np.repeat(joints[None], FRAMES, 0), np.ones((FRAMES, 24), np.float32), mask)


def clip(frames: np.ndarray, poses: Poses) -> MetricInput:
    true_frames = np.full((FRAMES, SIDE, SIDE, 3), 100, np.uint8)
    detector = TwoVideos(true_frames, standing_poses(), poses)
    silence, beats = np.zeros(10, np.float32), np.zeros(0)
    return MetricInput(
        "clip", {}, Fraction(12), frames, true_frames, true_frames[0], silence, 10, beats, detector=detector
    )


def test_the_joint_error_is_the_distance_in_statures():
    """A figure elsewhere has no error. One hand that is 12 pixels off is, and a frame without a figure has no value."""
    poses, frames = standing_poses(6.0), np.full((FRAMES, SIDE, SIDE, 3), 100, np.uint8)
    assert JointError().measure(clip(frames, poses))["joint_error"] == pytest.approx(0, abs=1e-6)
    poses.joints[:, JOINT_INDEX["left_hand"]] += 12 * np.array([0.6, -0.8])
    poses.joints[-1] = np.nan
    values = JointError().measure(clip(frames, poses))
    expected = 12 / 24 / stature_from_joints(standing_poses().joints[0])
    np.testing.assert_allclose(values["joint_error@time"], [expected] * 3 + [np.nan], rtol=1e-5)
    assert values["joint_error"] == pytest.approx(expected, rel=1e-5)


def test_the_psnr_of_a_part_is_of_its_pixels_alone():
    """An error of 20 outside of the figure does not count; one of 10 in the figure, and one of 5 about the head, do."""
    poses = standing_poses()
    figure, head = poses.mask > 0, head_squares(poses.joints, poses.mask.shape)
    frames = np.full((FRAMES, SIDE, SIDE, 3), 120, np.uint8)
    frames[figure] = 110
    assert float(PsnrParts().measure(clip(frames, poses))["psnr_figure"]) == pytest.approx(20 * np.log10(25.5))
    frames[head] = 105
    assert float(PsnrParts().measure(clip(frames, poses))["psnr_head"]) == pytest.approx(20 * np.log10(51))
    frames[:] = 100
    assert PsnrParts().measure(clip(frames, poses)) == {"psnr_figure": np.inf, "psnr_head": np.inf}


def test_the_square_holds_the_head():
    poses = standing_poses()
    square = head_squares(poses.joints, poses.mask.shape)[0]
    rows, columns = np.nonzero(square)
    neck, head = poses.joints[0, JOINT_INDEX["neck"]], poses.joints[0, JOINT_INDEX["head"]]
    assert square[tuple(head.round().astype(int)[::-1])] and abs(columns.mean() - head[0]) < 1
    assert rows.min() < head[1] < rows.max() < neck[1] + 0.03 * SIDE


def test_a_renderer_draws_the_recorded_motion(scripts, tmp_path):
    """The shipped renderers draw the dancers' own motion; a model without a renderer is refused."""
    small = (
        "protocol=renderer-v1 data.songs={train:1,val:1,test:2} data.seconds=6 data.dances_per_song=1 data.workers=1 "
        "data.rendering.seconds=2 data.rendering.songs={test:2} protocol.frames=24 workers=0 ablations=none "
        "metrics=[joint_error,psnr_parts]"
    ).split()
    refused = scripts.inside("evaluate", *small, "ckpt=dabfusion-tiny", f"out={tmp_path / 'refused'}")
    assert refused.returncode == 2 and "does not draw a given motion" in refused.stderr
    assert not (tmp_path / "refused").exists()
    output = scripts.inside("evaluate", *small, "ckpt=magicdance-tiny", "renderer=warp", f"out={tmp_path / 'out'}")
    assert output.returncode == 0, output.stderr
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())
    truth, frozen, other_song, warp = (row["scores"] for row in results["rows"])
    assert truth["joint_error"]["mean"] == 0 and truth["psnr_head"]["mean"] == "inf"
    assert warp["joint_error"]["mean"] < 0.9 * min(frozen["joint_error"]["mean"], other_song["joint_error"]["mean"])
    assert warp["psnr_figure"]["mean"] > other_song["psnr_figure"]["mean"]


@pytest.mark.parametrize("name", ["C02", "C03"])
def test_a_turned_motion_looks_the_same_from_the_front(name):
    """As the motion itself does from its camera's direction."""
    generator = torch.Generator().manual_seed(0)
    motion = pack(matrix_from_axis_angle(torch.randn(5, 24, 3, generator=generator)), torch.zeros(5, 3))
    side, front = CAMERAS[name].camera(), replace(CAMERAS[name], azimuth=0.0).camera()
    expected = side.project(joints_of(motion).double().numpy(), 128, 128)
    turned = front.project(joints_of(turn_to_camera(motion, CAMERAS[name].azimuth)).double().numpy(), 128, 128)
    np.testing.assert_allclose(turned[0], expected[0], atol=1e-3)
