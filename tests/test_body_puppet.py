"""The puppet reproduces its image at rest, follows the motion, and leaves the background unchanged."""

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from test_run_request import refused
from test_run_scene import standing
from weights import numbers

from zoo.body.detection.blazepose_detector import BlazePoseDetector
from zoo.body.detection.figure_mask import refine_mask
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.body.image.canvas import CanvasGrowth, canvas_growth
from zoo.body.image.limb_layers import cut_limbs
from zoo.body.image.limb_transforms import drawing_order, limb_transforms
from zoo.body.image.puppet import (
    Puppet,
    PuppetAnimator,
    find_still_arms,
    is_head_held,
    make_puppet,
    make_puppets,
    without_crossed_legs,
)
from zoo.body.image.puppet_motion import MAX_TURN, SIDE_HEADING, blend_from_pose, limit_turn, pictured_heading
from zoo.body.image.segmentation import Figure, extract_figure
from zoo.body.image.shadow import separate_shadow
from zoo.body.image_skeleton import JOINT_INDEX, SMPL_STATURE
from zoo.body.skeleton import OFFSETS, STANDING, forward_kinematics, matrix_from_axis_angle
from zoo.media import read_video, write_sound

PHOTO = Path("/usr/share/doc/opencv-doc/examples/data/messi5.jpg")  # of the Debian package opencv-doc
FPS = 12.0
LIMB_JOINTS = [
    (f"{side}_{limb}", f"{side}_{joint}")
    for side in ("left", "right")
    for limb, joint in (("upper_arm", "shoulder"), ("forearm", "elbow"), ("thigh", "hip"), ("shin", "knee"))
]


