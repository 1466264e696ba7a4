"""DWPose around its networks: made answers have known boxes and points, and small networks that see colours find them.

The published weights are not here: how well they see is not tested.
"""

import pickle
from fractions import Fraction

import cv2
import numpy as np
import pytest
from onnx_files import write_onnx
from test_body_people import dance

from zoo.body.camera import camera
from zoo.body.detection.base import PoseDetector, Poses
from zoo.body.detection.dwpose import FILES, DWPoseDetector, decode_boxes, decode_points, draw_mask, input_map
from zoo.body.detection.factory import load_detector
from zoo.body.image.segmentation import extract_figure
from zoo.body.render.appearance import random_appearance
from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import JOINTS
from zoo.data.base import EvalSpec
from zoo.data.sources.videos import Videos
from zoo.media import VideoWriter
from zoo.music.spectral import Spectral

BOX = (160, 240)  # pixels of 640: what the small YOLOX says of every person
RED, GREEN, BLUE = np.eye(3) * 255


def write_networks(folder) -> None:
    """A YOLOX for which cells of stride 8 that are red are people, blue first as it is given pictures; and an RTMPose
    whose points 0, 3, 6 ... are at what is red, 1, 4, 7 ... at what is green and the others at what is blue."""
    nodes, tensors, kinds = [], {}, []
    for stride in (8, 16, 32):
        cells = (640 // stride) ** 2
        weight, bias = np.zeros((85, 3, stride, stride), np.float32), np.zeros(85, np.float32)
        if stride == 8:
            weight[4] = np.array([-0.5, -0.5, 1], np.float32)[:, None, None] / (255 * stride**2)
            bias[:4], bias[5] = (0.5, 0.5, *np.log(np.array(BOX) / stride)), 1
        tensors |= {f"w{stride}": weight, f"b{stride}": bias, f"s{stride}": np.array([1, 85, cells])}
        sides = {"kernel_shape": [stride] * 2, "strides": [stride] * 2}
        nodes.append(("Conv", ["picture", f"w{stride}", f"b{stride}"], f"c{stride}", sides))
        nodes.append(("Reshape", [f"c{stride}", f"s{stride}"], f"r{stride}", {}))
        kinds.append(f"r{stride}")
    nodes.append(("Concat", kinds, "rows", {"axis": 2}))
    nodes.append(("Transpose", ["rows"], "output", {"perm": [0, 2, 1]}))
    write_onnx(folder / FILES[0], nodes, tensors, (1, 3, 640, 640), {"output": (1, 8400, 85)})

    nodes, tensors, answers = [], {}, {}
    for name, side, kernel in (("simcc_x", 288, [384, 1]), ("simcc_y", 384, [1, 288])):
        colour = np.eye(3, dtype=np.float32)[np.arange(133) % 3] * 1.5 - 0.5  # its own colour less the others
        even_and_odd = np.stack([colour, 0.9 * colour], 1).reshape(266, 3, 1, 1) / (kernel[0] * kernel[1])
        tensors |= {f"{name}_w": np.tile(even_and_odd, (1, 1, *kernel)), f"{name}_s": np.array([1, 133, 2, side])}
        tensors |= {f"{name}_t": np.array([1, 133, 2 * side])}
        nodes.append(("Conv", ["picture", f"{name}_w"], f"{name}_c", {"kernel_shape": kernel}))
        nodes.append(("Reshape", [f"{name}_c", f"{name}_s"], f"{name}_r", {}))
        nodes.append(("Transpose", [f"{name}_r"], f"{name}_p", {"perm": [0, 1, 3, 2]}))
        nodes.append(("Reshape", [f"{name}_p", f"{name}_t"], name, {}))
        answers[name] = (1, 133, 2 * side)
    write_onnx(folder / FILES[1], nodes, tensors, (1, 3, 384, 288), answers)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("dwpose")
    write_networks(path)
    return path


def spots(*people: tuple, size=(300, 400)) -> np.ndarray:
    """A black picture with a red, a green and a blue spot a person, at places (x, y) from the picture's corner."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    picture = np.zeros((*size, 3))
    for places in people:
        for (across, down), colour in zip(places, (RED, GREEN, BLUE), strict=True):
            picture += np.exp(-((x - across) ** 2 + (y - down) ** 2) / (2 * 4.0**2))[..., None] * colour
    return picture.round().clip(0, 255).astype(np.uint8)


ONE = ((120.5, 102.5), (105.5, 60.5), (140.5, 150.5))
OTHER = ((300.5, 202.5), (290.5, 240.5), (320.5, 180.5))


def test_yolox_answers_are_boxes_in_pixels():
    """Row by row of the cells, stride after stride."""
    answer = np.zeros((8400, 85), np.float32)
    answer[6400 + 3 * 40 + 5, :7] = 0.5, 0.25, np.log(2), np.log(4), 0.9, 0.8, 0.99
    answer[8399, :6] = 1, 1, 0, 0, 0.5, 0.5
    boxes, scores = decode_boxes(answer)
    np.testing.assert_allclose(boxes[6525], [88 - 16, 52 - 32, 88 + 16, 52 + 32], atol=1e-4)
    np.testing.assert_allclose(boxes[8399], [640 - 16, 640 - 16, 640 + 16, 640 + 16])
    np.testing.assert_allclose(scores[[6525, 8399, 0]], [0.72, 0.25, 0], atol=1e-6)


@pytest.mark.parametrize("box", [(100, 50, 200, 350), (40, 80, 340, 120)])
def test_a_peak_in_the_bins_is_a_place_in_the_picture(box):
    """The box's middle is the middle, and the box 1.25 times as large fills the side that it fills first."""
    box = np.array(box, float)
    x, y = np.zeros((133, 576)), np.zeros((133, 768))
    x[:, 0], y[:, 0] = 0.1, 0.1
    x[7, 2 * 144], y[7, 2 * 192] = 0.8, 0.6
    x[8, 2 * 72 + 1], y[8, 2 * 200] = 2.0, 1.5
    points, sure = decode_points(x, y)
    np.testing.assert_allclose(sure[[6, 7, 8]], [0.1, 0.6, 1])
    np.testing.assert_array_equal(points[[6, 7, 8]], [[0, 0], [144, 192], [72.5, 200]])
    back = cv2.transform(points[None], cv2.invertAffineTransform(input_map(box)))[0]
    size = (box[2:] - box[:2]) * 1.25
    shown = max(size[0], size[1] * 288 / 384)  # how much of the picture lies across 288 pixels
    middle = (box[:2] + box[2:]) / 2
    np.testing.assert_allclose(back[7], middle)
    np.testing.assert_allclose(back[8], middle + np.array([72.5 - 144, 200 - 192]) * shown / 288)


def test_people_and_points_are_found_where_they_are(folder):
    """To a third of a pixel: at what is red for both networks, whichever order each has its colours in."""
    detector = load_detector(folder)
    assert isinstance(detector, DWPoseDetector) and detector.name.startswith("DWPose")
    people = detector.find_people(spots(ONE, OTHER))
    found = sorted((one.box for one in people), key=lambda box: box[0])
    assert len(found) == 2 and all(0.3 < one.score <= 1 for one in people)
    for box, (place, *_) in zip(found, (ONE, OTHER), strict=True):
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, place, atol=8 / 1.6)  # a cell of 8 pixels of 640 for 400
        np.testing.assert_allclose(box[2:] - box[:2], np.array(BOX) / 1.6, rtol=1e-4)
    points, sure = detector._network.predict_keypoints(spots(ONE), found[0])
    for kind, place in enumerate(ONE):
        np.testing.assert_allclose(points[kind::3], np.tile(place, (len(points[kind::3]), 1)), atol=0.34)
    assert (sure >= 0).all() and (sure <= 1).all()
    assert not detector.find_people(spots())


