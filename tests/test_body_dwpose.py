"""DWPose without its weights: synthetic outputs with known boxes and points, and small networks that detect colors.

The accuracy of the published weights is not tested.
"""

import pickle
from fractions import Fraction

import cv2
import numpy as np
import pytest
from onnx_files import _field, write_onnx
from test_body_blazepose import dance

from zoo.body.camera import camera
from zoo.body.detection.base import PoseDetector, Poses
from zoo.body.detection.dwpose import FILES, DWPoseDetector, decode_boxes, decode_points, draw_mask, input_map
from zoo.body.detection.factory import load_detector
from zoo.body.detection.onnx_check import check_no_external_data
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
    nodes, tensors, names = [], {}, []
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
        names.append(f"r{stride}")
    nodes.append(("Concat", names, "rows", {"axis": 2}))
    nodes.append(("Transpose", ["rows"], "output", {"perm": [0, 2, 1]}))
    write_onnx(folder / FILES[0], nodes, tensors, (1, 3, 640, 640), {"output": (1, 8400, 85)})

    nodes, tensors, outputs = [], {}, {}
    for name, side, kernel in (("simcc_x", 288, [384, 1]), ("simcc_y", 384, [1, 288])):
        color = np.eye(3, dtype=np.float32)[np.arange(133) % 3] * 1.5 - 0.5  # its own color less the others
        even_and_odd = np.stack([color, 0.9 * color], 1).reshape(266, 3, 1, 1) / (kernel[0] * kernel[1])
        tensors |= {f"{name}_w": np.tile(even_and_odd, (1, 1, *kernel)), f"{name}_s": np.array([1, 133, 2, side])}
        tensors |= {f"{name}_t": np.array([1, 133, 2 * side])}
        nodes.append(("Conv", ["picture", f"{name}_w"], f"{name}_c", {"kernel_shape": kernel}))
        nodes.append(("Reshape", [f"{name}_c", f"{name}_s"], f"{name}_r", {}))
        nodes.append(("Transpose", [f"{name}_r"], f"{name}_p", {"perm": [0, 1, 3, 2]}))
        nodes.append(("Reshape", [f"{name}_p", f"{name}_t"], name, {}))
        outputs[name] = (1, 133, 2 * side)
    write_onnx(folder / FILES[1], nodes, tensors, (1, 3, 384, 288), outputs)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("dwpose")
    write_networks(path)
    return path


def draw_spots(*people: tuple, size=(300, 400)) -> np.ndarray:
    """A black image with a red, a green and a blue spot a person, at positions (x, y) from the image's corner."""
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    image = np.zeros((*size, 3))
    for places in people:
        for (spot_x, spot_y), color in zip(places, (RED, GREEN, BLUE), strict=True):
            image += np.exp(-((x - spot_x) ** 2 + (y - spot_y) ** 2) / (2 * 4.0**2))[..., None] * color
    return image.round().clip(0, 255).astype(np.uint8)


ONE = ((120.5, 102.5), (105.5, 60.5), (140.5, 150.5))
OTHER = ((300.5, 202.5), (290.5, 240.5), (320.5, 180.5))


def test_yolox_output_is_decoded_to_boxes_in_pixels():
    """Row by row of the cells, stride after stride."""
    output = np.zeros((8400, 85), np.float32)
    output[6400 + 3 * 40 + 5, :7] = 0.5, 0.25, np.log(2), np.log(4), 0.9, 0.8, 0.99
    output[8399, :6] = 1, 1, 0, 0, 0.5, 0.5
    boxes, scores = decode_boxes(output)
    np.testing.assert_allclose(boxes[6525], [88 - 16, 52 - 32, 88 + 16, 52 + 32], atol=1e-4)
    np.testing.assert_allclose(boxes[8399], [640 - 16, 640 - 16, 640 + 16, 640 + 16])
    np.testing.assert_allclose(scores[[6525, 8399, 0]], [0.72, 0.25, 0], atol=1e-6)


