"""DWPose: where people are in a picture, 133 points of one of them, and SMPL's joints from these.

Yang et al. 2023, "Effective whole-body pose estimation with two-stages distillation": YOLOX-L (Ge et al. 2021) finds
people, an RTMPose-L (Jiang et al. 2023) that learned from a larger one finds their points. The networks are the public
.onnx files, which OpenCV runs; the numbers around them are those of the public code of YOLOX, MMPose and DWPose, with
the colours in the order that each network was trained with: YOLOX's blue first, RTMPose's red first. Positions are
pixels, x right, y down, the centre of the first pixel at (0.5, 0.5).
"""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from zoo.body.detection.blazepose import silenced
from zoo.body.detection.blazepose_detector import FindsPeople, Poses, as_joints, joint_weights
from zoo.body.image.puppet import BEYOND, LIMBS, TORSO, J
from zoo.body.image.segmentation import stature_of
from zoo.files import file_hash

FILES = ("yolox_l.onnx", "dw-ll_ucoco_384.onnx")  # as DWPose's page calls them
HOW_TO_GET = "DWPose's page has both files"
MIN_SCORE = 0.3  # of a found person
MAX_OVERLAP = 0.45  # intersection over union above which two boxes are one person
SIDE, STRIDES = 640, (8, 16, 32)  # pixels YOLOX sees, and of its cells
GREY = 114  # what a picture that is not square is filled up with
INPUT = np.array([288, 384])  # pixels RTMPose sees, width and height
PADDING = 1.25  # side of what it sees, over the box's
MEAN, DEVIATION = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])  # of red, green, blue
POINTS = 133  # COCO-WholeBody: body 17, feet 6, face 68, hands 21 each
SPLIT = 2  # bins of SimCC a pixel
# toes are the big and the small one's mean, hands the knuckles of the middle fingers; hips and ears as BlazePose's
SIDES = {
    "knee": ((13,), (14,)), "ankle": ((15,), (16,)), "foot": ((17, 18), (20, 21)),
    "shoulder": ((5,), (6,)), "elbow": ((7,), (8,)), "wrist": ((9,), (10,)), "hand": ((100,), (121,)),
}  # fmt: skip
TO_JOINTS = joint_weights(POINTS, SIDES, shoulders=(5, 6), hips=(11, 12), ears=(3, 4))
TRUNK = 0.035  # of the stature: so far the trunk reaches beyond its joints
SOFT = 0.03  # of the stature: how softly a drawn figure ends


@dataclass(frozen=True)
class Found:
    """One person found in a picture."""

    score: float  # in [0, 1]
    box: np.ndarray  # (4,) x0, y0, x1, y1


def networks_at(path: str | Path) -> list[Path] | None:
    """`FILES` in a folder, at any depth, or beside the one of them that is named; None where no .onnx is.

    Raises ValueError in one line when there is one of them only.
    """
    path = Path(path)
    files = path.parent.glob("*.onnx") if path.suffix == ".onnx" else path.rglob("*.onnx")
    found = {each.name: each for each in sorted(files)}
    if not found:
        return None
    missing = [name for name in FILES if name not in found]
    if missing:
        raise ValueError(f"weights.people={path} has no {' and no '.join(missing)}; {HOW_TO_GET}")
    return [found[name] for name in FILES]


