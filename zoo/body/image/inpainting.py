"""Inpaint the background that a figure hides.

Wexler et al. 2007, "Space-time completion of video", for one image: from coarse to fine, each patch that touches the
hole is replaced by the most similar patch that does not, and overlapping patches are averaged. Similar patches are
searched sideways rather than up and down, because floors, lawns and walls continue sideways. At last the filled
pixels are shifted in brightness to join the hole's border without a step (Perez et al. 2003, "Poisson image editing").
"""

from collections.abc import Iterator

import cv2
import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import splu

PATCH_SIDE = 9  # pixels
BLEND_SIGMA = 2.0  # pixels: standard deviation of the Gaussian weights of overlapping patches
# (iterations, pixels between patches) of each pyramid level, coarse to fine; each has twice the resolution
LEVEL_SETTINGS = ((4, 2), (2, 3), (2, 4))
BORDER_RADIUS = 3  # pixels: colors are averaged over so much on either side of the hole's border
MAX_BORDER_STEP = 16  # grey levels: a larger step is an edge of something, and stays
SEARCH_ROW_RADIUS, SEARCH_COLUMN_RADIUS = 14, 40  # pixels: largest distance of the patch that is copied


def inpaint(image: np.ndarray, hole: np.ndarray, no_source: np.ndarray | None = None) -> np.ndarray:
    """Fill the pixels of hole (H, W) bool in an image (H, W, 3) uint8. 5,000 pixels take about a second.

    no_source: (H, W) bool, pixels that are not copied unless there are no others.
    """
    gaussian = cv2.getGaussianKernel(PATCH_SIDE, BLEND_SIGMA)
    blend_weights = (gaussian @ gaussian.T).astype(np.float32)[..., None]
    result = None
    for level, (num_iterations, grid_step) in zip(reversed(range(len(LEVEL_SETTINGS))), LEVEL_SETTINGS, strict=True):
        size = [max(1, side >> level) for side in image.shape[1::-1]]
        mask = cv2.resize(hole.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.01
        source_image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        if result is None:
            guide_image = cv2.inpaint(source_image, mask.astype(np.uint8), 3, cv2.INPAINT_TELEA).astype(np.float32)
        else:  # as blurred outside the hole as in it, so that patches can be compared
            guide_image = cv2.resize(result, size, interpolation=cv2.INTER_LINEAR)
        result = np.where(mask[..., None], guide_image, source_image).astype(np.float32)
        touches_hole = _touching_patches(mask)
        if touches_hole.all():
            continue
        excluded = touches_hole
        if no_source is not None:
            excluded = touches_hole | _touching_patches(
                cv2.resize(no_source.astype(np.float32), size, interpolation=cv2.INTER_AREA) > 0.5
            )
            if excluded.all():
                excluded = touches_hole
        on_grid = np.zeros_like(touches_hole)
        on_grid[::grid_step, ::grid_step] = on_grid[-1, ::grid_step] = on_grid[::grid_step, -1] = on_grid[-1, -1] = True
        for _ in range(num_iterations):
            weighted_sum = np.zeros((*mask.shape, 4), np.float32)  # of colors, and the sum of the weights
            matches = _nearest_patches(guide_image, excluded, np.argwhere(on_grid & touches_hole))
            for (y, x), (source_y, source_x) in matches:
                source_patch = result[source_y : source_y + PATCH_SIDE, source_x : source_x + PATCH_SIDE]
                patch_sum = weighted_sum[y : y + PATCH_SIDE, x : x + PATCH_SIDE]
                patch_sum[..., :3] += blend_weights * source_patch
                patch_sum[..., 3:] += blend_weights
            result[mask] = weighted_sum[mask, :3] / weighted_sum[mask, 3:]
            guide_image = result
    return (result + _border_correction(result, mask)).round().clip(0, 255).astype(np.uint8)


def _touching_patches(mask: np.ndarray) -> np.ndarray:
    """The patches, by their first corner, that touch a mask (H, W) bool."""
    half_side = PATCH_SIDE // 2
    touches = cv2.dilate(mask.astype(np.uint8), np.ones((PATCH_SIDE, PATCH_SIDE), np.uint8)) > 0
    return touches[half_side:-half_side, half_side:-half_side]


def _border_correction(image: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """What to add to a filled image (H, W, 3): the step at the border of hole (H, W) bool, harmonic within, 0 outside.

    The step is that between local means on either side of the border.
    """
    correction = np.zeros_like(image)
    if hole.all() or not hole.any():
        return correction
    side = 2 * BORDER_RADIUS + 1
    inside, outside = (
        cv2.blur(image * weight, (side, side)) / np.maximum(cv2.blur(weight, (side, side)), 1e-6)
        for weight in (np.repeat(mask.astype(np.float32)[..., None], 3, 2) for mask in (hole, ~hole))
    )
    is_border = hole & (cv2.erode(hole.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=(1.0,)) == 0)
    # Laplace's equation: a pixel within the hole is the mean of its neighbors, one on the border has the step
    index = np.full(hole.shape, -1)
    index[hole] = np.arange(hole.sum())
    rows, columns, values = [index[hole]], [index[hole]], [np.ones(hole.sum())]
    for axis in (0, 1):
        for first, second in ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))):
            here, there = ((slice(None),) * axis + (part,) for part in (first, second))
            is_pair = hole[here] & hole[there] & ~is_border[here]
            rows.append(index[here][is_pair])
            columns.append(index[there][is_pair])
            values.append(np.full(is_pair.sum(), -1.0))
    matrix = coo_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))).tocsc()
    num_neighbors = -np.asarray(matrix.sum(1)).ravel() + 1
    matrix.setdiag(np.where(is_border[hole], 1.0, num_neighbors))
    step = outside - inside
    step[~is_border | (np.abs(step).max(-1) > MAX_BORDER_STEP)] = 0
    correction[hole] = splu(matrix).solve(step[hole].astype(np.float64))
    return correction


def _nearest_patches(
    image: np.ndarray, excluded: np.ndarray, corners: np.ndarray
) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
    """The corner (y, x) of each patch to fill, and the corner of the most similar patch that is not excluded."""
    rows, columns = excluded.shape
    # (row, column) radii that are tried in this order, until the search area has a patch that can be copied
    search_radii = ((SEARCH_ROW_RADIUS, SEARCH_COLUMN_RADIUS), (SEARCH_ROW_RADIUS, columns), (rows, columns))
    for corner in corners:
        y, x = corner
        for row_radius, column_radius in search_radii:
            top, left = max(0, y - row_radius), max(0, x - column_radius)
            bottom, right = y + row_radius + 1, x + column_radius + 1
            is_excluded = excluded[top:bottom, left:right]
            if not is_excluded.all():
                break
        patch = image[y : y + PATCH_SIDE, x : x + PATCH_SIDE]
        area = image[top : bottom + PATCH_SIDE - 1, left : right + PATCH_SIDE - 1]
        distance = np.where(is_excluded, np.inf, cv2.matchTemplate(area, patch, cv2.TM_SQDIFF))
        best_row, best_column = np.unravel_index(distance.argmin(), distance.shape)
        yield corner, (top + int(best_row), left + int(best_column))
