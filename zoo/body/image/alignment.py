"""Motion alignment (MagicDance sec. 3.2): show a generated motion as the image's own figure would dance it.

The paper detects the face in the image, and shifts and crops a DensePose video until its head has the same position and
size. Here the parts are rendered from a mesh, so that the whole body is fitted: it has the figure's limb lengths,
stands where the figure stands, and has its size.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from zoo.body.camera import Camera
from zoo.body.detection.base import PoseDetector
from zoo.body.image.puppet import DETECTION_CONFIDENCE
from zoo.body.image.segmentation import extract_figure
from zoo.body.image_skeleton import SMPL_STATURE, limb_offsets
from zoo.body.render.densepose import head_square
from zoo.body.render.mesh import Body, load_body, vertex_normals
from zoo.body.render.openpose_video import pose_points
from zoo.body.render.rasterizer import render_parts
from zoo.body.skeleton import FEET, FOOT_HEIGHTS, JOINTS, PARENTS, pack, unpack

CAMERA_DISTANCE = 8.0  # metres; near and far limbs look almost equally large
SIDE_MARGIN = 0.3  # statures that the pelvis stays away from the image's sides
MIN_OFFSET_METRES = 0.1  # metres that the pelvis may always move sideways, however narrow the image
BODY_NAME = "woman"
# an unaligned body's stature and the row of its soles, over the image's height
STANDARD_STATURE, STANDARD_SOLE_ROW = 0.7, 0.85
CHIN_BELOW_NECK = 0.1  # distance of the chin below the neck joint, over the distance of head and neck joint


@dataclass(frozen=True)
class Alignment:
    """Body and camera that show a motion as an image's figure."""

    body: Body
    camera: Camera
    resolution: int  # pixels a side of the square image
    face: np.ndarray  # (4,) left, top, right, bottom of the head's square, as fractions of the image
    quality: float  # in [0, 1]: visibility of the limbs, times the plausibility of their lengths
    max_offset: float  # metres that the pelvis may move away from its place in the image
    note: str | None = None  # see SegmentedFigure


def align(image: np.ndarray, detector: PoseDetector, resolution: int, width: int | None = None) -> Alignment:
    """Align to the one whole figure of a square image (S, S, 3) uint8, for frames of `resolution` pixels a side.

    width: the figure stays within the middle `width` pixel columns of the frames; None: within the whole frame.
    Raises ValueError, one line without the image's name, as `PoseDetector.segment_figure`.
    """
    figure = extract_figure(image, detector, min_confidence=DETECTION_CONFIDENCE)
    resize_factor = resolution / len(figure.image)
    joints, stature = figure.joints * resize_factor, figure.stature * resize_factor
    offsets, plausibility = limb_offsets(joints, stature)
    scale = stature / SMPL_STATURE  # pixels a metre
    fitted_body = with_bone_lengths(load_body(BODY_NAME), offsets.numpy() / scale)
    pelvis_column = float(joints[0, 0])
    sole_rows = joints[list(FEET), 1] + np.array(FOOT_HEIGHTS) * scale
    camera_z = (float(sole_rows.max()) - resolution / 2) / scale
    camera_x = (resolution / 2 - pelvis_column) / scale
    fov = float(np.degrees(2 * np.arctan(resolution / 2 / (scale * CAMERA_DISTANCE))))
    camera = Camera((camera_x, -CAMERA_DISTANCE, camera_z), (camera_x, 0.0, camera_z), fov)
    cropped_width = 0 if width is None else (resolution - width) / 2
    side_room = (min(pelvis_column, resolution - pelvis_column) - cropped_width) / scale - SIDE_MARGIN * SMPL_STATURE
    face = head_square(head_mask(figure.alpha, figure.joints))
    max_offset = max(side_room, MIN_OFFSET_METRES)
    return Alignment(fitted_body, camera, resolution, face, figure.quality * plausibility, max_offset, figure.note)


def standard_placement(alignment: Alignment) -> Alignment:
    """A baseline without alignment: a standard body in the middle of the frame, whatever the image shows."""
    resolution = alignment.resolution
    scale = STANDARD_STATURE * resolution / SMPL_STATURE  # pixels a metre
    camera_z = (STANDARD_SOLE_ROW - 0.5) * resolution / scale
    fov = float(np.degrees(2 * np.arctan(resolution / 2 / (scale * CAMERA_DISTANCE))))
    camera = Camera((0.0, -CAMERA_DISTANCE, camera_z), (0.0, 0.0, camera_z), fov)
    side_room = resolution / 2 / scale - SIDE_MARGIN * SMPL_STATURE
    return replace(alignment, body=load_body(BODY_NAME), camera=camera, max_offset=max(side_room, MIN_OFFSET_METRES))


