"""DWPose: people in an image, 133 keypoints of each, and SMPL's joints from these.

Yang et al. 2023, "Effective whole-body pose estimation with two-stages distillation": YOLOX-L (Ge et al. 2021) detects
people, an RTMPose-L (Jiang et al. 2023), distilled from a larger one, predicts their keypoints. The networks are the
public .onnx files, run by OpenCV. Constants are those of the public code of YOLOX, MMPose and DWPose, and so is the
order of the colour channels: BGR for YOLOX, RGB for RTMPose. Positions are pixels, x right, y down; the center of the
first pixel is (0.5, 0.5).
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from zoo.body.detection.base import PersonDetector, Poses, joint_weights, weighted_joints
from zoo.body.detection.blazepose import suppress_stderr
from zoo.body.detection.onnx_check import check_no_external_data
from zoo.body.image_skeleton import JOINT_INDEX, LIMB_EXTENSION, LIMBS, TORSO_CORNERS, stature_from_joints
from zoo.files import file_hash

FILES = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")  # as DWPose's page names them
DOWNLOAD_HINT = "DWPose's page has both files"
MIN_SCORE = 0.3  # smallest score of a detected person
MAX_OVERLAP = 0.45  # intersection over union above which two boxes are one person
YOLOX_SIDE, YOLOX_STRIDES = 640, (8, 16, 32)  # pixels of its input and of its cells
YOLOX_CHANNELS = 85  # box 4, objectness 1, COCO's classes 80
PADDING_GREY = 114  # fills a square around images that are not square
RTMPOSE_SIZE = np.array([288, 384])  # pixels of its input, width and height
BOX_SCALE = 1.25  # side of RTMPose's crop over the person's box
RGB_MEAN, RGB_STD = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])  # of 255
NUM_POINTS = 133  # COCO-WholeBody: body 17, feet 6, face 68, hands 21 each
BINS_PER_PIXEL = 2  # SimCC: one classification along x and one along y
# SMPL's joints without their side -> keypoints, left and right. Toes are the mean of the big and the small one, hands
# the knuckles of the middle fingers.
POINTS_OF_JOINT = {
    "knee": ((13,), (14,)), "ankle": ((15,), (16,)), "foot": ((17, 18), (20, 21)),
    "shoulder": ((5,), (6,)), "elbow": ((7,), (8,)), "wrist": ((9,), (10,)), "hand": ((100,), (121,)),
}  # fmt: skip
TO_JOINTS = joint_weights(NUM_POINTS, POINTS_OF_JOINT, shoulders=(5, 6), hips=(11, 12), ears=(3, 4))
TRUNK_MARGIN = 0.035  # of the stature: distance of the trunk's outline from its joints
EDGE_SOFTNESS = 0.03  # of the stature: standard deviation of the blur of a drawn mask's edge


@dataclass(frozen=True)
class DetectedPerson:
    """One person in an image."""

    score: float  # in [0, 1]
    box: np.ndarray  # (4,) x0, y0, x1, y1


def find_networks(path: str | Path) -> list[Path] | None:
    """FILES in a folder, at any depth, or in the folder of the one that `path` names; None if there is no .onnx file.

    Raises ValueError in one line if only one of the two is there.
    """
    path = Path(path)
    files = path.parent.glob("*.onnx") if path.suffix == ".onnx" else path.rglob("*.onnx")
    by_name = {file.name: file for file in sorted(files)}
    if not by_name:
        return None
    missing = [name for name in FILES if name not in by_name]
    if missing:
        raise ValueError(f"pose detector {path} has no {' and no '.join(missing)}; {DOWNLOAD_HINT}")
    return [by_name[name] for name in FILES]


class DWPose:
    """The two networks of `find_networks`."""

    def __init__(self, files: list[Path]):
        """Raises ValueError in one line for a file that OpenCV cannot read."""
        networks = []
        for file in files:
            check_no_external_data(file)
            try:
                with suppress_stderr():
                    networks.append(cv2.dnn.readNetFromONNX(str(file)))
            except cv2.error:
                raise ValueError(f"pose detector {file} is damaged or no network; {DOWNLOAD_HINT}") from None
        self.files, self.hash = files, file_hash(*files)
        self._detector, self._pose = networks

    def detect_people(self, image: np.ndarray) -> list[DetectedPerson]:
        """The people in an image (H, W, 3) uint8, highest score first."""
        scale = min(YOLOX_SIDE / image.shape[0], YOLOX_SIDE / image.shape[1])
        resized_width, resized_height = int(image.shape[1] * scale), int(image.shape[0] * scale)
        padded_image = np.full((YOLOX_SIDE, YOLOX_SIDE, 3), PADDING_GREY, np.uint8)
        padded_image[:resized_height, :resized_width] = cv2.resize(
            image, (resized_width, resized_height), interpolation=cv2.INTER_LINEAR
        )
        num_cells = sum((YOLOX_SIDE // stride) ** 2 for stride in YOLOX_STRIDES)
        (output,) = self._run(0, padded_image[..., ::-1], [(num_cells, YOLOX_CHANNELS)])
        boxes, scores = decode_boxes(output)
        boxes_xywh = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]) / scale  # corner and size, for OpenCV
        selected_indices = cv2.dnn.NMSBoxes(boxes_xywh.tolist(), scores.tolist(), MIN_SCORE, MAX_OVERLAP)
        return [DetectedPerson(float(scores[index]), boxes[index] / scale) for index in selected_indices]

    def predict_keypoints(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Keypoints (133, 2) of the person in a box of an image (H, W, 3) uint8, and their scores (133,)."""
        to_input = input_map(box)
        crop = cv2.warpAffine(image, to_input, RTMPOSE_SIZE.tolist(), flags=cv2.INTER_LINEAR)
        shapes = [(NUM_POINTS, BINS_PER_PIXEL * side) for side in RTMPOSE_SIZE.tolist()]
        points, scores = decode_points(*self._run(1, (crop - RGB_MEAN) / RGB_STD, shapes))
        return cv2.transform(points[None], cv2.invertAffineTransform(to_input))[0] + 0.5, scores

    def _run(self, network_index: int, image: np.ndarray, shapes: list[tuple[int, int]]) -> list[np.ndarray]:
        """Outputs of a network for an image (H, W, 3), in the order of their `shapes`; their names do not matter."""
        network = (self._detector, self._pose)[network_index]
        network.setInput(np.ascontiguousarray(image.transpose(2, 0, 1)[None], np.float32))
        try:
            with suppress_stderr():
                names = network.getUnconnectedOutLayersNames()
                output_of_shape = {output.shape[1:]: output[0] for output in network.forward(names)}
            return [output_of_shape[shape] for shape in shapes]
        except (cv2.error, KeyError):
            file = self.files[network_index]
            raise ValueError(f"pose detector {file} holds another network than DWPose's; {DOWNLOAD_HINT}") from None