@pytest.mark.parametrize("box", [(100, 50, 200, 350), (40, 80, 340, 120)])
def test_a_peak_in_the_bins_is_a_position_in_the_image(box):
    """The box's middle is the middle, and the box 1.25 times as large fills the side that it fills first."""
    box = np.array(box, float)
    x, y = np.zeros((133, 576)), np.zeros((133, 768))
    x[:, 0], y[:, 0] = 0.1, 0.1
    x[7, 2 * 144], y[7, 2 * 192] = 0.8, 0.6
    x[8, 2 * 72 + 1], y[8, 2 * 200] = 2.0, 1.5
    points, scores = decode_points(x, y)
    np.testing.assert_allclose(scores[[6, 7, 8]], [0.1, 0.6, 1])
    np.testing.assert_array_equal(points[[6, 7, 8]], [[0, 0], [144, 192], [72.5, 200]])
    in_image = cv2.transform(points[None], cv2.invertAffineTransform(input_map(box)))[0]
    size = (box[2:] - box[:2]) * 1.25
    visible = max(size[0], size[1] * 288 / 384)  # image pixels that 288 input pixels cover
    middle = (box[:2] + box[2:]) / 2
    np.testing.assert_allclose(in_image[7], middle)
    np.testing.assert_allclose(in_image[8], middle + np.array([72.5 - 144, 200 - 192]) * visible / 288)


def test_people_and_keypoints_have_the_right_positions(folder):
    """To a third of a pixel; each network gets its own order of the color channels."""
    detector = load_detector(folder)
    assert isinstance(detector, DWPoseDetector) and detector.name.startswith("DWPose")
    people = detector.find_people(draw_spots(ONE, OTHER))
    boxes = sorted((person.box for person in people), key=lambda box: box[0])
    assert len(boxes) == 2 and all(0.3 < person.score <= 1 for person in people)
    for box, (position, *_) in zip(boxes, (ONE, OTHER), strict=True):
        np.testing.assert_allclose((box[:2] + box[2:]) / 2, position, atol=8 / 1.6)  # a cell of 8 pixels of 640 for 400
        np.testing.assert_allclose(box[2:] - box[:2], np.array(BOX) / 1.6, rtol=1e-4)
    detector.person = 2
    chosen_index, note = detector.choose_person([person.box for person in people])
    assert people[chosen_index].box is boxes[1] and note is None
    points, scores = detector._network.predict_keypoints(draw_spots(ONE), boxes[0])
    for kind, position in enumerate(ONE):
        np.testing.assert_allclose(points[kind::3], np.tile(position, (len(points[kind::3]), 1)), atol=0.34)
    assert (scores >= 0).all() and (scores <= 1).all()
    assert not detector.find_people(draw_spots())


def test_the_first_figure_is_tracked_as_smpl_joints(folder):
    """The first person is tracked, even if another one has a higher score later."""
    two_people = draw_spots(OTHER) + draw_spots(ONE) // 5 * 4
    frames = np.stack([draw_spots(ONE), draw_spots(), two_people, two_people])
    detector = pickle.loads(pickle.dumps(load_detector(folder / FILES[0])))
    poses = detector.detect(frames)
    assert isinstance(poses, Poses) and poses.mask.shape == frames.shape[:3]
    assert np.isnan(poses.joints[1]).all() and not poses.confidence[1].any() and not poses.mask[1].any()
    np.testing.assert_allclose(poses.joints[2], poses.joints[0], atol=0.5)
    np.testing.assert_allclose(poses.joints[3], poses.joints[0], atol=0.5)
    red, green, blue = map(np.array, ONE)
    expected = {"left_knee": green, "right_knee": blue, "left_ankle": red, "right_ankle": green, "left_elbow": green,
             "right_elbow": blue, "left_wrist": red, "right_wrist": green, "left_shoulder": blue, "right_shoulder": red,
             "left_foot": (red + blue) / 2, "right_foot": (red + blue) / 2, "left_hand": green,
             "right_hand": green}  # fmt: skip
    for name, position in expected.items():
        np.testing.assert_allclose(poses.joints[0, JOINTS.index(name)], position, atol=0.34, err_msg=name)