def dance(frames: int = 48) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotations and root: arms that swing, a bow to the side, knees that bend, a body that turns and travels."""
    phase = torch.arange(frames) * (2 * np.pi / 24)
    turns = torch.zeros(frames, 24, 3)
    for side, sign in (("left", 1), ("right", -1)):
        turns[:, JOINT_INDEX[f"{side}_shoulder"], 2] = sign * (-0.6 + 0.7 * torch.sin(phase))
        turns[:, JOINT_INDEX[f"{side}_elbow"], 2] = sign * (0.5 + 0.5 * torch.sin(phase / 2))
        turns[:, JOINT_INDEX[f"{side}_hip"], 0] = -0.3 * (1 - torch.cos(phase))
        turns[:, JOINT_INDEX[f"{side}_knee"], 0] = 0.6 * (1 - torch.cos(phase))
    turns[:, JOINT_INDEX["spine2"], 2] = 0.15 * torch.sin(phase)
    rotations = matrix_from_axis_angle(turns)
    yaw = matrix_from_axis_angle(torch.stack([0 * phase, 0 * phase, 0.8 * torch.sin(phase / 2)], -1))
    rotations[:, 0] = yaw @ STANDING
    return rotations, torch.stack([0.3 * torch.sin(phase / 2), 0 * phase, 0.95 - 0.05 * (1 - torch.cos(phase))], -1)


@pytest.fixture(scope="module")
def detector(wheel) -> BlazePoseDetector:
    return BlazePoseDetector(wheel)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """A figure in front of a textured wall."""
    wall = cv2.GaussianBlur((np.random.default_rng(0).random((360, 360, 3)) * 255).astype(np.float32), (0, 0), 8)
    wall = ((wall - wall.min()) / np.ptp(wall) * 160 + 60).astype(np.uint8)
    return standing("man", 360, "C09", wall, 50)["rgb"]


@pytest.fixture(scope="module")
def puppet(image, detector) -> Puppet:
    return make_puppet(image, detector)


def test_the_pictured_pose_reproduces_the_image(puppet, image):
    """The limbs leave no gaps; the background is unchanged away from the figure."""
    transforms = limb_transforms(puppet.joints, puppet.joints)
    for name, transform in transforms.items():
        np.testing.assert_allclose(transform, np.eye(2, 3), atol=1e-4, err_msg=name)
    frame = PuppetAnimator(puppet, FPS).draw(puppet.joints[None], np.zeros((1, 24)))[0]
    difference = np.abs(frame.astype(int) - image).max(-1)
    assert difference.mean() < 1.2 and (difference > 40).mean() < 0.005  # except inpainted pixels between the legs
    bare = np.abs(puppet.background.astype(int) - image).max(-1)
    assert (bare > 40).mean() > 0.04  # the person was removed
    assert puppet.quality > 0.9


def test_detected_joints_match_the_motion(puppet, image, detector):
    """Mean error below 4% of the stature; colors and background are unchanged."""
    animator = PuppetAnimator(puppet, FPS)
    joints, depth = animator.joints(*dance())
    frames = animator.draw(joints, depth)
    poses = detector.detect(frames)
    error = np.linalg.norm(poses.joints - joints, axis=-1) / puppet.stature
    assert error.mean() < 0.04 and np.ptp(joints[:, JOINT_INDEX["left_wrist"], 1]) > 0.2 * puppet.stature
    is_static = cv2.dilate(np.uint8(poses.mask.max(0) > 0.01), np.ones((31, 31))) == 0
    assert is_static.mean() > 0.4 and np.ptp(frames[:, is_static].astype(int), axis=0).max() == 0
    assert np.array_equal(frames[0], animator.draw(joints[:1], depth[:1])[0])
    # the color histogram is the image's
    image_histogram, frame_histogram = (
        np.histogramdd(pixels.reshape(-1, 3), bins=4, range=[(0, 256)] * 3, density=False)[0] / pixels[..., 0].size
        for pixels in (image, frames)
    )
    assert np.abs(image_histogram - frame_histogram).sum() / 2 < 0.05


def test_blocks_start_at_the_pictured_pose_and_continue(puppet):
    """Blocks of any length give the same frames as the whole motion."""
    rotations, root = dance()
    whole, depth = PuppetAnimator(puppet, FPS).joints(rotations, root)
    np.testing.assert_allclose(whole[0], puppet.joints, atol=1e-3)
    animator = PuppetAnimator(puppet, FPS)
    blocks = [animator.joints(rotations[block], root[block]) for block in (slice(0, 5), slice(5, 6), slice(6, None))]
    np.testing.assert_allclose(np.concatenate([joints for joints, _ in blocks]), whole, atol=1e-3)
    np.testing.assert_allclose(np.concatenate([joints for _, joints in blocks]), depth, atol=1e-3)
    lowest = whole[12:, [JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"]], 1].max(1)
    assert (
        np.abs(lowest - puppet.joints[[JOINT_INDEX["left_ankle"], JOINT_INDEX["right_ankle"]], 1].max()).max()
        < 0.08 * puppet.stature
    )


@pytest.mark.parametrize("rows, still_arms", [(250, ()), (150, ("left", "right"))])
def test_half_a_body_dances_above_a_still_lower_edge(puppet, image, detector, rows, still_arms):
    """Cut off at the thighs, or above the wrists: what the image shows moves, its lowest rows do not."""
    half = make_puppet(image[:rows], detector)
    assert half.note.endswith(" are not in the picture: the upper body dances") and half.shadow is None
    assert half.cut is not None and half.cut.row == rows and half.still_arms == still_arms
    assert half.quality > 0.75 and 0.8 < half.stature / puppet.stature < 1.25
    animator = PuppetAnimator(half, FPS)
    joints, depth = animator.joints(*dance())
    frames = animator.draw(joints, depth)
    assert np.abs(frames[0].astype(int) - image[:rows]).mean() < 1.5
    assert np.ptp(frames[:, -3:].astype(int), axis=0).max() <= 1 < np.ptp(frames[:, :-3].astype(int), axis=0).max()
    assert np.abs(joints[:, 0, 1] - half.joints[0, 1]).max() < 0.07 * half.stature
    move = np.ptp(joints[:, JOINT_INDEX["left_wrist"]], axis=0).max() / half.stature
    assert ("left_forearm" in half.mesh.limbs) == (not still_arms) and (still_arms or move > 0.2)
    assert np.ptp(joints[:, JOINT_INDEX["head"]], axis=0).max() > 0.03 * half.stature


def test_legs_and_arms_that_cover_each_other_rest(puppet, image, detector):
    """Crossed legs stay, arms folded before the trunk and a folded elbow move with the trunk; the rest dances."""
    figure = extract_figure(image, detector)

    def posed(**places: tuple[str, float, float]) -> Figure:
        joints = figure.joints.copy()
        for name, (other, right, down) in places.items():
            move = np.array([right, down]) * figure.stature
            joints[JOINT_INDEX[name]] = figure.joints[JOINT_INDEX[other]] + move
        return replace(figure, joints=joints)

    assert find_still_arms(figure) == () and without_crossed_legs(figure) is figure
    assert find_still_arms(posed(left_wrist=("left_shoulder", 0, 0.05), left_hand=("left_shoulder", 0, 0))) == ("left",)
    folded = posed(
        left_wrist=("spine2", -0.04, 0), left_hand=("spine2", -0.08, 0),
        right_wrist=("spine2", 0.04, 0.02), right_hand=("spine2", 0.08, 0.02),
    )  # fmt: skip
    assert find_still_arms(folded) == ("left", "right") and not is_head_held(folded, ("left", "right"))
    at_temple = posed(left_wrist=("head", 0.1, 0.05), left_hand=("head", 0.07, 0))
    assert is_head_held(at_temple, ("left",)) and not is_head_held(at_temple, ("right",))
    crossed = without_crossed_legs(posed(left_knee=("right_knee", 0.01, 0)))
    assert crossed.cut_row is not None and crossed.note == "the legs cover each other: the upper body dances"
    joints = figure.joints * [0.05, 1]
    joints[[JOINT_INDEX["left_foot"], JOINT_INDEX["right_foot"]], 0] += 0.1 * figure.stature
    profile = replace(figure, joints=joints)
    assert without_crossed_legs(profile) is profile, "in profile one leg covers the other as a whole"
    at_sides = {
        f"{side}_{joint}": (f"{side}_hip", 0.03 * sign, 0)
        for side, sign in (("left", 1), ("right", -1))
        for joint in ("wrist", "hand")
    }
    crossed = without_crossed_legs(posed(left_knee=("right_knee", 0.01, 0), **at_sides))
    assert find_still_arms(crossed) == (), "the arms of crossed legs dance"
    assert find_still_arms(replace(crossed, has_still_legs=False)) == ("left", "right"), "cut off at the hips"
    ranges = []
    for part in (replace(puppet, still_arms=("left", "right")), puppet):
        joints, _ = PuppetAnimator(part, FPS).joints(*dance())
        from_shoulder = joints[:, JOINT_INDEX["left_wrist"]] - joints[:, JOINT_INDEX["left_shoulder"]]
        ranges.append(np.ptp(from_shoulder, axis=0).max())
    assert ranges[0] < 0.5 * ranges[1]


def test_the_canvas_grows_where_arms_would_leave_it(image, detector):
    """A tight crop before a plain wall: arms that reach up and aside stay inside; the image itself is unchanged."""
    wall = np.full_like(image, (150, 170, 190))
    wall[250:] = (90, 80, 70)
    plain = standing("man", 360, "C09", wall, 50)["rgb"]
    columns = np.flatnonzero((plain != wall).any(-1).any(0))
    crop = plain[70:, max(0, columns[0] - 12) : columns[-1] + 12]
    (small,), (puppet,) = (make_puppets(crop, [detector], grow_canvas=grows) for grows in (False, True))
    added = np.array(puppet.background.shape) - small.background.shape
    shift = puppet.joints - small.joints
    assert (added[:2] > 0).all() and np.ptp(shift, axis=0).max() < 1e-3
    left, top = shift[0].round().astype(int)
    assert top == added[0] and 0 < left < added[1]
    window = puppet.background[top:, left : left + small.background.shape[1]]
    assert np.array_equal(window, small.background)
    frame = PuppetAnimator(puppet, FPS).draw(puppet.joints[None], np.zeros((1, 24)))[0]
    np.testing.assert_allclose(
        frame[top:, left : left + small.background.shape[1]].astype(int),
        PuppetAnimator(small, FPS).draw(small.joints[None], np.zeros((1, 24)))[0],
        atol=2,
    )
    raised = torch.eye(3).repeat(24, 24, 1, 1)
    for side, sign in (("left", 1), ("right", -1)):
        turn = torch.tensor([0, 0, sign * 1.2])
        raised[:, JOINT_INDEX[f"{side}_shoulder"]] = matrix_from_axis_angle(turn)
    raised[:, 0] = STANDING
    joints = PuppetAnimator(puppet, FPS).joints(raised, torch.tensor([[0, 0, 0.95]]).repeat(24, 1))[0][-1]
    assert joints.min() > 0 and joints[:, 1].min() < top
    figure = extract_figure(crop, detector)
    crowd = replace(figure, other_people=np.ones(crop.shape[:2], bool))
    assert canvas_growth([crowd], crop, [True]) == CanvasGrowth(0, 0, 0), "no person is shown twice"
    rows, columns = np.indices(crop.shape[:2]) // 6
    patterned = np.repeat(np.uint8(60 + 120 * ((rows + columns) % 2))[..., None], 3, 2)
    assert canvas_growth([figure], patterned, [True]) == CanvasGrowth(0, 0, 0), "nor a pattern"


@pytest.mark.parametrize("body", ["man", "woman"])
def test_hands_at_the_sides_go_with_the_arms(detector, image, body):
    """Skin in the arms' layers, cloth in the others: by bones alone 6 and 21 % of the forearms are trousers."""
    shown = standing(body, 360, "C09", np.uint8(np.where(image > 127, 200, 160)), 84)
    layers = cut_limbs(extract_figure(shown["rgb"], detector))
    forearms = np.max([layers[f"{side}_forearm"][..., 3] for side in ("left", "right")], 0) > 127
    skin, hands = np.isin(shown["parts"], (3, 4, 19, 20, 21, 22)), np.isin(shown["parts"], (3, 4))
    assert forearms[skin].mean() > 0.75 and (forearms & np.isin(shown["parts"], range(1, 15)) & ~hands).sum() < 0.04 * (
        forearms.sum()
    )
    for name in ("torso", "left_thigh", "right_thigh"):  # no second hand: what is behind a hand has no skin's colour
        is_drawn = layers[name][..., 3] > 127
        is_skin = layers[name][..., 0].astype(int) > layers[name][..., 2].astype(int) + 40
        assert (is_drawn & is_skin & hands).sum() < 0.02 * hands.sum()


