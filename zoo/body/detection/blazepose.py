"""BlazePose's two networks: where people are in a picture, and 33 points and a mask of one of them.

Bazarevsky et al. 2020, "BlazePose: on-device real-time body pose tracking". The networks are the public .tflite files
of mediapipe 0.10; the numbers around them (anchors, thresholds, how a region follows from two points) are those of its
graphs pose_detection_cpu, pose_detection_to_roi, pose_landmarks_to_roi and tensors_to_pose_landmarks_and_segmentation.
Positions are pixels, x right, y down, the centre of the first pixel at (0.5, 0.5).
"""

import hashlib
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy.special import expit

FILES = ("pose_detection.tflite", "pose_landmark_full.tflite")  # as they are called in mediapipe/modules/**
HOW_TO_GET = "`pip download --no-deps mediapipe==0.10.21` gets it"
MIN_SCORE = 0.5  # of a found person, and of a figure's presence in its region
MIN_OVERLAP = 0.3  # intersection over union above which two boxes are one person
LONG = 1.3  # a picture's proportions from which it is looked at in squares too
SAME = 0.35  # distance of one person's hips in two looks, in that of hips and outline
MARGIN = 1.25  # side of a region, over twice the distance of its two points

DETECTOR_SIDE, CELLS = 224, ((28, 2), (14, 2), (7, 6))  # cells a side, anchors a cell: strides 8, 16 and 3 times 32
LANDMARK_SIDE, POINTS, BODY_POINTS = 256, 39, 33  # point 33 is the region's centre, 34 tells its size and direction
HEAT_SIDE, HEAT_REACH = 64, 3  # a point is refined by the heat map's 7 x 7 cells about it


@dataclass(frozen=True)
class Region:
    """A square about a figure, upright for the figure: `up` (2,) is half a side less the margin, from `centre` (2,)."""

    centre: np.ndarray
    up: np.ndarray

    def to_picture(self, side: int) -> np.ndarray:
        """(2, 3): the affine map of positions in a crop of side x side pixels to positions in the picture."""
        x, y = self.up
        axes = np.array([[-y, -x], [x, -y]]) * (2 * MARGIN / side)  # columns: a step right, a step down in the crop
        return np.hstack([axes, (self.centre - axes.sum(1) * side / 2)[:, None]])


@dataclass(frozen=True)
class Person:
    """One person found in a picture."""

    score: float  # in [0, 1]
    face: np.ndarray  # (4,) x0, y0, x1, y1
    region: Region  # of the whole body

    @property
    def box(self) -> np.ndarray:
        """(4,) x0, y0, x1, y1 of the upright square about the body; it may reach beyond the picture."""
        half = MARGIN * np.linalg.norm(self.region.up)
        return np.concatenate([self.region.centre - half, self.region.centre + half])

    def is_(self, other: "Person") -> bool:
        """Whether it is the same one, found in another part of the picture: the hips are at one place."""
        apart = np.linalg.norm(self.region.centre - other.region.centre)
        sizes = [np.linalg.norm(one.region.up) for one in (self, other)]
        return bool(apart < SAME * max(sizes))


@dataclass(frozen=True)
class Landmarks:
    """What the landmark network says of one region of a picture."""

    presence: float  # in [0, 1]: how surely a figure is there
    points: np.ndarray  # (33, 2) pixels of the picture, in mediapipe's order
    visibility: np.ndarray  # (33,) in [0, 1]
    mask: np.ndarray  # (256, 256) in [0, 1], of the region
    next_region: Region  # where to look in the next frame


def read_networks(path: str | Path) -> tuple[bytes, bytes]:
    """`FILES` from a mediapipe 0.10 wheel or from a folder that has them, at any depth.

    Raises ValueError in one line when they are not there.
    """
    path = Path(path)
    if path.is_dir():
        found = {each.name: each for each in sorted(path.rglob("*.tflite"))}
        read = Path.read_bytes
    elif zipfile.is_zipfile(path):
        archive = zipfile.ZipFile(path)
        found = {name.rpartition("/")[2]: name for name in archive.namelist()}
        read = archive.read
    else:
        wrong = "is neither a mediapipe wheel nor a folder" if path.exists() else "is not there"
        raise ValueError(f"weights.people={path} {wrong}; {HOW_TO_GET}")
    missing = [name for name in FILES if name not in found]
    if missing:
        raise ValueError(f"weights.people={path} has no {' and no '.join(missing)}; {HOW_TO_GET}")
    try:
        detector, landmarks = (read(found[name]) for name in FILES)
    except (OSError, zipfile.BadZipFile):
        raise ValueError(f"weights.people={path} is damaged; {HOW_TO_GET}") from None
    return detector, landmarks