def test_the_dancer_of_a_video_is_cropped(folder, tmp_path, monkeypatch):
    """With crop=dancer the crop contains the spots and not the distant surroundings."""
    monkeypatch.setenv("DANCEZOO_CACHE", str(tmp_path / "cache"))
    with VideoWriter(tmp_path / "a.mp4", Fraction(10)) as video:
        video.write(np.repeat(draw_spots(ONE)[None], 6, 0))
    source = Videos(str(tmp_path), allow_silent=True, pose_detector=str(folder))
    (clip,) = source.eval_clips("test", EvalSpec(4, 10, 96, 96, crop="dancer"), Spectral())
    rows, columns = np.nonzero(clip.frames[0].max(-1) > 100)
    assert rows.min() > 4 and columns.min() > 4 and rows.max() < 91 and columns.max() < 91
    assert np.ptp(rows) > 50, "300 pixels in 96 would leave 36 of them between the spots"


class PerfectDetector(PoseDetector):
    """A detector without errors, with DWPose's masks."""

    def __init__(self, joints: np.ndarray):
        self.joints, self.name = joints, "known"

    def detect(self, frames):
        mask = draw_mask(self.joints, *frames.shape[1:3])
        return Poses(self.joints[None], np.ones((1, 24), np.float32), mask[None])


def test_a_mask_drawn_from_joints_covers_the_body():
    """Compared with rendered people, before and after refinement by the image's colors."""
    root, rng = np.tile(np.array([0, 0, 0.976], np.float32), (2, 1)), np.random.default_rng(5)
    wall = cv2.GaussianBlur((rng.random((384, 384, 3)) * 255).astype(np.float32), (0, 0), 8)
    wall = ((wall - wall.min()) / np.ptp(wall) * 160 + 60).astype(np.uint8)
    view = camera("C01", 0.3), 384, 384, wall
    clip = render_motion(random_appearance(rng, human=True), dance(2), root, *view, maps=("rgb", "parts"))
    for index in range(2):
        body, joints = clip["parts"][index] > 0, clip["joints2d"][index]
        mask = draw_mask(joints, 384, 384) > 0.5
        assert (mask & body).sum() / (mask | body).sum() > 0.7
        alpha = extract_figure(clip["rgb"][index], PerfectDetector(joints)).alpha > 0.5
        assert (alpha & body).sum() / (alpha | body).sum() > 0.9


def test_wrong_files_are_refused_in_one_line(folder, tmp_path):
    only, damaged, swapped = (tmp_path / name for name in ("only", "broken", "swapped"))
    for position in (only, damaged, swapped):
        position.mkdir()
    (only / FILES[1]).write_bytes((folder / FILES[1]).read_bytes())
    for name, swapped_name in (FILES, FILES[::-1]):
        (damaged / name).write_bytes(b"onnx" * 64)
        (swapped / name).write_bytes((folder / swapped_name).read_bytes())
    for path, words in (
        (only, "has no yolox_l.onnx"), (only / FILES[1], "has no yolox_l.onnx"), (damaged, "is damaged"),
        (tmp_path / "none.onnx", "does not exist"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words) as error_info:
            load_detector(path)
        assert "\n" not in str(error_info.value)
    with pytest.raises(ValueError, match=r"yolox_l\.onnx holds another network") as error_info:
        load_detector(swapped).find_people(draw_spots(ONE))
    assert "\n" not in str(error_info.value)


def test_weights_in_another_file_are_refused(folder, tmp_path):
    """An .onnx file decides which files are opened, where its tensors lie outside of it."""
    content = (folder / FILES[0]).read_bytes()
    for file in FILES:
        (tmp_path / file).write_bytes((folder / file).read_bytes())
        check_no_external_data(tmp_path / file)
    location = _field(13, _field(1, "location") + _field(2, "/etc/passwd"))
    for tensor in (_field(14, 1), location):
        for graph in (_field(5, tensor), _field(1, _field(5, _field(5, tensor))), _field(15, _field(1, tensor))):
            (tmp_path / FILES[0]).write_bytes(content + _field(7, graph))
            with pytest.raises(ValueError, match="another file"):
                load_detector(tmp_path)
    for cut in range(0, len(content), len(content) // 40):
        (tmp_path / FILES[0]).write_bytes(content[:cut])
        check_no_external_data(tmp_path / FILES[0])  # damage is left to the reader