def test_the_figure_is_followed_in_smpl_joints(folder):
    """The one who was there first, though another is surer later."""
    both = spots(OTHER) + spots(ONE) // 5 * 4
    frames = np.stack([spots(ONE), spots(), both, both])
    detector = pickle.loads(pickle.dumps(load_detector(folder / FILES[0])))
    poses = detector.detect(frames)
    assert isinstance(poses, Poses) and poses.mask.shape == frames.shape[:3]
    assert np.isnan(poses.joints[1]).all() and not poses.confidence[1].any() and not poses.mask[1].any()
    np.testing.assert_allclose(poses.joints[2], poses.joints[0], atol=0.5)
    np.testing.assert_allclose(poses.joints[3], poses.joints[0], atol=0.5)
    red, green, blue = map(np.array, ONE)
    where = {"left_knee": green, "right_knee": blue, "left_ankle": red, "right_ankle": green, "left_elbow": green,
             "right_elbow": blue, "left_wrist": red, "right_wrist": green, "left_shoulder": blue, "right_shoulder": red,
             "left_foot": (red + blue) / 2, "right_foot": (red + blue) / 2, "left_hand": green,
             "right_hand": green}  # fmt: skip
    for name, place in where.items():
        np.testing.assert_allclose(poses.joints[0, JOINTS.index(name)], place, atol=0.34, err_msg=name)