class DWPoseDetector(PersonDetector):
    """DWPose, from the two files of `find_networks`. Masks are drawn from the joints: see `draw_mask`."""

    def __init__(self, files: list[Path]):
        self._network = DWPose(files)
        self.name = f"DWPose, files {self._network.hash}"

    def __reduce__(self) -> tuple:
        return type(self), (self._network.files,)  # for other processes: the networks cannot be pickled

    def find_people(self, image: np.ndarray) -> list[DetectedPerson]:
        """The people in an image (H, W, 3) uint8, highest score first."""
        return self._network.detect_people(image)

    def detect_figure(self, image: np.ndarray) -> tuple[Poses, str | None]:
        """See `PoseDetector`; of person number `person`, or of the largest one."""
        people = self.find_people(image)
        if not people and self.person is None:
            return self.detect(image[None]), None
        index, note = self.choose_person([person.box for person in people])
        points, scores = self._network.predict_keypoints(image, people[index].box)
        joints, confidence = weighted_joints(TO_JOINTS, points, scores)
        joints, confidence = np.float32(joints), np.float32(confidence)
        return Poses(joints[None], confidence[None], draw_mask(joints, *image.shape[:2])[None]), note

    def detect(self, frames: np.ndarray) -> Poses:
        """The largest person of the first frame that has one, then in each frame the one that overlaps it most.

        frames: (F, H, W, 3) uint8. People are detected anew in every frame, as DWPose does.
        """
        num_frames, height, width, _ = frames.shape
        joints = np.full((num_frames, len(JOINT_INDEX), 2), np.nan, np.float32)
        confidence = np.zeros((num_frames, len(JOINT_INDEX)), np.float32)
        mask = np.zeros((num_frames, height, width), np.float32)
        box = None
        for index, frame in enumerate(frames):
            people = self.find_people(frame)
            if people:
                previous_box = box
                box = max(
                    (person.box for person in people),
                    key=lambda box: _intersection(box, box if previous_box is None else previous_box),
                )
                points, scores = self._network.predict_keypoints(frame, box)
                joints[index], confidence[index] = weighted_joints(TO_JOINTS, points, scores)
                mask[index] = draw_mask(joints[index], height, width)
        return Poses(joints, confidence, mask)


