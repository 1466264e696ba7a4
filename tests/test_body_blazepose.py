"""BlazePose on rendered bodies with known joints, and on a photograph.

Its files are in a wheel of mediapipe, which is downloaded once into the cache.
"""

import pickle
import zipfile
from copy import copy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from zoo.body.camera import camera
from zoo.body.detection.blazepose import FILES, REGION_MARGIN, BlazePose, Region, _crop, _merge, _refine
from zoo.body.detection.blazepose_detector import TO_JOINTS, BlazePoseDetector
from zoo.body.render.appearance import random_appearance
from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import JOINTS, STANDING, matrix_from_axis_angle

PHOTO = Path("/usr/share/doc/opencv-doc/examples/data/messi5.jpg")  # of the Debian package opencv-doc
SIDE = 192  # pixels


@pytest.fixture(scope="module")
def detector(wheel) -> BlazePoseDetector:
    return BlazePoseDetector(wheel)


def rotation_about_z(degrees: float) -> np.ndarray:
    """In the rest frame, where the arms lie along X, it lifts the left arm and lowers the right one."""
    return matrix_from_axis_angle(torch.tensor([0, 0, np.radians(degrees)])).numpy()


def dance(frames: int) -> np.ndarray:
    """(frames, 24, 3, 3): the left arm swings from the thigh to above the head, the right one hangs, a knee lifts."""
    rotations = np.tile(np.eye(3, dtype=np.float32), (frames, 24, 1, 1))
    rotations[:, 0] = STANDING.numpy()
    for frame, lift in enumerate(np.linspace(0, 1, frames)):
        rotations[frame, 16], rotations[frame, 17] = rotation_about_z(-65 + 120 * lift), rotation_about_z(65)
        rotations[frame, 1] = matrix_from_axis_angle(torch.tensor([-0.8 * lift, 0, 0.2])).numpy()
        rotations[frame, 4] = matrix_from_axis_angle(torch.tensor([1.2 * lift, 0, 0])).numpy()
    return rotations


@pytest.fixture(scope="module")
def clips() -> list[dict[str, np.ndarray]]:
    """Clips of three people of different appearance: rgb, joints2d and parts of 12 frames."""
    rng = np.random.default_rng(5)
    root = np.tile(np.array([0, 0, 0.976], np.float32), (12, 1))
    view = (camera("C01", 0.3), SIDE, SIDE)
    return [
        render_motion(random_appearance(rng, human=True), dance(12), root, *view, maps=("rgb", "parts")) for _ in "abc"
    ]


def test_joints_and_mask_of_rendered_people(detector, clips):
    for clip in clips:
        true_joints = clip["joints2d"]
        height = np.ptp(true_joints[0, :, 1])
        poses = detector.detect(clip["rgb"])
        assert poses.joints.shape == true_joints.shape and poses.joints.dtype == np.float32
        error = np.linalg.norm(poses.joints - true_joints, axis=-1) / height
        assert error.mean() < 0.015, "1.5 % of the body's height"
        assert np.quantile(error, 0.9) < 0.025
        for name in ("hip", "shoulder", "elbow", "wrist", "knee", "ankle"):
            left, right = JOINTS.index(f"left_{name}"), JOINTS.index(f"right_{name}")
            error_same_side = np.linalg.norm(poses.joints[:, [left, right]] - true_joints[:, [left, right]], axis=-1)
            error_other_side = np.linalg.norm(poses.joints[:, [left, right]] - true_joints[:, [right, left]], axis=-1)
            assert (error_same_side < error_other_side).all(), f"left and right {name}s are not swapped"
        true_mask, mask = clip["parts"] > 0, poses.mask > 0.5
        assert mask.shape == true_mask.shape
        assert (mask & true_mask).sum() / (mask | true_mask).sum() > 0.95
        assert poses.mask.min() >= 0 and poses.mask.max() <= 1
        assert poses.confidence.min() >= 0 and poses.confidence.max() <= 1 and poses.confidence.mean() > 0.9


