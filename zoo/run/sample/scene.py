"""Place the figure of an image in a scene like those of the training videos (DabFusion sec. 4.4)."""

from pathlib import Path

import cv2
import numpy as np

from zoo.body.detection.blazepose import DOWNLOAD_HINT
from zoo.body.detection.factory import load_detector
from zoo.body.image.segmentation import Cutout, extract_cutout, from_alpha, ground_contacts, paste_cutout
from zoo.body.render.rasterizer import shade_floor
from zoo.data.world.place import RandomPlace
from zoo.media import read_rgba

MIN_TRANSPARENCY = 0.01  # fraction of the image; less is no cutout, but rounded corners
STATURE_METRES = 1.7  # of the world's adults
TOES_POSITION = np.array([0, -0.15, 0])  # metres in the world: nearest point to the camera of a figure at the origin
HIP_HEIGHT_FRACTION = 0.55  # of the stature


def read_cutout(path: Path, detector_path: Path | None, person: int | tuple[int, ...] | None = None) -> Cutout:
    """The figure of an image: its opaque pixels if it has transparency, else the person that a detector finds.

    detector_path: the detector's files (weights.pose_detector=). person: see `PersonDetector`. Raises ValueError
    without a whole person.
    """
    rgba = read_rgba(path)
    is_cutout = (rgba[..., 3] < 128).mean() > MIN_TRANSPARENCY
    if not is_cutout and detector_path is None:
        accepted_files = f"the mediapipe 0.10.21 wheel or its .tflite files ({DOWNLOAD_HINT}), or DWPose's .onnx"
        raise ValueError(
            f"scene= finds the person of image={path} with weights.pose_detector=FILE, {accepted_files}; "
            "a transparent png needs none"
        )
    try:
        if is_cutout or detector_path is None:
            return from_alpha(rgba)
        return extract_cutout(rgba[..., :3], load_detector(detector_path, person))
    except ValueError as error:
        raise ValueError(f"image={path}: {error}") from None


def set_scene(cutout: Cutout, backdrop: np.ndarray | None, seed: int, side: int) -> np.ndarray:
    """An image (side, side, 3) uint8 of the figure at the position and stature of the world's dancers.

    backdrop: an image (H, W, 3) uint8, of which the middle square is used; None: a place of the world, drawn by `seed`.
    """
    random_place = RandomPlace(seed)
    camera = random_place.camera
    image = random_place.draw_backdrop(side) if backdrop is None else _middle_square(backdrop, side)
    (toes, feet, top), _ = camera.project(np.array([TOES_POSITION, [0, 0, 0], [0, 0, STATURE_METRES]]), side, side)
    stature_pixels = feet[1] - top[1]
    rgb, alpha = paste_cutout(cutout, side, toes, stature_pixels)
    metres_per_pixel = STATURE_METRES / stature_pixels
    contacts = [
        [(column - feet[0]) * metres_per_pixel, depth, lift]
        for column in ground_contacts(alpha, stature_pixels)
        for depth, lift in ((-0.1, 0), (0, 0.08))
    ]
    shade_floor(image, np.array([[0, 0, HIP_HEIGHT_FRACTION * STATURE_METRES], *contacts]), camera)
    return np.round(image * (1 - alpha[..., None]) + rgb).clip(0, 255).astype(np.uint8)


def _middle_square(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    crop_size = min(height, width)
    top, left = (height - crop_size) // 2, (width - crop_size) // 2
    interpolation = cv2.INTER_AREA if crop_size > side else cv2.INTER_LINEAR
    return cv2.resize(image[top : top + crop_size, left : left + crop_size], (side, side), interpolation=interpolation)