def lit_floor(with_shadow: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(image, floor without shadow, figure) of a striped floor that gets lighter to the right; its shadow is known."""
    y, x = np.mgrid[:200, :300].astype(np.float32)
    floor = np.repeat((130 + 0.2 * x + 12 * np.sin(y / 9))[..., None], 3, -1)
    shadow = 1 - 0.5 * np.exp(-(((x - 150) / 30) ** 2) - ((y - 150) / 9) ** 2)
    image = floor * shadow[..., None] if with_shadow else floor
    figure = (abs(x - 150) < 12) & (y < 152)
    image = np.where(figure[..., None], 250, image)
    return image.round().astype(np.uint8), floor.round().astype(np.uint8), figure


def test_the_shadow_is_separated_and_moves_with_the_feet():
    """Floor and shadow give the image back; a moved one is darkest at the feet, a jump makes it lighter."""
    image, floor, figure = lit_floor(with_shadow=True)
    center = np.array([150.0, 150.0])
    shadow = separate_shadow(image, floor, figure, center, 20.0, 120.0)
    beside = ~cv2.dilate(np.uint8(figure), np.ones((15, 15))).astype(bool)
    frame = floor.copy()
    shadow.draw(frame, center, 20.0, 0.0)
    assert np.abs(frame.astype(int) - image)[beside].max() <= 6
    moved, jumped = floor.copy(), floor.copy()
    shadow.draw(moved, center + (40, 5), 20.0, 0.0)
    shadow.draw(jumped, center + (40, 5), 20.0, 30.0)
    darkness, jump_darkness = (floor.astype(int) - drawn for drawn in (moved, jumped))
    row, column = np.unravel_index(cv2.GaussianBlur(np.float32(darkness[..., 0]), (0, 0), 6).argmax(), (200, 300))
    assert abs(column - 190) <= 4 and abs(row - 155) <= 4
    assert 0.2 < jump_darkness.sum() / darkness.sum() < 0.5
    edge = floor.copy()
    shadow.draw(edge, np.array([-500.0, 150.0]), 20.0, 0.0)  # outside the frame
    assert (edge == floor).all()


def test_without_a_shadow_nothing_is_darkened():
    image, floor, figure = lit_floor(with_shadow=False)
    assert separate_shadow(image, floor, figure, np.array([150.0, 150.0]), 20.0, 120.0) is None
    wrong_floor = np.full_like(floor, 250)  # an inpainted floor that disagrees with what is around it
    assert separate_shadow(image, wrong_floor, figure, np.array([150.0, 150.0]), 20.0, 120.0) is None


def test_blended_bones_turn_the_shorter_way():
    """From 170 to -170 degrees: half-way at 180 degrees, with the mean of both lengths."""
    start, poses = np.zeros((24, 2)), np.zeros((3, 24, 2))
    for joint, angle, length in ((4, 170, 10.0), (5, -170, 10.0)):
        ends = np.radians([angle, -angle])
        start[joint] = length * np.array([np.cos(ends[0]), np.sin(ends[0])])
        poses[:, joint] = 2 * length * np.array([np.cos(ends[1]), np.sin(ends[1])])
    blended = blend_from_pose(start, poses, np.array([0.0, 0.5, 1.0]))
    np.testing.assert_allclose(blended[0], start, atol=1e-9)
    np.testing.assert_allclose(blended[2], poses[2], atol=1e-9)
    np.testing.assert_allclose(blended[1, [4, 5]], [[-15, 0], [-15, 0]], atol=1e-9)


def test_turns_are_limited_to_the_pictured_side():
    """A quarter turn becomes MAX_TURN, a half turn zero; the other parts of a rotation are unchanged."""
    standing = STANDING.double()
    leaning = matrix_from_axis_angle(torch.tensor([[0.3, 0.0, 0.2]], dtype=torch.float64)) @ standing
    for turn, expected in ((0.0, 0.0), (np.pi / 2, MAX_TURN), (np.pi, 0.0), (-np.pi / 2, -MAX_TURN)):
        angles = torch.tensor([[0.0, 0.0, turn], [0.0, 0.0, expected]], dtype=torch.float64)
        rotation, expected_rotation = matrix_from_axis_angle(angles)
        torch.testing.assert_close(
            limit_turn((rotation @ standing)[None], 0.0)[0], expected_rotation @ standing, atol=1e-6, rtol=0
        )
    from_behind = limit_turn(standing[None], np.pi)[0]
    torch.testing.assert_close(from_behind, torch.diag(torch.tensor([-1.0, -1.0, 1.0]).double()) @ standing)
    torch.testing.assert_close(limit_turn(leaning, 0.0)[0, 2], leaning[0, 2])  # the lean is unchanged


def test_the_pictured_side_is_told_by_shoulders_and_feet():
    """A standing body that turns: front, three quarters, profile, back, profile to the left; in pixels of any size."""
    cases = {0: 0.0, 40: 0.0, 75: SIDE_HEADING, 90: SIDE_HEADING, 180: np.pi, -80: -SIDE_HEADING, -140: np.pi}
    for degrees, expected in cases.items():
        turn = matrix_from_axis_angle(torch.tensor([0.0, 0.0, float(np.radians(degrees))]))
        rotations = torch.eye(3).repeat(1, 24, 1, 1)
        rotations[:, 0] = turn @ STANDING
        x, _, z = forward_kinematics(rotations, torch.zeros(1, 3), OFFSETS)[0].T.numpy()
        joints = 50 * np.stack([x, -z], 1) + 80
        assert pictured_heading(joints, 50 * SMPL_STATURE) == expected, degrees


def test_nearer_limbs_are_drawn_later(puppet):
    depth = np.zeros(24)
    (
        depth[[JOINT_INDEX["left_wrist"], JOINT_INDEX["left_elbow"]]],
        depth[[JOINT_INDEX["right_wrist"], JOINT_INDEX["right_elbow"]]],
    ) = 50, -50
    order = drawing_order(puppet.joints, depth)
    assert order.index("left_forearm") < order.index("torso") < order.index("right_forearm")
    assert set(puppet.mesh.limbs) <= set(order) and len(set(order)) == len(order) == 12


def test_limbs_stay_connected(puppet):
    """Where one limb ends the next one begins, even if its stretch is limited."""
    wild_pose = puppet.joints + 120 * numbers("wild", 24, 2).numpy()
    transforms = limb_transforms(puppet.joints, wild_pose)
    for upper, lower, joint in (
        ("left_thigh", "left_shin", "left_knee"),
        ("right_upper_arm", "right_forearm", "right_elbow"),
    ):
        position = np.append(puppet.joints[JOINT_INDEX[joint]], 1)
        np.testing.assert_allclose(transforms[upper] @ position, transforms[lower] @ position, atol=1e-3)


def test_the_mesh_does_not_tear(puppet):
    """It stays one component, covers shoulders, elbows, hips and knees, and its outline stays smooth."""
    animator = PuppetAnimator(puppet, FPS)
    joints, depth = animator.joints(*dance())
    transparent = replace(puppet, background=np.zeros((*puppet.background.shape[:2], 4), np.uint8))
    alphas = PuppetAnimator(transparent, FPS).draw(
        np.concatenate([puppet.joints[None], joints]), np.pad(depth, ((1, 0), (0, 0)))
    )
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (5, 5))
    roughness = []
    for alpha, pose in zip(alphas[..., 3], [puppet.joints, *joints], strict=True):
        solid = np.uint8(alpha > 128)
        sizes = cv2.connectedComponentsWithStats(solid)[2][1:, cv2.CC_STAT_AREA]
        assert sizes.max() > 0.998 * sizes.sum()
        transforms = limb_transforms(puppet.joints, pose)
        for limb, joint in LIMB_JOINTS:
            position = transforms[limb] @ np.append(puppet.joints[JOINT_INDEX[joint]], 1)
            assert solid[cv2.circle(np.zeros_like(solid), position.round().astype(int), 3, 1, -1) > 0].all(), joint
        roughness.append((cv2.morphologyEx(solid, cv2.MORPH_OPEN, disc) != solid).sum() / solid.sum())
    assert np.mean(roughness[1:]) < roughness[0] + 0.0005  # rigid pieces: 0.0009 more


def test_the_command_animates_an_image(scripts, wheel, image, tmp_path):
    write_sound(tmp_path / "song.wav", np.sin(np.arange(3 * 22050) / 20).astype(np.float32), 22050)
    cv2.imwrite(str(tmp_path / "me.png"), image[:351, :353, ::-1])  # of odd sides
    files = [f"image={tmp_path / 'me.png'}", f"music={tmp_path / 'song.wav'}", f"out={tmp_path / 'me.mp4'}"]
    arguments = [
        *files,
        "seconds=2",
        "fps=12",
        f"weights.pose_detector={wheel}",
        "sampler.num_inference_steps=2",
        "renderer=warp",
    ]
    result = scripts.inside("sample", *arguments)
    assert result.returncode == 0 and "figure detection quality" in result.stdout, result.stderr
    frames, _, _ = read_video(tmp_path / "me.mp4")
    assert frames.shape == (24, 350, 352, 3) and np.ptp(frames.astype(int), axis=0).max() > 100
    cv2.imwrite(str(tmp_path / "me.png"), image[:220, :, ::-1])
    refused(scripts.inside("sample", *arguments, "scene=world"), "the feet of the person are cut off")
    for bad, words in (
        ("renderer=cartoon", "use one of auto, diffusion, mesh, wan_animate, warp"),
        ("image=null", "give image=FILE"),
    ):
        refused(scripts.inside("sample", *arguments, bad), words)


@pytest.mark.parametrize("body", ["woman", "robot"])
def test_rendered_figures_need_no_downloaded_detector(body):
    """The synthetic detector segments it, finer than its own 128 pixels; it detects nothing in a plain image."""
    wall = np.full((256, 256, 3), (120, 130, 140), np.uint8)
    rendered = standing(body, 256, "C09", wall, 50)
    mask, body = extract_figure(rendered["rgb"], SyntheticPoseDetector()).alpha > 0.5, rendered["parts"] > 0
    assert (mask & body).sum() > 0.9 * (mask | body).sum()  # 0.80 and 0.85 in the detector's own pixels
    puppet = make_puppet(rendered["rgb"], SyntheticPoseDetector())
    frame = PuppetAnimator(puppet, FPS).draw(puppet.joints[None], np.zeros((1, 24)))[0]
    assert np.abs(frame.astype(int) - rendered["rgb"]).mean() < 2.5
    outline = (np.abs(puppet.background.astype(int) - rendered["rgb"]).max(-1) > 12) & (rendered["parts"] > 0)
    assert outline.sum() > 0.9 * (rendered["parts"] > 0).sum()
    animator = PuppetAnimator(puppet, FPS)
    joints, depth = animator.joints(*dance())
    poses = SyntheticPoseDetector().detect(animator.draw(joints, depth))
    assert np.nanmean(np.linalg.norm(poses.joints - joints, axis=-1)) < 0.06 * puppet.stature
    with pytest.raises(ValueError, match="no figure was detected"):
        make_puppet(wall, SyntheticPoseDetector())


def test_a_rendered_figure_without_feet_is_refused():
    rendered = standing("woman", 256, "C09", np.full((256, 256, 3), (120, 130, 140), np.uint8), 50)
    knees = np.flatnonzero(np.isin(rendered["parts"], (11, 12, 13, 14)).any(1))[0]
    with pytest.raises(ValueError, match="the feet of the figure are cut off"):
        make_puppet(rendered["rgb"][:knees], SyntheticPoseDetector())


def test_a_forearm_behind_a_gap_belongs_to_the_figure_and_a_ball_does_not():
    """The mask is coarse, broken at an elbow, and has a ball beside the figure. Twice the same result."""
    rendered = standing("man", 128, "C09", np.full((128, 128, 3), (120, 130, 140), np.uint8), 50)
    image, body, joints = rendered["rgb"].copy(), rendered["parts"] > 0, rendered["joints2d"]
    ball = np.zeros(body.shape, np.uint8)
    cv2.circle(ball, (12, 100), 6, 1, -1)
    image[ball > 0] = (200, 40, 40)
    mask = cv2.GaussianBlur(np.float32(body | (ball > 0)), (0, 0), 1.5)
    column = round(float(joints[JOINT_INDEX["left_elbow"], 0]))
    mask[:, column - 2 : column + 2] = 0
    refined = refine_mask(image, mask, joints)
    assert ((refined > 0.5) & body).sum() > 0.9 * ((refined > 0.5) | body).sum()
    assert not refined[ball > 0].any()
    wrist = joints[JOINT_INDEX["left_wrist"]].round().astype(int)
    assert refined[wrist[1], wrist[0]] > 0.5
    cv2.setRNGSeed(7)  # as after other images
    assert np.array_equal(refined, refine_mask(image, mask, joints))


def test_a_real_photograph(detector):
    """A running player: mean error below 8% of the stature."""
    if not PHOTO.is_file():
        pytest.skip(f"the Debian package opencv-doc, which has {PHOTO}, is not installed")
    puppet = make_puppet(cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB), detector)
    animator = PuppetAnimator(puppet, FPS)
    joints, depth = animator.joints(*dance(24))
    poses = detector.detect(animator.draw(joints, depth))
    assert (np.linalg.norm(poses.joints - joints, axis=-1) / puppet.stature).mean() < 0.08
