"""Cut a figure out of an image, and paste it into another one (DabFusion sec. 4.4).

The edge of a cutout is soft, and its semi-transparent pixels have the figure's own color instead of a mixture with the
old background: Germer et al. 2020, "Fast multi-level foreground estimation", in the short form of Forte 2021,
"Approximate fast foreground colour estimation", with box blurs.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np

from zoo.body.detection.base import PoseDetector

MIN_ALPHA = 0.02  # of the figure's pixels
MAX_IMAGE_SIDE = 2048  # pixels; figures are drawn far smaller
BLUR_RADII = (0.1, 0.02)  # of the stature: distances from which colors are taken, coarse to fine
WEIGHT_EXPONENT = 4  # exponent of alpha as the weight of a color: mixed pixels say little about the figure's own color
SOLE_HEIGHT = 0.05  # of the stature: height above the lowest point up to which the figure touches the floor
MAX_FOOT_WIDTH = 0.2  # of the stature: wider contacts with the floor are two feet


@dataclass(frozen=True)
class Cutout:
    """A figure without its background, cropped so that it touches all four edges."""

    rgb: np.ndarray  # (H, W, 3) float32 in [0, 255]: the figure's own colors, also of semi-transparent pixels
    alpha: np.ndarray  # (H, W) float32 in [0, 1]
    stature: float  # pixels: its height when standing upright
    note: str | None = None  # see SegmentedFigure


@dataclass(frozen=True)
class Figure:
    """The one figure of an image (H, W)."""

    rgb: np.ndarray  # (H, W, 3) float32 in [0, 255]: the figure's own colors, also of semi-transparent pixels
    alpha: np.ndarray  # (H, W) float32 in [0, 1]
    image: np.ndarray  # (H, W, 3) uint8: the image
    joints: np.ndarray  # (24, 2) pixels
    quality: float  # in [0, 1]: visibility of arms and legs
    stature: float  # pixels: its height when standing upright
    note: str | None = None  # see SegmentedFigure, as the next four
    cut_row: float | None = None
    cut_sides: tuple[str, ...] = ()
    visible_arms: tuple[str, ...] = ("left", "right")
    other_people: np.ndarray | None = None
    has_still_legs: bool = False  # the legs are shown, but do not move: cut_row is the floor


def from_alpha(rgba: np.ndarray) -> Cutout:
    """The opaque part of an image (H, W, 4) uint8, assumed to stand upright. Raises ValueError if there is none."""
    rgba = _shrink(rgba, MAX_IMAGE_SIDE)
    alpha = np.float32(rgba[..., 3]) / 255
    rows = np.flatnonzero((alpha > 0.5).any(1))
    if not len(rows):
        raise ValueError("the image is completely transparent")
    return _crop(np.float32(rgba[..., :3]), alpha, float(rows[-1] + 1 - rows[0]))


def extract_figure(
    image: np.ndarray,
    detector: PoseDetector,
    max_side: int = MAX_IMAGE_SIDE,
    min_confidence: float = 0.0,
    half_body: bool = False,
) -> Figure:
    """Segment the one figure of an image (H, W, 3) uint8 and estimate its own colors.

    max_side: the image is first shrunk to so many pixels on its longer side. min_confidence, half_body, and the
    ValueError that is raised: see `PoseDetector.segment_figure`.
    """
    image = _shrink(image, max_side)
    segmented = detector.segment_figure(image, min_confidence, half_body)
    rgb = _foreground_colors(np.float32(image), segmented.alpha, segmented.stature)
    return Figure(rgb=rgb, image=image, **vars(segmented))


def extract_cutout(image: np.ndarray, detector: PoseDetector) -> Cutout:
    """The one figure of an image (H, W, 3) uint8, see `extract_figure`."""
    figure = extract_figure(image, detector)
    return replace(_crop(figure.rgb, figure.alpha, figure.stature), note=figure.note)


def paste_cutout(cutout: Cutout, side: int, foot: np.ndarray, stature: float) -> tuple[np.ndarray, np.ndarray]:
    """Scale a cutout to `stature` pixels and place its lowest point at foot (2,), its median column above it.

    It is drawn smaller, or moved sideways, if it would not fit. -> premultiplied colors (side, side, 3) float32 in
    [0, 255], alpha (side, side) float32 in [0, 1]
    """
    height, width = cutout.alpha.shape
    scale = min(stature / cutout.stature, foot[1] / height, side / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    layer = np.dstack([cutout.rgb * cutout.alpha[..., None], cutout.alpha])
    layer = cv2.resize(layer, size, interpolation=interpolation)
    cumulative = np.cumsum(layer[..., 3].sum(0))
    median = int(np.searchsorted(cumulative, cumulative[-1] / 2))
    left = int(np.clip(round(foot[0]) - median, 0, side - size[0]))
    top = max(0, round(foot[1]) - size[1])
    canvas = np.zeros((side, side, 4), np.float32)
    canvas[top : top + size[1], left : left + size[0]] = layer[: side - top]
    return canvas[..., :3], canvas[..., 3]


def ground_contacts(alpha: np.ndarray, stature: float) -> list[float]:
    """The columns at which a figure's alpha (H, W) touches the floor, for its contact shadows."""
    is_opaque = alpha > 0.5
    rows = np.flatnonzero(is_opaque.any(1))
    if not len(rows):
        return []
    soles = is_opaque[max(0, int(rows[-1] + 1 - SOLE_HEIGHT * stature)) :].any(0)
    edges = np.flatnonzero(np.diff(soles, prepend=False, append=False)).reshape(-1, 2)
    contacts = []
    for left, right in edges:
        fractions = (0.5,) if right - left < MAX_FOOT_WIDTH * stature else (0.2, 0.8)
        contacts += [float(left + fraction * (right - left)) for fraction in fractions]
    return contacts


def _shrink(image: np.ndarray, max_side: int) -> np.ndarray:
    """The image with at most `max_side` pixels a side."""
    scale = max_side / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _foreground_colors(image: np.ndarray, alpha: np.ndarray, stature: float) -> np.ndarray:
    """Estimate the figure's colors (H, W, 3) at every pixel.

    Solves image = alpha foreground + (1 - alpha) background, where both vary slowly.
    """
    alpha = alpha[..., None]
    foreground = background = image
    for radius in BLUR_RADII:
        side = 2 * max(1, round(radius * stature)) + 1
        foreground = _weighted_blur(foreground, alpha**WEIGHT_EXPONENT, side)
        background = _weighted_blur(background, (1 - alpha) ** WEIGHT_EXPONENT, side)
        residual = image - alpha * foreground - (1 - alpha) * background
        foreground = np.clip(foreground + alpha * residual, 0, 255)
    return foreground


def _weighted_blur(colors: np.ndarray, weight: np.ndarray, side: int) -> np.ndarray:
    """Mean of colors (H, W, 3), weighted by (H, W, 1), in the square of `side` pixels around each pixel."""
    total = cv2.blur(weight, (side, side))[..., None]
    return cv2.blur(colors * weight, (side, side)) / np.maximum(total, 1e-9)


def _crop(rgb: np.ndarray, alpha: np.ndarray, stature: float) -> Cutout:
    """Crop a figure to its opaque pixels."""
    is_opaque = alpha > 0.5
    rows, columns = (np.flatnonzero(is_opaque.any(axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return Cutout(rgb[window], alpha[window], stature)
