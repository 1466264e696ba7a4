"""BlazePose: people in an image, and 33 landmarks and a mask of each.

Bazarevsky et al. 2020, "BlazePose: on-device real-time body pose tracking". The networks are the public .tflite files
of mediapipe 0.10. Anchors, thresholds and the region that follows from two points are those of its graphs
pose_detection_cpu, pose_detection_to_roi, pose_landmarks_to_roi and tensors_to_pose_landmarks_and_segmentation.
Positions are pixels, x right, y down; the center of the first pixel is (0.5, 0.5).
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
from scipy.special import expit

if TYPE_CHECKING:
    from ai_edge_litert.interpreter import Interpreter

FILES = ("pose_detection.tflite", "pose_landmark_full.tflite")  # as they are named in mediapipe/modules/**
FACE_FILE = "face_detection_full_range_sparse.tflite"  # optional, of the same wheel
DOWNLOAD_HINT = "`pip download --no-deps mediapipe==0.10.21` gets it"
MIN_SCORE = 0.5  # of a detected person, and of a figure's presence in its region
MIN_OVERLAP = 0.3  # intersection over union above which two boxes are one person
MAX_ASPECT_RATIO = 1.3  # longer over shorter side above which an image is also searched in squares
SAME_PERSON_DISTANCE = 0.35  # largest distance of one person's hips in two detections, in units of its region's `up`
REGION_MARGIN = 1.25  # side of a region, over twice the distance of its two points

# side of the detector's input in pixels; (cells a side, anchors a cell) of strides 8, 16 and three times 32
DETECTOR_SIDE, ANCHOR_GRIDS = 224, ((28, 2), (14, 2), (7, 6))
FACE_SIDE, FACE_ANCHOR_GRIDS = 192, ((48, 1),)
# side of the landmark network's input in pixels; point 33 is the region's center, 34 its size and direction
LANDMARK_SIDE, NUM_POINTS, NUM_BODY_POINTS = 256, 39, 33
HEATMAP_SIDE, HEATMAP_RADIUS = 64, 3  # a point is refined by the heat map's 7 x 7 cells around it


@dataclass(frozen=True)
class Region:
    """A square around a figure, turned with it: `up` (2,) is half its side without the margin, from `center` (2,)."""

    center: np.ndarray
    up: np.ndarray

    def to_image(self, side: int) -> np.ndarray:
        """(2, 3): the affine map of positions in a crop of side x side pixels to positions in the image."""
        x, y = self.up
        axes = np.array([[-y, -x], [x, -y]]) * (2 * REGION_MARGIN / side)  # columns: a step right, a step down
        return np.hstack([axes, (self.center - axes.sum(1) * side / 2)[:, None]])


@dataclass(frozen=True)
class Person:
    """One person in an image."""

    score: float  # in [0, 1]
    face: np.ndarray  # (4,) x0, y0, x1, y1
    region: Region  # of the whole body
    is_only_face: bool = False  # the region is placed below the face, as the body was not detected

    @property
    def box(self) -> np.ndarray:
        """(4,) x0, y0, x1, y1 of the upright square around the body, or around the face if that alone was detected.

        It may extend beyond the image.
        """
        if self.is_only_face:
            return self.face
        half_side = REGION_MARGIN * np.linalg.norm(self.region.up)
        return np.concatenate([self.region.center - half_side, self.region.center + half_side])

    def is_same_person(self, person: "Person") -> bool:
        """Whether two detections, in two squares of one image, are the same person: their hips are close."""
        distance = np.linalg.norm(self.region.center - person.region.center)
        sizes = [np.linalg.norm(detection.region.up) for detection in (self, person)]
        return bool(distance < SAME_PERSON_DISTANCE * max(sizes))


@dataclass(frozen=True)
class Face:
    """A face in an image: its upright box from the brows to the chin, which also a head in profile has."""

    score: float  # in [0, 1]
    center: np.ndarray  # (2,) pixels
    width: float  # pixels

    @property
    def box(self) -> np.ndarray:
        """(4,) x0, y0, x1, y1 of the square around the face."""
        return np.concatenate([self.center - self.width / 2, self.center + self.width / 2])


@dataclass(frozen=True)
class Landmarks:
    """Output of the landmark network for one region of an image."""

    presence: float  # in [0, 1]: probability that the region has a figure
    points: np.ndarray  # (33, 2) pixels of the image, in mediapipe's order
    visibility: np.ndarray  # (33,) in [0, 1]
    mask: np.ndarray  # (256, 256) in [0, 1], of the region
    next_region: Region  # to be searched in the next frame


def read_networks(path: str | Path) -> tuple[bytes, bytes, bytes | None]:
    """Read FILES and FACE_FILE from a mediapipe 0.10 wheel or from a folder that has them, at any depth.

    Raises ValueError in one line if one of FILES is missing or one is damaged; FACE_FILE may be missing.
    """
    path = Path(path)
    if path.is_dir():
        members = {file.name: file for file in sorted(path.rglob("*.tflite"))}
        read = Path.read_bytes
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        members = {name.rpartition("/")[2]: name for name in archive.namelist()}
        read = archive.read
    else:
        reason = "is neither a mediapipe wheel nor a folder" if path.exists() else "does not exist"
        raise ValueError(f"pose detector {path} {reason}; {DOWNLOAD_HINT}")
    missing = [name for name in FILES if name not in members]
    if missing:
        raise ValueError(f"pose detector {path} has no {' and no '.join(missing)}; {DOWNLOAD_HINT}")
    try:
        detector, landmarker = (read(members[name]) for name in FILES)
        face_detector = read(members[FACE_FILE]) if FACE_FILE in members else None
    except (OSError, zipfile.BadZipFile):
        raise ValueError(f"pose detector {path} is damaged; {DOWNLOAD_HINT}") from None
    return detector, landmarker, face_detector


class BlazePose:
    """The two networks of `read_networks`. One thread each, so that results are reproducible bit for bit."""

    def __init__(self, path: str | Path):
        from ai_edge_litert.interpreter import Interpreter

        *network_bytes, face_bytes = read_networks(path)
        self.hash = hashlib.sha256(b"".join(network_bytes)).hexdigest()[:12]
        self._anchors = _anchors(ANCHOR_GRIDS)
        self._face_anchors = _anchors(FACE_ANCHOR_GRIDS)
        expected_shapes = [
            ((len(self._anchors), 12), (len(self._anchors), 1)),
            ((5 * NUM_POINTS,), (1,), (LANDMARK_SIDE,) * 2 + (1,), (HEATMAP_SIDE,) * 2 + (NUM_POINTS,)),
        ]
        if face_bytes is not None:
            network_bytes.append(face_bytes)
            expected_shapes.append(((len(self._face_anchors), 16), (len(self._face_anchors), 1)))
        networks = []
        try:
            with suppress_stderr():
                for model_bytes, network_shapes in zip(network_bytes, expected_shapes, strict=True):
                    network = Interpreter(model_content=model_bytes, num_threads=1)
                    network.allocate_tensors()
                    shapes = tuple(tuple(output["shape"][1:]) for output in network.get_output_details())
                    if shapes[: len(network_shapes)] != network_shapes:
                        raise ValueError
                    networks.append(network)
        except (ValueError, RuntimeError):
            raise ValueError(
                f"pose detector {path}: its .tflite files are damaged or of other networks; {DOWNLOAD_HINT}"
            ) from None
        self._detector, self._landmarker = networks[:2]
        self._face_detector = networks[2] if face_bytes is not None else None

    def detect_people(self, image: np.ndarray) -> list[Person]:
        """The people in an image (H, W, 3) uint8, highest score first.

        The network's input has 224 pixels a side. So that smaller figures are detected, a long image is searched again
        square by square, and one without detections in nine overlapping squares.
        """
        size = np.array(image.shape[1::-1], float)
        people = self._detect_in_square(image, size / 2, size.max())
        squares = []
        if size.max() > MAX_ASPECT_RATIO * size.min():
            squares = _squares(size, size.min())
        elif not people:
            squares = _squares(size, size.max() / 2)
        for center, side in squares:
            people += [
                person
                for person in self._detect_in_square(image, center, side)
                if not any(person.is_same_person(previous) for previous in people)
            ]
        return sorted(people, key=lambda person: -person.score)

    def detect_faces(self, image: np.ndarray) -> list[Face]:
        """The faces in an image (H, W, 3) uint8, highest score first; none without FACE_FILE.

        BlazeFace's network for the full range also detects the faces of people of whom others hide a part.
        """
        if self._face_detector is None:
            return []
        size = np.array(image.shape[1::-1], float)
        to_image = _square(size / 2, size.max()).to_image(FACE_SIDE)
        boxes = _detect(self._face_detector, self._face_anchors, image, to_image, FACE_SIDE)
        return [Face(score, box[:2].mean(0), float(box[1, 0] - box[0, 0])) for score, box in boxes]

    def _detect_in_square(self, image: np.ndarray, center: np.ndarray, side: float) -> list[Person]:
        """The people in a square of an image."""
        to_image = _square(center, side).to_image(DETECTOR_SIDE)
        people = []
        # two corners of the face, then the hips, a point on the circle around the body, two more
        for score, (top_left, bottom_right, hips, circle_point, *_) in _detect(
            self._detector, self._anchors, image, to_image, DETECTOR_SIDE
        ):
            if np.any(circle_point != hips):
                people.append(
                    Person(score, np.concatenate([top_left, bottom_right]), Region(hips, circle_point - hips))
                )
        return people

    def predict_landmarks(self, image: np.ndarray, region: Region) -> Landmarks:
        """The landmarks of the figure in a region of an image (H, W, 3) uint8."""
        to_image = region.to_image(LANDMARK_SIDE)
        crop = _crop(image, to_image, LANDMARK_SIDE, cv2.BORDER_REPLICATE)
        values, presence, mask, heatmaps = _run(self._landmarker, crop / 255)[:4]
        values = values.reshape(NUM_POINTS, 5)  # x, y, depth in the crop's pixels; logits of visibility and presence
        points = _transform(_refine(values[:, :2] / LANDMARK_SIDE, heatmaps) * LANDMARK_SIDE, to_image)
        center, circle_point = points[NUM_BODY_POINTS : NUM_BODY_POINTS + 2]
        return Landmarks(
            presence=float(presence[0]),  # the network applies the sigmoid itself
            points=points[:NUM_BODY_POINTS],
            visibility=expit(values[:NUM_BODY_POINTS, 3]),
            mask=expit(mask[..., 0]),
            next_region=Region(center, circle_point - center),
        )

    @staticmethod
    def paste_mask(mask: np.ndarray, region: Region, height: int, width: int) -> np.ndarray:
        """Resize and rotate a region's mask into the image: (height, width) float32, 0 outside the region."""
        matrix = _to_opencv(region.to_image(LANDMARK_SIDE))
        return cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_LINEAR)


