"""Separate the background of an image from its figures and their shadows."""

from collections.abc import Sequence

import cv2
import numpy as np

from zoo.body.image.inpainting import inpaint
from zoo.body.image.segmentation import MIN_ALPHA, Figure
from zoo.body.image.shadow import Shadow, separate_shadow, shadow_area, shadow_fading
from zoo.body.image_skeleton import SMPL_STATURE
from zoo.body.skeleton import FEET, FOOT_HEIGHTS

INPAINTED_STATURE = 150  # pixels: the image is shrunk to this stature to inpaint the background
OTHER_BORDER = 5  # pixels, odd: so narrow is the replaced border of other people beside a figure
HOLE_MARGIN = 0.02  # of the stature: pixels so close to the figure may be mixed with its colors


def separate_background(figures: Sequence[Figure]) -> tuple[np.ndarray, list[Shadow | None]]:
    """The image (H, W, 3) uint8 without the figures and their shadows, and each shadow, if it can be told."""
    image, stature = figures[0].image, max(figure.stature for figure in figures)
    alpha = np.max([figure.alpha for figure in figures], 0)
    centers = [  # None: the floor is not in the image
        None if figure.cut_row is not None else np.array([figure.joints[list(FEET), 0].mean(), floor_row(figure)])
        for figure in figures
    ]
    distances = [
        np.full(alpha.shape, np.inf, np.float32) if center is None else shadow_area(alpha.shape, center, figure.stature)
        for center, figure in zip(centers, figures, strict=True)
    ]
    is_shadow = np.any([distance < 1 for distance in distances], 0)
    other_masks = [figure.other_people for figure in figures if figure.other_people is not None]
    other_people = np.any(other_masks, 0) if other_masks else None
    inpainted = _inpaint(image, alpha, stature, is_shadow, other_people)
    floor = _replace_figure(image, inpainted, alpha, stature, np.float32(is_shadow), other_people)
    is_figure = alpha > MIN_ALPHA
    shadows = [
        None
        if center is None
        else separate_shadow(image, floor, is_figure, center, feet_distance(figure.joints), figure.stature)
        for center, figure in zip(centers, figures, strict=True)
    ]
    distances = [distance for distance, shadow in zip(distances, shadows, strict=True) if shadow is not None]
    if len(distances) < sum(center is not None for center in centers):
        is_shadow = np.any([np.zeros(alpha.shape, bool), *(distance < 1 for distance in distances)], 0)
        inpainted = _inpaint(image, alpha, stature, is_shadow, other_people)
    # the floor fades into the image as the shadows do: there is no step where a shadow reaches farther
    fading = np.max([np.zeros(alpha.shape, np.float32), *map(shadow_fading, distances)], 0)
    return _replace_figure(image, inpainted, alpha, stature, fading, other_people), shadows


def floor_row(figure: Figure) -> float:
    """The row of pixels that a figure stands on."""
    soles = figure.joints[list(FEET), 1] + np.array(FOOT_HEIGHTS) * figure.stature / SMPL_STATURE
    return float(soles.max())


def feet_distance(joints: np.ndarray) -> float:
    """Horizontal distance of the ankles of joints (24, 2)."""
    left, right = joints[list(FEET[:2]), 0]
    return float(abs(left - right))


def _inpaint(
    image: np.ndarray, alpha: np.ndarray, stature: float, is_shadow: np.ndarray, other_people: np.ndarray | None
) -> np.ndarray:
    """Inpaint the figures, what is near them, and the pixels `is_shadow` (H, W) bool. -> (H, W, 3) float32

    other_people: (H, W) bool, pixels that are not copied to other places.
    """
    hole_mask = _dilate(np.uint8((alpha > MIN_ALPHA) | is_shadow), 2 * max(2, round(HOLE_MARGIN * stature)) + 1)
    scale = min(1.0, INPAINTED_STATURE / stature)
    small_size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small_image = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    is_hole = cv2.resize(np.float32(hole_mask), small_size, interpolation=cv2.INTER_AREA) > 0.01
    no_source = None
    if other_people is not None:
        no_source = cv2.resize(other_people.astype(np.float32), small_size, interpolation=cv2.INTER_AREA) > 0.5
    filled = np.float32(inpaint(small_image, is_hole, no_source))
    return cv2.resize(filled, image.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def _replace_figure(
    image: np.ndarray,
    inpainted: np.ndarray,
    alpha: np.ndarray,
    stature: float,
    shadow_weight: np.ndarray,
    other_people: np.ndarray | None,
) -> np.ndarray:
    """The image (H, W, 3) uint8, replaced by `inpainted` at the figures, and elsewhere by `shadow_weight` (H, W).

    Of `other_people` (H, W) bool only a narrow border beside the figures is replaced.
    """
    figure_mask = (alpha > MIN_ALPHA).astype(np.uint8)
    kernel_side = 2 * max(2, round(HOLE_MARGIN * stature)) + 1
    # narrower than the hole: pixels that only may be mixed with the figure's colors stay unchanged
    replaced_mask = _dilate(figure_mask, 2 * kernel_side // 3 | 1)
    weight = cv2.GaussianBlur(np.float32(replaced_mask), (kernel_side, kernel_side), 0)
    weight = np.maximum(weight, shadow_weight)
    if other_people is not None:
        weight[other_people & (_dilate(figure_mask, OTHER_BORDER) == 0)] = 0
    weight = np.maximum(weight, np.float32(figure_mask))[..., None]
    return (image * (1 - weight) + inpainted * weight).round().clip(0, 255).astype(np.uint8)


def _dilate(mask: np.ndarray, side: int) -> np.ndarray:
    return cv2.dilate(mask, np.ones((side, side), np.uint8))