def test_the_figure_is_tracked_lost_and_detected_again(detector, clips):
    rgb, empty = clips[0]["rgb"], np.full((SIDE, SIDE, 3), 128, np.uint8)
    flipped = np.roll(rgb[0], SIDE // 4, axis=1)  # the figure has jumped aside
    clip = np.stack([empty, rgb[0], empty, flipped, rgb[0]])
    poses = detector.detect(clip)
    assert np.isnan(poses.joints[[0, 2]]).all() and not poses.confidence[[0, 2]].any() and not poses.mask[[0, 2]].any()
    assert np.isfinite(poses.joints[[1, 3, 4]]).all()
    height = np.ptp(clips[0]["joints2d"][0, :, 1])
    shift = poses.joints[3] - poses.joints[1] - [SIDE // 4, 0]
    assert np.linalg.norm(shift, axis=-1).mean() < 0.02 * height
    repeated = pickle.loads(pickle.dumps(detector)).detect(clip)
    for name in ("joints", "confidence", "mask"):
        assert getattr(repeated, name).tobytes() == getattr(poses, name).tobytes(), "the same clip, the same bits"


def test_a_walking_figure_is_tracked(detector, clips, monkeypatch):
    """Across an image of three times its width; the whole image is searched only once, at the start."""
    wide = np.pad(clips[2]["rgb"], ((0, 0), (0, 0), (0, 2 * SIDE), (0, 0)), mode="edge")
    steps = np.arange(len(wide)) * SIDE // 8
    searched_images = []
    find_people = detector.find_people
    monkeypatch.setattr(detector, "find_people", lambda image: searched_images.append(image) or find_people(image))
    poses = detector.detect(np.stack([np.roll(frame, step, axis=1) for frame, step in zip(wide, steps, strict=True)]))
    true_joints = clips[2]["joints2d"] + np.stack([steps, 0 * steps], -1)[:, None]
    assert np.linalg.norm(poses.joints - true_joints, axis=-1).mean() < 0.015 * np.ptp(true_joints[0, :, 1])
    assert len(searched_images) == 1


def test_aspect_ratio_and_size_do_not_matter(detector, clips):
    """A wide image and one twice as large give the same positions."""
    rgb = clips[1]["rgb"][:2]
    height = np.ptp(clips[1]["joints2d"][0, :, 1])
    wide = np.pad(rgb, ((0, 0), (0, 0), (60, 10), (0, 0)), mode="edge")
    large = rgb.repeat(2, 1).repeat(2, 2)
    square, wide, large = (detector.detect(clip) for clip in (rgb, wide, large))
    assert wide.mask.shape == (2, SIDE, SIDE + 70)
    for joints in (wide.joints - [60, 0], large.joints / 2):
        assert np.linalg.norm(joints - square.joints, axis=-1).mean() < 0.015 * height


def test_all_people_are_detected(detector, clips):
    image = clips[0]["rgb"][0]
    middle, half = SIDE // 2, 40  # arms hang in the first frame: a figure is less than 80 pixels wide
    row = np.concatenate([clip["rgb"][0, :, middle - half : middle + half] for clip in clips], axis=1)
    people = detector.find_people(row)
    assert [int(person.region.center[0]) // 80 for person in sorted(people, key=lambda person: person.box[0])] == [
        0,
        1,
        2,
    ]
    assert [person.score for person in people] == sorted((person.score for person in people), reverse=True)
    spread_row = np.pad(row.reshape(SIDE, 3, 80, 3), ((0, 0), (0, 0), (60, 60), (0, 0)), mode="edge").reshape(
        SIDE, -1, 3
    )
    assert len(detector.find_people(spread_row)) == 3, "in an image three times as wide as high"
    small = np.pad(image, ((SIDE, 2 * SIDE), (2 * SIDE, SIDE), (0, 0)), mode="edge")
    (small_person,) = detector.find_people(small)
    assert (
        np.abs(small_person.region.center - [2 * SIDE, SIDE] - detector.find_people(image)[0].region.center).max() < 12
    )
    (person,) = detector.find_people(image)
    x, y = clips[0]["joints2d"][0].T
    left, top, right, bottom = person.box
    assert left < x.min() and x.max() < right and top < y.min() and y.max() < bottom
    head = clips[0]["joints2d"][0, JOINTS.index("head")]
    assert (person.face[:2] < head).all() and (head < person.face[2:]).all()
    assert detector.find_people(np.full((90, 120, 3), 200, np.uint8)) == []


def test_people_whom_the_detector_misses_are_found_by_their_faces(wheel, clips, monkeypatch, tmp_path):
    """Faces lie on heads; a region below a face gives its person; the one that was detected dances.

    A folder without the file for faces detects none.
    """
    middle, half = SIDE // 2, 40
    row = np.concatenate([clip["rgb"][0, :, middle - half : middle + half] for clip in clips], axis=1)
    heads = [clip["joints2d"][0, JOINTS.index("head")] for clip in clips]
    heads = np.stack(heads) + [[2 * half * index - middle + half, 0] for index in range(3)]
    faces = sorted(BlazePose(wheel).detect_faces(row), key=lambda face: face.center[0])
    assert len(faces) == 3
    for face, head in zip(faces, heads, strict=True):
        assert np.linalg.norm(face.center - head) < 0.4 * face.width and face.score >= 0.5
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(FILES):
                (tmp_path / Path(name).name).write_bytes(archive.read(name))
    for path, num_people in ((wheel, 3), (tmp_path, 1)):
        detector = BlazePoseDetector(path)
        left_person = min(detector.find_people(row), key=lambda person: person.region.center[0])
        monkeypatch.setattr(detector, "find_people", lambda image, person=left_person: [person])
        figure = detector.segment_figure(row)
        assert (figure.note or "").startswith("3 people were detected, of whom person 1 from") == (num_people == 3)
        assert np.abs(figure.joints[JOINTS.index("head")] - heads[0]).max() < 8


def test_the_mask_of_a_person_in_a_group_shows_nobody_else(detector, clips):
    """One of three stands before the two others: each mask has the visible pixels of its person alone."""
    row = np.full((SIDE, 3 * SIDE, 3), 200, np.uint8)
    owner = np.zeros(row.shape[:2], int)
    for number, column in ((1, 60), (3, 156), (2, 108)):  # the last one is in front
        is_person = clips[number - 1]["parts"][0] > 0
        window = slice(column, column + SIDE)
        row[:, window][is_person] = clips[number - 1]["rgb"][0][is_person]
        owner[:, window][is_person] = number
    detectors = copy(detector)
    for number in (1, 2, 3):
        detectors.person = number
        mask = detectors.segment_figure(row).alpha > 0.5
        assert (mask & (owner == number)).sum() > 0.9 * (mask | (owner == number)).sum(), number
        assert (mask & (owner != number) & (owner > 0)).sum() < 0.018 * mask.sum(), number


def test_a_photograph(detector):
    if not PHOTO.is_file():
        pytest.skip(f"the Debian package opencv-doc, which has {PHOTO}, is not installed")
    image = cv2.cvtColor(cv2.imread(str(PHOTO)), cv2.COLOR_BGR2RGB)
    assert len(detector.find_people(image)) == 1
    poses = detector.detect(image[None])
    # positions read by eye; the player faces the camera, his left hand is on the image's right
    expected = {"head": (240, 110), "left_wrist": (350, 168), "right_wrist": (103, 101), "right_foot": (300, 333)}
    for name, position in expected.items():
        assert np.linalg.norm(poses.joints[0, JOINTS.index(name)] - position) < 20, name
    assert poses.mask[0, 180, 240] > 0.9 and poses.mask[0, 30:60, 400:540].max() < 0.1


def test_wrong_files_are_refused_in_one_line(tmp_path, wheel):
    empty, wrong, damaged = tmp_path / "empty", tmp_path / "wrong.whl", tmp_path / "broken"
    empty.mkdir()
    wrong.write_text("no archive")
    damaged.mkdir()
    for name in FILES:
        (damaged / name).write_bytes(b"TFL3" * 64)
    for path, message in (
        (tmp_path / "none.whl", "does not exist"), (empty, "has no pose_detection.tflite"),
        (wrong, "neither a mediapipe wheel nor a folder"), (damaged, "damaged or of other networks"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as error_info:
            BlazePoseDetector(path)
        assert "\n" not in str(error_info.value) and "pip download" in str(error_info.value)
    with zipfile.ZipFile(wheel) as archive:
        members = [
            next(member_name for member_name in archive.namelist() if member_name.endswith(name)) for name in FILES
        ]
        for name, member in zip(reversed(FILES), members, strict=True):
            (damaged / name).write_bytes(archive.read(member))  # each under the other's name
        with pytest.raises(ValueError, match="damaged or of other networks"):
            BlazePoseDetector(damaged)
        archive.extractall(tmp_path / "unpacked", members)
    assert BlazePoseDetector(tmp_path / "unpacked").name == BlazePoseDetector(wheel).name


def test_a_region_is_upright_for_its_figure():
    """Its upper edge lies half a side without the margin away from its center, in the figure's direction."""
    for up in ([0.0, -20.0], [20.0, 0.0], [-12.0, 16.0]):
        matrix = Region(np.array([50.0, 40.0]), np.array(up)).to_image(256)
        center, top, right = (matrix @ [x, y, 1] for x, y in ((128, 128), (128, 0), (256, 128)))
        np.testing.assert_allclose(center, [50, 40])
        np.testing.assert_allclose(top - center, np.multiply(up, REGION_MARGIN))
        np.testing.assert_allclose(right - center, REGION_MARGIN * np.array([-up[1], up[0]]))


def test_crops_and_masks_are_aligned_with_the_image():
    """A region of 64 pixels about (50, 40), cropped to 256 x 256 and pasted back, to a hundredth of a pixel."""
    region = Region(np.array([50.0, 40.0]), np.array([0, -32 / REGION_MARGIN]))
    column, row = np.meshgrid(np.arange(100) + 0.5, np.arange(90) + 0.5)  # of the pixels' centers
    picture = np.stack([column, row, row], -1).astype(np.float32)
    crop = _crop(picture, region.to_image(256), 256, cv2.BORDER_REPLICATE)
    interior = np.s_[8:-8, 8:-8]
    position = (np.arange(256) + 0.5) / 4
    np.testing.assert_allclose(crop[interior][..., 0], np.tile(18 + position, (256, 1))[interior], atol=0.02)
    np.testing.assert_allclose(crop[interior][..., 1], np.tile(8 + position, (256, 1)).T[interior], atol=0.02)
    pasted = BlazePose.paste_mask(crop[..., 0], region, 90, 100)
    np.testing.assert_allclose(pasted[10:70, 20:80], column[10:70, 20:80], atol=0.02)
    assert not pasted[:, :17].any() and not pasted[:, 83:].any() and not pasted[73:].any()


def test_a_confident_heat_map_moves_its_point():
    points = np.full((39, 2), [0.51, 0.26])  # heat cell (32, 16)
    heatmaps = np.full((64, 64, 39), -20.0)
    heatmaps[18, 31, 0] = heatmaps[14, 29, 0] = 20  # two confident cells near it: their middle
    heatmaps[18, 31, 1] = -1  # not confident
    heatmaps[40, 50, 2] = 20  # too far
    refined = _refine(points, heatmaps)
    np.testing.assert_allclose(refined[0], [30 / 64, 16 / 64], atol=1e-6)
    np.testing.assert_array_equal(refined[1:], points[1:])


def test_overlapping_boxes_are_one_person_weighted_by_score():
    boxes = np.array([[[0, 0], [10, 10], [5, 5]], [[1, 0], [11, 10], [7, 5]], [[30, 0], [40, 10], [35, 5]]], float)
    merged = _merge(boxes, np.array([0.6, 0.9, 0.7]))
    assert [score for score, _ in merged] == [0.9, 0.7]
    np.testing.assert_allclose(merged[0][1], (0.6 * boxes[0] + 0.9 * boxes[1]) / 1.5)
    np.testing.assert_allclose(merged[1][1], boxes[2])


def test_joints_are_symmetric_means_of_points():
    np.testing.assert_allclose(TO_JOINTS.sum(1), 1, atol=1e-12)
    swapped = {11: 12, 13: 14, 15: 16, 17: 18, 19: 20, 23: 24, 25: 26, 27: 28, 31: 32, 7: 8}
    order = np.arange(33)
    for left, right in swapped.items():
        order[[left, right]] = right, left
    mirror = [JOINTS.index(name.replace("left", "#").replace("right", "left").replace("#", "right")) for name in JOINTS]
    np.testing.assert_allclose(TO_JOINTS[mirror][:, order], TO_JOINTS, atol=1e-12)