def test_it_finds_the_dancer_of_a_video(folder, tmp_path, monkeypatch):
    """As data.people, where crop=dancer: the crop holds the spots and leaves what is far from them."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    with VideoWriter(tmp_path / "a.mp4", Fraction(10)) as video:
        video.write(np.repeat(spots(ONE)[None], 6, 0))
    source = Videos(str(tmp_path), allow_silent=True, pose_detector=str(folder))
    (take,) = source.eval_clips("test", EvalSpec(4, 10, 96, 96, crop="dancer"), Spectral())
    down, across = np.nonzero(take.frames[0].max(-1) > 100)
    assert down.min() > 4 and across.min() > 4 and down.max() < 91 and across.max() < 91
    assert np.ptp(down) > 50, "300 pixels in 96 would leave 36 of them between the spots"


class Known(PoseDetector):
    """What DWPose would be, were it always right."""

    def __init__(self, joints: np.ndarray):
        self.joints, self.name = joints, "known"

    def detect(self, frames):
        mask = draw_mask(self.joints, *frames.shape[1:3])
        return Poses(self.joints[None], np.ones((1, 24), np.float32), mask[None])


def test_a_mask_drawn_by_the_joints_is_about_the_body():
    """Against rendered people; made finer by the picture's colours it serves to cut one out."""
    root, rng = np.tile(np.array([0, 0, 0.976], np.float32), (2, 1)), np.random.default_rng(5)
    wall = cv2.GaussianBlur((rng.random((384, 384, 3)) * 255).astype(np.float32), (0, 0), 8)
    wall = ((wall - wall.min()) / np.ptp(wall) * 160 + 60).astype(np.uint8)
    view = camera("C01", 0.3), 384, 384, wall
    shown = render_motion(random_appearance(rng, human=True), dance(2), root, *view, maps=("rgb", "parts"))
    for index in range(2):
        body, joints = shown["parts"][index] > 0, shown["joints2d"][index]
        drawn = draw_mask(joints, 384, 384) > 0.5
        assert (drawn & body).sum() / (drawn | body).sum() > 0.7
        cut = extract_figure(shown["rgb"][index], Known(joints)).alpha > 0.5
        assert (cut & body).sum() / (cut | body).sum() > 0.9


def test_what_is_not_the_files_is_refused_in_one_line(folder, tmp_path):
    only, broken, swapped = (tmp_path / name for name in ("only", "broken", "swapped"))
    for place in (only, broken, swapped):
        place.mkdir()
    (only / FILES[1]).write_bytes((folder / FILES[1]).read_bytes())
    for name, other in (FILES, FILES[::-1]):
        (broken / name).write_bytes(b"onnx" * 64)
        (swapped / name).write_bytes((folder / other).read_bytes())
    for path, words in (
        (only, "has no yolox_l.onnx"), (only / FILES[1], "has no yolox_l.onnx"), (broken, "is damaged"),
        (tmp_path / "none.onnx", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words) as caught:
            load_detector(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"yolox_l\.onnx holds another network") as caught:
        load_detector(swapped).find_people(spots(ONE))
    assert "\n" not in str(caught.value)
