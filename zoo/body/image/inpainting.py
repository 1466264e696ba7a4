"""What was behind a figure, made up from the picture around it.

Wexler et al. 2007, "Space-time completion of video", of one picture: from coarse to fine, each patch that touches the
hole is replaced by the one most like it that does not, and where patches overlap they are averaged. What is like it is
looked for beside it rather than above or below: grass goes on as grass, a wall as a wall.
"""

from collections.abc import Iterator

import cv2
import numpy as np

SIDE = 9  # pixels of a patch
CORE = 2.0  # pixels: deviation of the Gaussian by which overlapping patches are averaged
LEVELS = ((4, 2), (2, 3), (2, 4))  # from the coarsest, each twice as fine: rounds, and pixels between patches
NEAR = (14, 40)  # rows and columns away in which a patch is looked for


def filled(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 with what (H, W) bool hides made up. Takes a second for each 5,000 hidden pixels."""
    kernel = cv2.getGaussianKernel(SIDE, CORE)
    core = np.float32(kernel @ kernel.T)[..., None]
    made = None
    for level, (rounds, step) in zip(reversed(range(len(LEVELS))), LEVELS, strict=True):
        size = [max(1, side >> level) for side in image.shape[1::-1]]
        gone = cv2.resize(np.float32(hole), size, interpolation=cv2.INTER_AREA) > 0.01
        seen = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if made is None:
            like = np.float32(cv2.inpaint(seen, np.uint8(gone), 3, cv2.INPAINT_TELEA))
        else:
            like = cv2.resize(made, size, interpolation=cv2.INTER_LINEAR)  # all as coarse, to be compared
        made = np.where(gone[..., None], like, seen).astype(np.float32)
        # patches, by their first corner, that touch the hole
        half = SIDE // 2
        touches = cv2.dilate(np.uint8(gone), np.ones((SIDE, SIDE), np.uint8))[half:-half, half:-half] > 0
        if touches.all():
            continue
        wanted = np.zeros_like(touches)
        wanted[::step, ::step] = wanted[-1, ::step] = wanted[::step, -1] = wanted[-1, -1] = True
        for _ in range(rounds):
            total = np.zeros((*gone.shape, 4), np.float32)
            for (row, column), (y, x) in _likest(like, touches, np.argwhere(wanted & touches)):
                sum_ = total[row : row + SIDE, column : column + SIDE]
                sum_[..., :3] += core * made[y : y + SIDE, x : x + SIDE]
                sum_[..., 3:] += core
            made[gone] = total[gone, :3] / total[gone, 3:]
            like = made
    return made.round().clip(0, 255).astype(np.uint8)


def _likest(
    image: np.ndarray, touches: np.ndarray, corners: np.ndarray
) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """Each corner (y, x) of a patch, and that of the one most like it that does not touch the hole."""
    rows, columns = touches.shape
    for corner in corners:
        y, x = corner
        reaches = ((*NEAR,), (NEAR[0], columns), (rows, columns))  # farther where there is none
        for up, aside in reaches:
            top, left, bottom, right = max(0, y - up), max(0, x - aside), y + up + 1, x + aside + 1
            no = touches[top:bottom, left:right]
            if not no.all():
                break
        patch = image[y : y + SIDE, x : x + SIDE]
        area = image[top : bottom + SIDE - 1, left : right + SIDE - 1]
        apart = np.where(no, np.inf, cv2.matchTemplate(area, patch, cv2.TM_SQDIFF))
        best = np.unravel_index(apart.argmin(), apart.shape)
        yield corner, (top + int(best[0]), left + int(best[1]))