class DWPose:
    """The two networks of `networks_at`."""

    def __init__(self, files: list[Path]):
        """Raises ValueError in one line for a file that OpenCV cannot read."""
        networks = []
        for file in files:
            try:
                with silenced():
                    networks.append(cv2.dnn.readNetFromONNX(str(file)))
            except cv2.error:
                raise ValueError(f"weights.people: {file} is damaged or no network; {HOW_TO_GET}") from None
        self.files, self.hash = files, file_hash(*files)
        self._detector, self._pose = networks

    def find(self, image: np.ndarray) -> list[Found]:
        """The people in an image (H, W, 3) uint8, surest first."""
        scale = min(SIDE / image.shape[0], SIDE / image.shape[1])
        width, height = int(image.shape[1] * scale), int(image.shape[0] * scale)
        square = np.full((SIDE, SIDE, 3), GREY, np.uint8)
        square[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        (answer,) = self._run(0, square[..., ::-1], [(sum((SIDE // stride) ** 2 for stride in STRIDES), 85)])
        boxes, scores = decode_boxes(answer)
        corners = np.hstack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]]) / scale  # corner and size, for OpenCV
        kept = cv2.dnn.NMSBoxes(corners.tolist(), scores.tolist(), MIN_SCORE, MAX_OVERLAP)
        return [Found(float(scores[each]), boxes[each] / scale) for each in kept]

    def look(self, image: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points (133, 2) of the person in a box of an image (H, W, 3) uint8, and how surely they are there, (133,)."""
        to_input = input_map(box)
        crop = cv2.warpAffine(image, to_input, INPUT.tolist(), flags=cv2.INTER_LINEAR)
        shapes = [(POINTS, SPLIT * side) for side in INPUT.tolist()]
        points, sure = decode_points(*self._run(1, (crop - MEAN) / DEVIATION, shapes))
        return cv2.transform(points[None], cv2.invertAffineTransform(to_input))[0] + 0.5, sure

    def _run(self, which: int, picture: np.ndarray, shapes: list[tuple[int, int]]) -> list[np.ndarray]:
        """A network's answers to a picture (H, W, 3), in the order of their `shapes`, whatever they are called."""
        network = (self._detector, self._pose)[which]
        network.setInput(np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32))
        try:
            with silenced():
                answers = {each.shape[1:]: each[0] for each in network.forward(network.getUnconnectedOutLayersNames())}
            return [answers[shape] for shape in shapes]
        except (cv2.error, KeyError):
            file = self.files[which]
            raise ValueError(f"weights.people: {file} holds another network than DWPose's; {HOW_TO_GET}") from None


class WholeBodyDetector(FindsPeople):
    """DWPose, from the two files of `networks_at`. Its figures' masks are drawn by their joints: see `outline`."""

    def __init__(self, files: list[Path]):
        self._network = DWPose(files)
        self.name = f"DWPose, files {self._network.hash}"

    def __reduce__(self):
        return type(self), (self._network.files,)  # for other processes; the networks cannot travel

    def find_people(self, image: np.ndarray) -> list[Found]:
        """See FindsPeople."""
        return self._network.find(image)

    def detect(self, frames: np.ndarray) -> Poses:
        """The largest person of the first frame that has one, and in later ones whoever is most where it was before.

        frames: (F, H, W, 3) uint8. People are looked for in every frame anew, as DWPose does.
        """
        count, height, width, _ = frames.shape
        joints = np.full((count, len(J), 2), np.nan, np.float32)
        confidence = np.zeros((count, len(J)), np.float32)
        mask = np.zeros((count, height, width), np.float32)
        before = None
        for index, frame in enumerate(frames):
            people = self.find_people(frame)
            if people:
                last = before
                before = max((one.box for one in people), key=lambda box: _shared(box, box if last is None else last))
                joints[index], confidence[index] = as_joints(TO_JOINTS, *self._network.look(frame, before))
                mask[index] = outline(joints[index], height, width)
        return Poses(joints, confidence, mask)


def _shared(a: np.ndarray, b: np.ndarray) -> float:
    """Pixels that two boxes share."""
    return float((np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])).clip(0).prod())


def outline(joints: np.ndarray, height: int, width: int) -> np.ndarray:
    """How surely pixels are a figure's, by its joints (24, 2) alone: limbs of usual thickness, (H, W) in [0, 1]."""
    tall = stature_of(joints)
    drawn = np.zeros((height, width), np.float32)

    def spot(point: np.ndarray) -> list[int]:
        """As OpenCV draws: from the first pixel's centre, in sixteenths, no farther than its numbers reach."""
        return np.round((point.clip(-2e4, 2e4) - 0.5) * 16).astype(int).tolist()

    trunk = cv2.convexHull(np.array([spot(joints[J[name]]) for name in TORSO]))
    cv2.fillConvexPoly(drawn, trunk, 1.0, cv2.LINE_8, 4)
    cv2.polylines(drawn, [trunk], True, 1.0, max(1, round(2 * TRUNK * tall)), cv2.LINE_8, 4)
    for name, (first, second, thick, _) in LIMBS.items():
        a, b = joints[J[first]], joints[J[second]]
        end = a + BEYOND.get(name.split("_")[-1], 1.0) * (b - a)
        cv2.line(drawn, spot(a), spot(end), 1.0, max(1, round(2 * thick * tall)), cv2.LINE_8, 4)
    return cv2.GaussianBlur(drawn, (0, 0), max(0.5, SOFT * tall))


def decode_boxes(answer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """YOLOX's answer (8400, 85) -> boxes (8400, 4) x0, y0, x1, y1 in its picture, and people's scores (8400,).

    Row by row of the cells of each stride: the box's centre from the cell's corner and the logarithm of its size, in
    strides; how surely something is there; and how surely it is each of COCO's 80 kinds, people first.
    """
    corners, strides = [], []
    for stride in STRIDES:
        cells = np.arange(SIDE // stride)
        corners.append(np.stack(np.meshgrid(cells, cells), -1).reshape(-1, 2))
        strides.append(np.full((len(cells) ** 2, 1), stride))
    corners, strides = np.concatenate(corners), np.concatenate(strides)
    middle, half = (answer[:, :2] + corners) * strides, np.exp(answer[:, 2:4]) * strides / 2
    return np.hstack([middle - half, middle + half]), answer[:, 4] * answer[:, 5]


def input_map(box: np.ndarray) -> np.ndarray:
    """(2, 3): the affine map from a picture to what RTMPose sees of a box (4,), both counted from the first pixel's
    centre, as OpenCV does: the box's middle in the middle, the box PADDING times as large and no side cut off.
    """
    middle, size = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * PADDING
    scale = (INPUT / np.maximum(size, 1e-6)).min()
    return np.hstack([scale * np.eye(2), (INPUT / 2 - scale * middle)[:, None]])


def decode_points(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """RTMPose's answers, bins (133, 576) along x and (133, 768) along y -> points (133, 2) in what it saw, and how
    surely each is there (133,), in [0, 1]: the fullest bins, and how full the less full of the two is.
    """
    points = np.stack([x.argmax(1), y.argmax(1)], 1) / SPLIT
    return points, np.minimum(x.max(1), y.max(1)).clip(0, 1)
