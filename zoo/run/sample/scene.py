"""A picture's figure, set into a scene like those of the training videos (DabFusion sec. 4.4): `sample.py scene=`."""

from pathlib import Path

import cv2
import numpy as np

from zoo.body.detection.blazepose import DOWNLOAD_HINT
from zoo.body.detection.factory import load_detector
from zoo.body.image.segmentation import Cutout, extract_cutout, from_alpha, ground_contacts, paste_cutout
from zoo.body.render.rasterizer import shade_floor
from zoo.data.world.place import RandomPlace
from zoo.media import read_rgba

TRANSPARENT = 0.01  # of the picture: less is no cut-out, but rounded corners
TALL = 1.7  # m, the world's grown-ups
TOES = np.array([0, -0.15, 0])  # m: the nearest point of who stands at the origin
HIPS = 0.55  # of the stature


def read_cutout(path: Path, people: Path | None) -> Cutout:
    """The figure of an image: its opaque pixels if it has transparency, else the person that a detector finds.

    people: the detector's files (weights.pose_detector=). Raises ValueError unless there is one whole person.
    """
    rgba = read_rgba(path)
    transparent = (rgba[..., 3] < 128).mean() > TRANSPARENT
    if not transparent and people is None:
        files = f"the mediapipe 0.10.21 wheel or its .tflite files ({DOWNLOAD_HINT}), or DWPose's .onnx"
        raise ValueError(
            f"scene= finds the person of image={path} with weights.pose_detector=FILE, {files}; "
            "a transparent png needs none"
        )
    try:
        if transparent or people is None:
            return from_alpha(rgba)
        return extract_cutout(rgba[..., :3], load_detector(people))
    except ValueError as error:
        raise ValueError(f"image={path}: {error}") from None


def set_scene(cutout: Cutout, backdrop: np.ndarray | None, seed: int, side: int) -> np.ndarray:
    """The figure where the world's dancers stand, as tall as they are, in a picture (side, side, 3) uint8.

    backdrop: any picture (H, W, 3) uint8, of which the middle square is used; None is a place of the world, drawn by
    `seed`.
    """
    random_place = RandomPlace(seed)
    view = random_place.camera
    picture = random_place.draw_backdrop(side) if backdrop is None else _middle_square(backdrop, side)
    (toes, feet, top), _ = view.project(np.array([TOES, [0, 0, 0], [0, 0, TALL]]), side, side)
    stature = feet[1] - top[1]
    rgb, alpha = paste_cutout(cutout, side, toes, stature)
    metres = TALL / stature
    standing = [
        [(x - feet[0]) * metres, depth, lift]
        for x in ground_contacts(alpha, stature)
        for depth, lift in ((-0.1, 0), (0, 0.08))
    ]
    shade_floor(picture, np.array([[0, 0, HIPS * TALL], *standing]), view)
    return np.round(picture * (1 - alpha[..., None]) + rgb).clip(0, 255).astype(np.uint8)


def _middle_square(image: np.ndarray, side: int) -> np.ndarray:
    height, width = image.shape[:2]
    least = min(height, width)
    top, left = (height - least) // 2, (width - least) // 2
    shrinks = cv2.INTER_AREA if least > side else cv2.INTER_LINEAR
    return cv2.resize(image[top : top + least, left : left + least], (side, side), interpolation=shrinks)
