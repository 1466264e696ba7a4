"""The shadow under a figure's feet: separated from the floor of an image, and drawn where the feet are in a frame.

The floor without shadow is inpainted. The shadow is the factor by which the image is darker than that floor, so that
floor and shadow together reproduce the image. It is accepted only where the inpainted floor agrees with the image
around it; long shadows of low lights are left where they are.
"""

from dataclasses import dataclass

import cv2
import numpy as np

# of the stature, except where noted
ELLIPSE_AXES = (0.5, 0.16)  # half axes (x, y) of the area about the soles that may hold the shadow
FADE_START = 0.8  # of the half axes: from here to the border the shadow fades out
BLUR_SIGMA = 0.012
MAX_ATTENUATION_UNDER_FEET = 0.92  # a lighter area under the feet is no shadow
MAX_BORDER_ERROR = 0.06  # difference from 1 of the attenuation near the border, on average
MIN_ATTENUATION = 0.25
SOLE_AREA = 0.4  # of the half axes: the area in which the shadow is looked for
FEET_DISTANCE_MARGIN = 0.15  # added to the distance of the feet, which scales the width of the shadow
WIDTH_RANGE = (0.75, 1.6)  # of a moved shadow, over the pictured one
MIXED_MARGIN = 0.03  # pixels so close to the figure may be mixed with its colors
HIDDEN_RADII = (0.14, 0.03)  # (x, y): what the feet hide is as dark as the darkest floor so close to it
HALF_STRENGTH_HEIGHT = 0.12  # a jump so high halves the shadow


@dataclass(frozen=True)
class Shadow:
    """A shadow as a factor of the floor's brightness, and the feet that cast it."""

    attenuation: np.ndarray  # (h, w) float32 in (0, 1], 1 at the border
    corner: np.ndarray  # (2,) column and row of its first pixel in the image
    center: np.ndarray  # (2,) pixels (x, y): middle of the soles on the floor
    feet_distance: float  # pixels, horizontal
    stature: float  # pixels

    def draw(self, frame: np.ndarray, center: np.ndarray, feet_distance: float, height: float) -> None:
        """Darken a frame (H, W, 3) uint8, in place, under feet whose middle is at `center` on the floor.

        feet_distance: pixels between the feet; the shadow is as much wider. height: of the lower foot above the floor,
        pixels; the shadow fades with it.
        """
        margin = FEET_DISTANCE_MARGIN * self.stature
        stretch = float(np.clip((feet_distance + margin) / (self.feet_distance + margin), *WIDTH_RANGE))
        strength = 1 / (1 + max(height, 0.0) / (HALF_STRENGTH_HEIGHT * self.stature))
        # the map from the shadow's box to the frame
        stretch_xy = np.array([stretch, 1.0])
        shadow_start = center + (self.corner - self.center) * stretch_xy
        window_start = np.floor(shadow_start).astype(int).clip(0)
        window_stop = np.ceil(shadow_start + np.array(self.attenuation.shape[::-1]) * stretch_xy).astype(int)
        window_stop = np.minimum(window_stop, frame.shape[1::-1])
        width, height_in_pixels = window_stop - window_start
        if width <= 0 or height_in_pixels <= 0:
            return
        offset = shadow_start - window_start + 0.5 * stretch_xy - 0.5  # pixel centres lie at integers
        matrix = np.array([[stretch, 0, offset[0]], [0, 1, offset[1]]])
        window_size = int(width), int(height_in_pixels)
        attenuation = cv2.warpAffine(self.attenuation, matrix, window_size, flags=cv2.INTER_LINEAR, borderValue=1.0)
        window = frame[window_start[1] : window_stop[1], window_start[0] : window_stop[0]]
        window[:] = (window * (1 - strength * (1 - attenuation))[..., None]).round().astype(np.uint8)


def shadow_area(shape: tuple[int, int], center: np.ndarray, stature: float) -> np.ndarray:
    """Distance (H, W) float32 from `center` in half axes of the ellipse that may hold a shadow: 1 on its border."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) + 0.5
    radii = stature * np.array(ELLIPSE_AXES)
    return np.hypot((x - center[0]) / radii[0], (y - center[1]) / radii[1])


def shadow_fading(distance: np.ndarray) -> np.ndarray:
    """1 inside the area of a shadow, falling to 0 towards its border. distance: see `shadow_area`."""
    fading = ((1 - distance) / (1 - FADE_START)).clip(0, 1)
    return fading * fading * (3 - 2 * fading)


def separate_shadow(
    image: np.ndarray,
    floor: np.ndarray,
    figure_mask: np.ndarray,
    center: np.ndarray,
    feet_distance: float,
    stature: float,
) -> Shadow | None:
    """The shadow of an image (H, W, 3) uint8 about `center`; None where there is none, or where it cannot be told.

    floor: the image without figure and without all of `shadow_area`, inpainted. figure_mask: (H, W) bool, pixels that
    show the figure. center, feet_distance, stature: pixels, see `Shadow`.
    """
    distance = shadow_area(image.shape[:2], center, stature)
    area_rows, area_columns = np.nonzero(distance < 1)
    if not len(area_rows):
        return None
    box = slice(area_rows.min(), area_rows.max() + 1), slice(area_columns.min(), area_columns.max() + 1)
    kernel = np.ones((2 * max(1, round(MIXED_MARGIN * stature)) + 1,) * 2, np.uint8)
    distance, figure_mask = distance[box], cv2.dilate(figure_mask[box].astype(np.uint8), kernel) > 0
    brightness, floor_brightness = (colors[box].astype(np.float32).mean(-1) + 1 for colors in (image, floor))
    is_floor = (~figure_mask).astype(np.float32)
    sigma = max(1.0, BLUR_SIGMA * stature)
    weight = cv2.GaussianBlur(is_floor, (0, 0), sigma)
    brightness_ratio = cv2.GaussianBlur(is_floor * brightness / floor_brightness, (0, 0), sigma) / weight.clip(1e-3)
    is_under_feet = (distance < SOLE_AREA) & ~figure_mask
    is_border = (distance > FADE_START) & (distance < 1) & ~figure_mask
    if not is_under_feet.any() or not is_border.any():
        return None
    border_error = np.abs(brightness_ratio[is_border] - 1).mean()
    if brightness_ratio[is_under_feet].mean() > MAX_ATTENUATION_UNDER_FEET or border_error > MAX_BORDER_ERROR:
        return None
    brightness_ratio = np.where(figure_mask, 1, brightness_ratio.clip(MIN_ATTENUATION, 1))
    kernel_size = [2 * max(1, round(radius * stature)) + 1 for radius in HIDDEN_RADII]
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, kernel_size)
    # behind the feet: as dark as beside them
    brightness_ratio = np.where(figure_mask, cv2.erode(brightness_ratio, kernel), brightness_ratio)
    brightness_ratio = cv2.GaussianBlur(brightness_ratio, (0, 0), sigma)
    attenuation = 1 - shadow_fading(distance) * (1 - brightness_ratio)
    corner = np.array([area_columns.min(), area_rows.min()], float)
    return Shadow(attenuation.astype(np.float32), corner, np.asarray(center, float), feet_distance, stature)