@contextmanager
def suppress_stderr() -> Iterator[None]:
    """Suppress output that a library writes to stderr past Python, such as the interpreter's greeting."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as null_file:
        os.dup2(null_file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


def _squares(size: np.ndarray, side: float) -> list[tuple[np.ndarray, float]]:
    """Centres and sides of squares that cover an image (width, height), each overlapping the next one by half."""
    square_starts = [
        np.linspace(0, max(0, length - side), max(1, round(2 * (length - side) / side) + 1)) for length in size
    ]
    return [(np.array([x, y]) + np.minimum(side, size) / 2, side) for y in square_starts[1] for x in square_starts[0]]


def _square(center: np.ndarray, side: float) -> Region:
    """The upright region of a square."""
    return Region(center, np.array([0, -side / 2 / REGION_MARGIN]))


def _anchors(grids: Sequence[tuple[int, int]]) -> np.ndarray:
    """(N, 2): centers of the cells of square grids in [0, 1], row by row. grids: (cells a side, anchors a cell)"""
    anchors = []
    for num_cells, anchors_per_cell in grids:
        cell_centers = (np.arange(num_cells) + 0.5) / num_cells
        y, x = np.meshgrid(cell_centers, cell_centers, indexing="ij")
        anchors.append(np.stack([x, y], -1).reshape(-1, 2).repeat(anchors_per_cell, 0))
    return np.concatenate(anchors)


def _detect(
    network: "Interpreter", anchors: np.ndarray, image: np.ndarray, to_image: np.ndarray, side: int
) -> list[tuple[float, np.ndarray]]:
    """Boxes of a single-shot detector with an input of side x side pixels, in a square of an image.

    anchors (N, 2) -> (score, (P, 2) two corners and further points in the image), highest score first
    """
    crop = _crop(image, to_image, side, cv2.BORDER_CONSTANT)
    points, logits = _run(network, crop / 127.5 - 1)[:2]
    scores = expit(logits[:, 0].clip(-100, 100))
    selected = np.flatnonzero(scores >= MIN_SCORE)
    points = points[selected].reshape(len(selected), points.shape[1] // 2, 2) / side  # center, size, then points
    centers, halves = points[:, :1] + anchors[selected, None], points[:, 1:2] / 2
    points = np.concatenate([centers - halves, centers + halves, points[:, 2:] + anchors[selected, None]], 1)
    return [(float(score), _transform(box * side, to_image)) for score, box in _merge(points, scores[selected])]


def _transform(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Apply an affine map (2, 3) to points (N, 2)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def _to_opencv(matrix: np.ndarray) -> np.ndarray:
    """An affine map of positions in OpenCV's coordinates, with the first pixel's center at (0, 0)."""
    return np.hstack([matrix[:, :2], (matrix[:, 2] + matrix[:, :2].sum(1) / 2 - 0.5)[:, None]])


def _crop(image: np.ndarray, to_image: np.ndarray, side: int, border_mode: int) -> np.ndarray:
    """The square of an image that an affine map covers. (side, side, 3) float32 in [0, 255]"""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, _to_opencv(to_image), (side, side), flags=flags, borderMode=border_mode)
    return crop.astype(np.float32)


def _run(network: "Interpreter", image: np.ndarray) -> list[np.ndarray]:
    """A network's outputs for one image, without the batch dimension."""
    network.set_tensor(network.get_input_details()[0]["index"], image[None])
    network.invoke()
    return [network.get_tensor(output["index"])[0] for output in network.get_output_details()]