class BlazePose:
    """The two networks of `read_networks`. One thread each, so that the same picture gives the same bits."""

    def __init__(self, path: str | Path):
        from ai_edge_litert.interpreter import Interpreter

        models = read_networks(path)
        self.hash = hashlib.sha256(b"".join(models)).hexdigest()[:12]
        anchors = [_anchors(cells, count) for cells, count in CELLS]
        self._anchors = np.concatenate(anchors)  # (2254, 2) positions in [0, 1]
        shapes = ((len(self._anchors), 12), (len(self._anchors), 1))
        shapes = (shapes, ((5 * POINTS,), (1,), (LANDMARK_SIDE,) * 2 + (1,), (HEAT_SIDE,) * 2 + (POINTS,)))
        try:
            with silenced():
                self._detector, self._landmarker = (Interpreter(model_content=each, num_threads=1) for each in models)
                for network, wanted in zip((self._detector, self._landmarker), shapes, strict=True):
                    network.allocate_tensors()
                    given = tuple(tuple(each["shape"][1:]) for each in network.get_output_details())
                    if given[: len(wanted)] != wanted:
                        raise ValueError
        except (ValueError, RuntimeError):
            raise ValueError(f"weights.people={path}: its .tflite files are damaged or others; {HOW_TO_GET}") from None

    def find(self, image: np.ndarray) -> list[Person]:
        """The people in an image (H, W, 3) uint8, surest first.

        The network sees 224 pixels of the longer side. A long picture is looked at once more square by square, and one
        in which nobody is found in nine overlapping squares, so that smaller figures are seen.
        """
        size = np.array(image.shape[1::-1], float)
        people = self._find_in(image, size / 2, size.max())
        squares = []
        if size.max() > LONG * size.min():
            squares = _squares(size, size.min())
        elif not people:
            squares = _squares(size, size.max() / 2)
        for middle, side in squares:
            people += [one for one in self._find_in(image, middle, side) if not any(one.is_(known) for known in people)]
        return sorted(people, key=lambda one: -one.score)

    def _find_in(self, image: np.ndarray, middle: np.ndarray, side: float) -> list[Person]:
        """Those in a square of it."""
        to_picture = Region(middle, np.array([0, -side / 2 / MARGIN])).to_picture(DETECTOR_SIDE)
        crop = _crop(image, to_picture, DETECTOR_SIDE, cv2.BORDER_CONSTANT)
        values, logits = _run(self._detector, crop / 127.5 - 1)[:2]
        scores = expit(logits[:, 0].clip(-100, 100))
        sure = np.flatnonzero(scores >= MIN_SCORE)
        values = values[sure].reshape(-1, 6, 2) / DETECTOR_SIDE  # centre, size, and four points about the anchor
        values[:, [0, 2, 3, 4, 5]] += self._anchors[sure, None]
        values = np.concatenate(
            [values[:, :1] - values[:, 1:2] / 2, values[:, :1] + values[:, 1:2] / 2, values[:, 2:]], 1
        )
        people = []
        for score, (low, high, hips, edge, *_) in _merge(values, scores[sure]):
            low, high, hips, edge = _map(np.stack([low, high, hips, edge]) * DETECTOR_SIDE, to_picture)
            if np.any(edge != hips):
                people.append(Person(float(score), np.concatenate([low, high]), Region(hips, edge - hips)))
        return people

    def look(self, image: np.ndarray, region: Region) -> Landmarks:
        """The figure in a region of an image (H, W, 3) uint8."""
        to_picture = region.to_picture(LANDMARK_SIDE)
        crop = _crop(image, to_picture, LANDMARK_SIDE, cv2.BORDER_REPLICATE)
        values, presence, mask, heat = _run(self._landmarker, crop / 255)[:4]
        values = values.reshape(POINTS, 5)  # x, y, depth in the crop's pixels; logits of visibility and presence
        points = _map(_refine(values[:, :2] / LANDMARK_SIDE, heat) * LANDMARK_SIDE, to_picture)
        centre, edge = points[BODY_POINTS : BODY_POINTS + 2]
        return Landmarks(
            presence=float(presence[0]),  # the network's own sigmoid
            points=points[:BODY_POINTS],
            visibility=expit(values[:BODY_POINTS, 3]),
            mask=expit(mask[..., 0]),
            next_region=Region(centre, edge - centre),
        )

    @staticmethod
    def paste(mask: np.ndarray, region: Region, height: int, width: int) -> np.ndarray:
        """The mask of a region, resized and turned into the picture: (height, width) float32, 0 outside the region."""
        matrix = _on_centres(region.to_picture(LANDMARK_SIDE))
        return cv2.warpAffine(mask, matrix, (width, height), flags=cv2.INTER_LINEAR)


