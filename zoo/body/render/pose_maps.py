"""Poses as images: colored limbs as OpenPose draws them, and one Gaussian heat map a joint."""

import cv2
import numpy as np

from zoo.body.skeleton import PARENTS

# hue of each joint (OpenCV, 0..180): around the color wheel along the limbs, left and right apart. A limb has the hue
# of its second joint.
_HUES = {0: 0, 3: 8, 6: 14, 9: 20, 12: 26, 15: 150}
_HUES |= {13: 34, 16: 42, 18: 50, 20: 58, 22: 64, 1: 92, 4: 100, 7: 108, 10: 116}
_HUES |= {14: 178, 17: 172, 19: 166, 21: 160, 23: 156, 2: 128, 5: 134, 8: 140, 11: 146}
_HSV = np.array([[[_HUES[joint], 255, 255] for joint in range(24)]], np.uint8)
_COLORS = cv2.cvtColor(_HSV, cv2.COLOR_HSV2RGB)[0].tolist()
LIMB_BRIGHTNESS = 0.7  # over its joint's


def draw_skeleton(joints2d: np.ndarray, height: int, width: int) -> np.ndarray:
    """Colored limbs on black, antialiased. joints2d (24, 2) pixels, or (F, 24, 2) -> (H, W, 3) uint8, or (F, H, W, 3)

    Joints that are not finite are left out with their limbs.
    """
    if joints2d.ndim == 3:
        return np.stack([draw_skeleton(frame, height, width) for frame in joints2d])
    image = np.zeros((height, width, 3), np.uint8)
    thickness = max(1, round(min(height, width) / 80))
    is_finite = np.isfinite(joints2d).all(1)
    # cv2 counts from pixel centers, with 4 binary places; far points are clipped to its range
    points = np.round((np.where(is_finite[:, None], joints2d, 0).clip(-2e4, 2e4) - 0.5) * 16).astype(int)
    for joint, parent in enumerate(PARENTS):
        if parent >= 0 and is_finite[joint] and is_finite[parent]:
            limb_color = [int(LIMB_BRIGHTNESS * channel) for channel in _COLORS[joint]]
            cv2.line(image, points[parent].tolist(), points[joint].tolist(), limb_color, thickness, cv2.LINE_AA, 4)
    for joint in np.flatnonzero(is_finite):
        cv2.circle(image, points[joint].tolist(), thickness * 16, _COLORS[joint], -1, cv2.LINE_AA, 4)
    return image


def heatmaps(joints2d: np.ndarray, height: int, width: int, sigma: float = 1.5) -> np.ndarray:
    """One Gaussian of peak 1 a joint. joints2d (..., J, 2) and sigma in pixels of this size -> (..., J, H, W) float32

    Joints in another resolution are scaled by the caller. Joints that are not finite give zeros.
    """
    is_finite = np.isfinite(joints2d).all(-1)
    points = np.where(is_finite[..., None], joints2d, 0)
    x = np.exp(-np.square(np.arange(width) + 0.5 - points[..., 0, None]) / (2 * sigma**2))
    y = np.exp(-np.square(np.arange(height) + 0.5 - points[..., 1, None]) / (2 * sigma**2))
    return (y[..., :, None] * x[..., None, :] * is_finite[..., None, None]).astype(np.float32)
