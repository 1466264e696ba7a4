"""DensePose's 24 parts as images: their colors in MagicAnimate's videos, and how files encode them."""

import cv2
import numpy as np

NUM_PARTS = 24
HEAD_PARTS = (23, 24)
FOREGROUND_PART = 2  # the torso's front: the label of the whole figure where only its mask is known
# color of each part in MagicAnimate's DensePose videos: viridis, background included
_VIRIDIS_STEPS = np.uint8(np.arange(NUM_PARTS + 1) * (255 / NUM_PARTS))
PART_COLORS = cv2.applyColorMap(_VIRIDIS_STEPS[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
FACE_SQUARE_SCALE = 2.2  # side of the square around a face, in widths of the head
FACE_CENTER_HEIGHT = 0.75  # height of its center above the chin, in widths of the head
MAX_COLOR_DISTANCE = 30  # of 255: compression moves a part's color by less


def read_parts(image: np.ndarray) -> np.ndarray:
    """Part of each pixel of a DensePose image (H, W, 3) uint8: (H, W) uint8, 1 to 24, 0 background.

    Two encodings are known. In DensePose's IUV maps, as in the TikTok data set, blue is the part's number, green and
    red are u and v; greyscale images of numbers are read alike. In DensePose's videos each part has one of PART_COLORS;
    the nearest one counts. Raises ValueError, one line without the image's name, for other images.
    """
    blue = image[..., 2]
    if blue.max() <= NUM_PARTS:  # viridis' background alone has more
        return blue
    colors, pixels = PART_COLORS.astype(np.float32), image.reshape(-1, 3).astype(np.float32)
    distance = (colors**2).sum(1) - 2 * pixels @ colors.T  # without the pixel's own square, equal for all colors
    if np.mean(distance.min(1) + (pixels**2).sum(1) > MAX_COLOR_DISTANCE**2) > 0.5:
        raise ValueError(f"no DensePose: blue is no part's number, 0 to {NUM_PARTS}, and colors are not viridis'")
    return distance.argmin(1).astype(np.uint8).reshape(blue.shape)


def read_mask(image: np.ndarray) -> np.ndarray:
    """A figure's mask (H, W, 3) uint8, white on black, as `read_parts`: FOREGROUND_PART and background."""
    return np.where(image.max(-1) > 127, FOREGROUND_PART, 0).astype(np.uint8)


def head_square(head: np.ndarray) -> np.ndarray:
    """The square around a face from the head's pixels (H, W) bool: (4,) float32 left, top, right, bottom.

    Coordinates are fractions of the image, NaN without any pixel. The head's width is the upper quartile of its rows'
    widths, so that a hat or an antenna does not count.
    """
    rows = np.flatnonzero(head.any(1))
    if not len(rows):
        return np.full(4, np.nan, np.float32)
    height, width = head.shape
    head_width = float(np.quantile(head[rows].sum(1), 0.75))
    column_counts = head[max(0, int(rows[-1] + 1 - head_width)) :].sum(0)
    center_x, center_y = (
        (column_counts * (np.arange(width) + 0.5)).sum() / column_counts.sum(),
        rows[-1] + 1 - FACE_CENTER_HEIGHT * head_width,
    )
    half_side = FACE_SQUARE_SCALE * head_width / 2
    square = (
        (center_x - half_side) / width,
        (center_y - half_side) / height,
        (center_x + half_side) / width,
        (center_y + half_side) / height,
    )
    return np.array(square, np.float32)