def _merge(boxes: np.ndarray, scores: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Weighted non-maximum suppression: overlapping boxes become their mean, weighted by score.

    boxes (N, P, 2): two corners, then further points; scores (N,) -> (score, (P, 2)), highest score first.
    """
    merged = []
    remaining = np.argsort(-scores, kind="stable")
    while remaining.size:
        best_box = boxes[remaining[0]]
        top_left, bottom_right = (
            np.maximum(boxes[remaining, 0], best_box[0]),
            np.minimum(boxes[remaining, 1], best_box[1]),
        )
        intersection = (bottom_right - top_left).clip(0).prod(-1)
        areas = (boxes[remaining, 1] - boxes[remaining, 0]).prod(-1)
        is_overlapping = intersection > MIN_OVERLAP * (areas + areas[0] - intersection)
        is_overlapping[0] = True
        group = remaining[is_overlapping]
        merged.append((scores[remaining[0]], np.average(boxes[group], axis=0, weights=scores[group])))
        remaining = remaining[~is_overlapping]
    return merged


def _refine(points: np.ndarray, heatmaps: np.ndarray) -> np.ndarray:
    """Move points (39, 2) in [0, 1] to the local mean of their heat maps (64, 64, 39), where these have a peak."""
    refined = points.copy()
    for index, (x, y) in enumerate((points * HEATMAP_SIDE).astype(int)):
        if not (0 <= x < HEATMAP_SIDE and 0 <= y < HEATMAP_SIDE):
            continue
        left, top = max(0, x - HEATMAP_RADIUS), max(0, y - HEATMAP_RADIUS)
        patch = expit(heatmaps[top : y + HEATMAP_RADIUS + 1, left : x + HEATMAP_RADIUS + 1, index])
        if patch.max() >= MIN_SCORE:
            columns, rows = left + np.arange(patch.shape[1]), top + np.arange(patch.shape[0])
            normalizer = patch.sum() * HEATMAP_SIDE
            refined[index] = (patch.sum(0) @ columns) / normalizer, (patch.sum(1) @ rows) / normalizer
    return refined
