"""Grow the canvas of an image where the arms of its dancers would leave it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from zoo.body.image.figure_background import floor_row
from zoo.body.image.segmentation import MIN_ALPHA, Figure
from zoo.body.image.shadow import Shadow

# of the stature, in dances of the choreographer: highest point above the floor, farthest one from the pelvis sideways
REACH_HEIGHT, REACH_SIDE = 1.2, 0.46
HEAD_HEIGHT = 1.08  # the same of a figure whose arms do not move
MAX_GROWTH = 0.25  # of the image's height or width, at one edge
MAX_STEP, MAX_DEVIATION = 3.0, 12.0  # of a plain background, away from the edge: change a pixel, and standard deviation
EDGE_PIXELS = 3  # people who come so near to an edge are cut off by it


@dataclass(frozen=True)
class CanvasGrowth:
    """Pixels that are added above, to the left and to the right."""

    top: int
    left: int
    right: int

    def pad(self, image: np.ndarray, border_type: int) -> np.ndarray:
        """An image (H, W, ...) on the grown canvas. border_type: OpenCV's."""
        return cv2.copyMakeBorder(image, self.top, 0, self.left, self.right, border_type)

    def grow_figure(self, figure: Figure) -> Figure:
        """The figure in coordinates of the grown canvas."""
        rgb, alpha, image = (self.pad(part, cv2.BORDER_CONSTANT) for part in (figure.rgb, figure.alpha, figure.image))
        return replace(
            figure,
            rgb=rgb,
            alpha=alpha,
            image=image,
            joints=figure.joints + np.array([self.left, self.top], np.float32),
            cut_row=None if figure.cut_row is None else figure.cut_row + self.top,
            other_people=None,
        )

    def move_shadow(self, shadow: Shadow) -> Shadow:
        """The shadow in coordinates of the grown canvas."""
        move = np.array([self.left, self.top])
        return replace(shadow, corner=shadow.corner + move, center=shadow.center + move)


def canvas_growth(figures: Sequence[Figure], background: np.ndarray, moves_arms: Sequence[bool]) -> CanvasGrowth:
    """How much the figures of one image need, at most MAX_GROWTH of its height or width at an edge.

    background: the image (H, W, 3) uint8 without them; moves_arms: whether each figure's arms move. Nothing is added
    below, nor at an edge that cuts off a person or where the background is not plain, such as sky or a wall: a
    reflection would show persons and things twice.
    """
    height, width = figures[0].alpha.shape
    people = np.max([figure.alpha > MIN_ALPHA for figure in figures], 0)
    for figure in figures:
        if figure.other_people is not None:
            people |= figure.other_people
    edges = {
        "top": people[:EDGE_PIXELS],
        "left": people[:, :EDGE_PIXELS],
        "right": people[:, -EDGE_PIXELS:],
    }
    growth = dict.fromkeys(edges, 0.0)
    for figure, has_arms in zip(figures, moves_arms, strict=True):
        highest = floor_row(figure) - (REACH_HEIGHT if has_arms else HEAD_HEIGHT) * figure.stature
        side = REACH_SIDE * figure.stature if has_arms else 0
        needed = {"top": -highest, "left": side - figure.joints[0, 0], "right": figure.joints[0, 0] + side - width}
        growth = {name: max(growth[name], float(needed[name])) for name in growth}
    limits = {"top": MAX_GROWTH * height, "left": MAX_GROWTH * width, "right": MAX_GROWTH * width}
    pixels = {  # even, as frames have even sides
        name: 0 if edges[name].any() else 2 * round(min(growth[name], limits[name]) / 2) for name in growth
    }
    strips = {
        "top": background[: pixels["top"]],
        "left": background[:, : pixels["left"]],
        "right": background[:, width - pixels["right"] :],
    }
    axes = {"top": 0, "left": 1, "right": 1}
    return CanvasGrowth(**{name: pixels[name] if _is_plain(strips[name], axes[name]) else 0 for name in pixels})


def _is_plain(strip: np.ndarray, axis: int) -> bool:
    """Whether a part of a background (h, w, 3) hardly changes along an axis, so that its reflection is not noticed."""
    if not strip.size:
        return False
    grey = strip.astype(np.float32).mean(-1)
    return float(np.abs(np.diff(grey, axis=axis)).mean()) < MAX_STEP and float(grey.std(axis).mean()) < MAX_DEVIATION
