"""Motion alignment (MagicDance sec. 3.2): a generated dance, seen as the picture's own figure would be seen dancing it.

The paper finds the face in the picture, and shifts and crops a DensePose video until its head is there in that size.
Here the parts are rendered from a mesh, so that the whole body is fitted: its limbs are as long as the picture's, its
soles stand where the figure stands, and one pixel is as many metres.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zoo.body.camera import Camera
from zoo.body.detection.blazepose_detector import PeopleDetector, PoseDetector
from zoo.body.image.puppet import SEES, SMPL_STATURE, limb_offsets
from zoo.body.image.segmentation import find_figure, seen_figure
from zoo.body.render.densepose import head_square
from zoo.body.render.mesh import Body, body, vertex_normals
from zoo.body.render.openpose_video import pose_points
from zoo.body.render.rasterizer import render_parts
from zoo.body.skeleton import FEET, FOOT_HEIGHTS, JOINTS, PARENTS, unpack

AWAY = 8.0  # metres from which the figure is looked at: near and far limbs are almost equally large
MARGIN = 0.3  # statures of room that the pelvis keeps to the picture's sides
NAME = "woman"


@dataclass(frozen=True)
class Alignment:
    """How a picture's figure is to be seen."""

    body: Body
    camera: Camera
    side: int  # pixels of the square picture
    face: np.ndarray  # (4,) left, top, right, bottom of the head's square, in shares of the picture
    fit: float  # in [0, 1]: how surely limbs are seen, and how near their lengths are to a person's
    reach: float  # metres that the pelvis may be off its place in the picture


def align(picture: np.ndarray, detector: PoseDetector, side: int, width: int | None = None) -> Alignment:
    """From a square picture (S, S, 3) uint8 of one whole figure, for frames of `side` pixels a side.

    width: pixels across, about the middle, in which the figure is to stay; all of them unless told otherwise.
    Raises ValueError, one line without the picture's name, as `find_figure` and, of other detectors, `seen_figure`.
    """
    finds = find_figure if isinstance(detector, PeopleDetector) else seen_figure
    more = {} if finds is find_figure else {"sure": SEES}
    figure = finds(picture, detector, **more)
    shrink = side / len(figure.image)
    joints, stature = figure.joints * shrink, figure.stature * shrink
    offsets, believed = limb_offsets(joints, stature)
    scale = stature / SMPL_STATURE  # pixels a metre
    shape = proportioned(body(NAME), offsets.numpy() / scale)
    middle = float(joints[0, 0])
    soles = joints[list(FEET), 1] + np.array(FOOT_HEIGHTS) * scale
    high = (float(soles.max()) - side / 2) / scale
    across = (side / 2 - middle) / scale
    fov = float(np.degrees(2 * np.arctan(side / 2 / (scale * AWAY))))
    camera = Camera((across, -AWAY, high), (across, 0.0, high), fov)
    beyond = 0 if width is None else (side - width) / 2
    room = (min(middle, side - middle) - beyond) / scale - MARGIN * SMPL_STATURE
    face = head_square(head_of(figure.alpha, figure.joints))
    return Alignment(shape, camera, side, face, figure.sure * believed, max(room, 0.1))


def head_of(alpha: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Which pixels of a figure's alpha (H, W) are its head's, bool: those that are nearest to it of all bones.

    joints (24, 2), pixels. The head goes on beyond its joint, by as much again as that is above the neck, and begins a
    tenth below that, where the chin of a body is.
    """
    neck, head = joints[JOINTS.index("neck")], joints[JOINTS.index("head")]
    rows, columns = np.nonzero(alpha > 0.5)
    at = np.stack([columns, rows], 1) + 0.5
    ends = [
        (joints[parent], joints[joint])
        for joint, parent in enumerate(PARENTS)
        if joint and joint != JOINTS.index("head")
    ]
    apart = [_off_bone(at, *bone) for bone in [(neck - 0.1 * (head - neck), 2 * head - neck), *ends]]
    found = np.zeros(alpha.shape, bool)
    found[rows, columns] = np.argmin(apart, 0) == 0
    return found


def _off_bone(at: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of points (N, 2) from the line between two."""
    way = end - start
    along = np.clip((at - start) @ way / max(float(way @ way), 1e-6), 0, 1)
    return np.linalg.norm(at - start - along[:, None] * way, axis=1)


def proportioned(shape: Body, offsets: np.ndarray) -> Body:
    """The body with bones `offsets` (24, 3), metres: what belongs to a bone grows along it as the bone does."""
    joints = np.zeros((24, 3), np.float32)
    for joint, parent in enumerate(PARENTS[1:], 1):
        joints[joint] = joints[parent] + offsets[joint]
    grows = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    for joint, parent in enumerate(PARENTS[1:], 1):
        if list(PARENTS).count(parent) == 1:  # a bone that branches belongs to nobody
            old = shape.offsets[joint]
            way = old / np.linalg.norm(old)
            share = float(np.linalg.norm(offsets[joint]) / np.linalg.norm(old))
            grows[parent] += (share - 1) * np.outer(way, way)
    shift = joints - (grows @ shape.joints[..., None])[..., 0]
    moves = np.concatenate([grows, shift[..., None]], -1)  # (24, 3, 4)
    blended = (shape.weights @ moves.reshape(24, 12)).reshape(-1, 3, 4)
    vertices = (blended[..., :3] @ shape.vertices[..., None])[..., 0] + blended[..., 3]
    vertices = vertices.astype(np.float32)
    normals = vertex_normals(vertices, shape.faces)
    return replace(shape, vertices=vertices, normals=normals, offsets=offsets.astype(np.float32))


class AlignedDance:
    """Consecutive motion as the picture's figure dances it; what comes next depends on where it was."""

    def __init__(self, alignment: Alignment):
        self.alignment, self.origin = alignment, None

    def parts(self, motion: Tensor) -> Tensor:
        """Motion (F, 151) -> DensePose's parts (F, S, S) uint8"""
        known = self.alignment
        return torch.from_numpy(render_parts(known.body, *self._placed(motion), known.camera, known.side, known.side))

    def points(self, motion: Tensor) -> np.ndarray:
        """Motion (F, 151) -> the points of a pose video (F, 20, 2), pixels, see `pose_points`"""
        known = self.alignment
        return pose_points(known.body, *self._placed(motion), known.camera, known.side)

    def _placed(self, motion: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Local rotations (F, 24, 3, 3) and root (F, 3), which stays in the picture, however far the dance goes."""
        _, root, rotations = unpack(motion.cpu())
        root = root.clone()
        if self.origin is None:
            self.origin = root[0, :2].clone()
        reach = self.alignment.reach
        root[:, :2] = reach * torch.tanh((root[:, :2] - self.origin) / reach)
        return rotations.numpy(), root.numpy()
