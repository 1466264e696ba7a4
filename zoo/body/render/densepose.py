"""DensePose's 24 parts as pictures: the colours that MagicAnimate's networks are shown, and how files code them."""

import cv2
import numpy as np

PARTS = 24
HEADS = (23, 24)
BODY = 2  # the torso's front: what a mask without parts is written as
# each part's colour, as MagicAnimate's DensePose videos have it: viridis, background included
COLORS = cv2.applyColorMap(np.uint8(np.arange(PARTS + 1) * (255 / PARTS))[:, None], cv2.COLORMAP_VIRIDIS)[:, 0, ::-1]
AROUND = 2.2  # side of the square about a face, in widths of the head
RAISED = 0.75  # of its middle above the chin, in the same
NEAR = 30  # of 255: so far from a part's colour compression may bring one


def read_parts(picture: np.ndarray) -> np.ndarray:
    """The part that each pixel of a DensePose picture (H, W, 3) uint8 shows: (H, W) uint8, 1 to 24, 0 background.

    Two codings are known. In DensePose's IUV maps, which the TikTok data set has, blue is the part's number, and green
    and red are u and v; grey pictures of numbers read alike. In DensePose's videos each part has one of COLORS, and
    the nearest one counts. Raises ValueError, one line without the picture's name, for another picture.
    """
    blue = picture[..., 2]
    if blue.max() <= PARTS:  # viridis' background alone has more
        return blue
    colours, pixels = COLORS.astype(np.float32), picture.reshape(-1, 3).astype(np.float32)
    apart = (colours**2).sum(1) - 2 * pixels @ colours.T  # less the pixel's own square, the same for all colours
    if np.mean(apart.min(1) + (pixels**2).sum(1) > NEAR**2) > 0.5:
        raise ValueError(f"no DensePose: blue is no part's number, 0 to {PARTS}, and colours are not viridis'")
    return apart.argmin(1).astype(np.uint8).reshape(blue.shape)


def read_mask(picture: np.ndarray) -> np.ndarray:
    """A figure's mask (H, W, 3) uint8, white on black, as `read_parts`: BODY and background."""
    return np.where(picture.max(-1) > 127, BODY, 0).astype(np.uint8)


def head_square(head: np.ndarray) -> np.ndarray:
    """The square about a face, left, top, right, bottom in shares of the picture (4,) float32, by which pixels (H, W)
    bool are the head's; NaN where none is.

    A head is as wide as most of its rows are: what stands up from it, a hat or an antenna, does not count.
    """
    rows = np.flatnonzero(head.any(1))
    if not len(rows):
        return np.full(4, np.nan, np.float32)
    height, width = head.shape
    wide = float(np.quantile(head[rows].sum(1), 0.75))
    face = head[max(0, int(rows[-1] + 1 - wide)) :].sum(0)
    x, y = (face * (np.arange(width) + 0.5)).sum() / face.sum(), rows[-1] + 1 - RAISED * wide
    half = AROUND * wide / 2
    square = (x - half) / width, (y - half) / height, (x + half) / width, (y + half) / height
    return np.array(square, np.float32)