def _intersection(a: np.ndarray, b: np.ndarray) -> float:
    """Area of the intersection of two boxes, in pixels."""
    return float((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod())


def draw_mask(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """A figure's mask (H, W) in [0, 1], from its joints (24, 2) alone: limbs of the usual thickness."""
    stature = stature_from_joints(joints)
    mask = np.zeros((height, width), np.float32)

    def to_fixed_point(point: np.ndarray) -> list[int]:
        """OpenCV's drawing coordinates: from the first pixel's center, in sixteenths, clipped to its integers."""
        return np.round((point.clip(-2e4, 2e4) - 0.5) * 16).astype(int).tolist()

    trunk_outline = cv2.convexHull(np.array([to_fixed_point(joints[JOINT_INDEX[name]]) for name in TORSO_CORNERS]))
    cv2.fillConvexPoly(mask, trunk_outline, 1.0, cv2.LINE_8, 4)
    cv2.polylines(mask, [trunk_outline], True, 1.0, max(1, round(2 * TRUNK_MARGIN * stature)), cv2.LINE_8, 4)
    for name, (first, second, thickness, _) in LIMBS.items():
        a, b = joints[JOINT_INDEX[first]], joints[JOINT_INDEX[second]]
        extended_end = a + LIMB_EXTENSION.get(name.split("_")[-1], 1.0) * (b - a)
        line_width = max(1, round(2 * thickness * stature))
        cv2.line(mask, to_fixed_point(a), to_fixed_point(extended_end), 1.0, line_width, cv2.LINE_8, 4)
    return cv2.GaussianBlur(mask, (0, 0), max(0.5, EDGE_SOFTNESS * stature))


def decode_boxes(output: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """YOLOX's output (8400, 85) -> boxes (8400, 4) x0, y0, x1, y1 in its input, and scores of the class person (8400,).

    Cells of each stride, row by row: the box's center from the cell's corner and the logarithm of its size, in strides;
    the objectness; and the probabilities of COCO's 80 classes, person first.
    """
    cell_corners, strides = [], []
    for stride in YOLOX_STRIDES:
        cells = np.arange(YOLOX_SIDE // stride)
        cell_corners.append(np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2))
        strides.append(np.full((len(cells) ** 2, 1), stride))
    cell_corners, strides = np.concatenate(cell_corners), np.concatenate(strides)
    center, half_size = (output[:, :2] + cell_corners) * strides, np.exp(output[:, 2:4]) * strides / 2
    return np.hstack([center - half_size, center + half_size]), output[:, 4] * output[:, 5]


def input_map(box: np.ndarray) -> np.ndarray:
    """(2, 3): the affine map from an image to RTMPose's input of a box (4,).

    The box's center becomes the input's center, and the box, BOX_SCALE times as large, just fits in. Both coordinates
    count from the first pixel's center, as OpenCV's do.
    """
    center, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * BOX_SCALE
    scale = (RTMPOSE_SIZE / np.maximum(size, 1e-6)).min()
    return np.hstack([scale * np.eye(2), (RTMPOSE_SIZE / 2 - scale * center)[:, None]])


def decode_points(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RTMPose's output, SimCC bins (133, 576) along x and (133, 768) along y -> keypoints and their scores.

    Keypoints (133, 2) are pixels of its input, those of the largest bins; a score (133,) in [0, 1] is the smaller of
    its two bins' values.
    """
    points = np.stack([x.argmax(1), y.argmax(1)], 1) / BINS_PER_PIXEL
    return points, np.minimum(x.max(1), y.max(1)).clip(0, 1)