@contextmanager
def silenced() -> Iterator[None]:
    """Without what a library writes past Python to stderr: the interpreter greets with a line of its own."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _squares(size: np.ndarray, side: float) -> list[tuple[np.ndarray, float]]:
    """Middles and sides of squares that cover a picture (width, height), each half over the next."""
    starts = [np.linspace(0, max(0, length - side), max(1, round(2 * (length - side) / side) + 1)) for length in size]
    return [(np.array([x, y]) + np.minimum(side, size) / 2, side) for y in starts[1] for x in starts[0]]


def _anchors(cells: int, count: int) -> np.ndarray:
    """(cells^2 count, 2) the centres of a grid of cells in [0, 1], row by row, each `count` times."""
    place = (np.arange(cells) + 0.5) / cells
    y, x = np.meshgrid(place, place, indexing="ij")
    return np.stack([x, y], -1).reshape(-1, 2).repeat(count, 0)


def _map(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(N, 2) points through an affine map (2, 3)."""
    return points @ matrix[:, :2].T + matrix[:, 2]


def _on_centres(matrix: np.ndarray) -> np.ndarray:
    """An affine map of positions as OpenCV counts them, with the first pixel's centre at (0, 0)."""
    return np.hstack([matrix[:, :2], (matrix[:, 2] + matrix[:, :2].sum(1) / 2 - 0.5)[:, None]])


def _crop(image: np.ndarray, to_picture: np.ndarray, side: int, border: int) -> np.ndarray:
    """The square of an image that an affine map fills. (side, side, 3) float32 in [0, 255]"""
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(image, _on_centres(to_picture), (side, side), flags=flags, borderMode=border).astype(
        np.float32
    )


def _run(network, picture: np.ndarray) -> list[np.ndarray]:
    """A network's outputs for one picture, without the batch dimension."""
    network.set_tensor(network.get_input_details()[0]["index"], picture[None])
    network.invoke()
    return [network.get_tensor(each["index"])[0] for each in network.get_output_details()]


def _merge(boxes: np.ndarray, scores: np.ndarray) -> list[tuple[float, np.ndarray]]:
    """Weighted non-maximum suppression: overlapping boxes become one, their mean weighted by score.

    boxes (N, P, 2): two corners, then further points; scores (N,). Gives (score, (P, 2)), surest first.
    """
    merged = []
    left = np.argsort(-scores, kind="stable")
    while left.size:
        best = boxes[left[0]]
        low, high = np.maximum(boxes[left, 0], best[0]), np.minimum(boxes[left, 1], best[1])
        shared = (high - low).clip(0).prod(-1)
        areas = (boxes[left, 1] - boxes[left, 0]).prod(-1)
        same = shared > MIN_OVERLAP * (areas + areas[0] - shared)
        same[0] = True
        group = left[same]
        merged.append((scores[left[0]], np.average(boxes[group], axis=0, weights=scores[group])))
        left = left[~same]
    return merged


def _refine(points: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """(39, 2) points in [0, 1], each moved to the mean of the heat (64, 64, 39) about it where that is sure."""
    refined = points.copy()
    for index, (x, y) in enumerate((points * HEAT_SIDE).astype(int)):
        if not (0 <= x < HEAT_SIDE and 0 <= y < HEAT_SIDE):
            continue
        left, top = max(0, x - HEAT_REACH), max(0, y - HEAT_REACH)
        patch = expit(heat[top : y + HEAT_REACH + 1, left : x + HEAT_REACH + 1, index])
        if patch.max() >= MIN_SCORE:
            columns, rows = left + np.arange(patch.shape[1]), top + np.arange(patch.shape[0])
            total = patch.sum() * HEAT_SIDE
            refined[index] = (patch.sum(0) @ columns) / total, (patch.sum(1) @ rows) / total
    return refined