def head_mask(alpha: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """The pixels of a figure's alpha (H, W) that are closer to its head than to any other bone: bool (H, W).

    joints (24, 2) pixels. The head's line is twice as long as the bone from neck to head, and begins
    CHIN_BELOW_NECK below it, at the chin.
    """
    neck, head = joints[JOINTS.index("neck")], joints[JOINTS.index("head")]
    rows, columns = np.nonzero(alpha > 0.5)
    pixel_centers = np.stack([columns, rows], 1) + 0.5
    bones = [
        (joints[parent], joints[joint])
        for joint, parent in enumerate(PARENTS)
        if joint and joint != JOINTS.index("head")
    ]
    head_line = (neck - CHIN_BELOW_NECK * (head - neck), 2 * head - neck)
    distances = [_distance_to_segment(pixel_centers, *line) for line in [head_line, *bones]]
    mask = np.zeros(alpha.shape, bool)
    mask[rows, columns] = np.argmin(distances, 0) == 0
    return mask


def _distance_to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    """Distance of points (N, 2) to the line segment between two."""
    direction = end - start
    fraction = np.clip((points - start) @ direction / max(float(direction @ direction), 1e-6), 0, 1)
    return np.linalg.norm(points - start - fraction[:, None] * direction, axis=1)


def with_bone_lengths(body: Body, offsets: np.ndarray) -> Body:
    """The body with bones `offsets` (24, 3), metres; the mesh about a bone is stretched along it."""
    joints = np.zeros((24, 3), np.float32)
    for joint, parent in enumerate(PARENTS[1:], 1):
        joints[joint] = joints[parent] + offsets[joint]
    stretches = np.tile(np.eye(3, dtype=np.float32), (24, 1, 1))
    for joint, parent in enumerate(PARENTS[1:], 1):
        if list(PARENTS).count(parent) == 1:  # joints with several children have no bone of their own
            old_offset = body.offsets[joint]
            direction = old_offset / np.linalg.norm(old_offset)
            ratio = float(np.linalg.norm(offsets[joint]) / np.linalg.norm(old_offset))
            stretches[parent] += (ratio - 1) * np.outer(direction, direction)
    translations = joints - (stretches @ body.joints[..., None])[..., 0]
    transforms = np.concatenate([stretches, translations[..., None]], -1)  # (24, 3, 4)
    blended = (body.weights @ transforms.reshape(24, 12)).reshape(-1, 3, 4)
    vertices = (blended[..., :3] @ body.vertices[..., None])[..., 0] + blended[..., 3]
    vertices = vertices.astype(np.float32)
    normals = vertex_normals(vertices, body.faces)
    return replace(body, vertices=vertices, normals=normals, offsets=offsets.astype(np.float32))


def turn_to_camera(motion: Tensor, azimuth: float) -> Tensor:
    """The motion (F, 151) as a camera of this azimuth sees it, for a camera in front: turned about the vertical axis.

    azimuth: degrees, see `zoo.body.camera.CameraView`.
    """
    _, root, rotations = unpack(motion)
    cos, sin = np.cos(np.radians(azimuth)), np.sin(np.radians(azimuth))
    turn = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]]).to(rotations)
    rotations = torch.cat([turn @ rotations[:, :1], rotations[:, 1:]], 1)
    return pack(rotations, root @ turn.T)


class AlignedMotion:
    """Shows consecutive blocks of a motion by an alignment; it remembers where the motion began."""

    def __init__(self, alignment: Alignment):
        self.alignment = alignment
        self.origin: Tensor | None = None  # (2,) metres: where the motion began

    def parts(self, motion: Tensor) -> Tensor:
        """Motion (F, 151) -> DensePose's parts (F, S, S) uint8"""
        alignment = self.alignment
        size = alignment.resolution, alignment.resolution
        return torch.from_numpy(render_parts(alignment.body, *self._poses(motion), alignment.camera, *size))

    def points(self, motion: Tensor) -> np.ndarray:
        """Motion (F, 151) -> the points of a pose video (F, 20, 2), pixels, see `pose_points`"""
        alignment = self.alignment
        return pose_points(alignment.body, *self._poses(motion), alignment.camera, alignment.resolution)

    def _poses(self, motion: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Local rotations (F, 24, 3, 3) and root (F, 3), which is kept in the image however far the motion goes."""
        _, root, rotations = unpack(motion.cpu())
        root = root.clone()
        if self.origin is None:
            self.origin = root[0, :2].clone()
        max_offset = self.alignment.max_offset
        root[:, :2] = max_offset * torch.tanh((root[:, :2] - self.origin) / max_offset)
        return rotations.numpy(), root.numpy()
