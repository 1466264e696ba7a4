"""From a detector's soft mask to the alpha channel of a figure."""

import cv2
import numpy as np

MASK_RANGE = (0.2, 0.8)  # values of a detector's mask up to which a pixel is background, and from which it is figure
COARSE_MASK_SIDE = 192  # pixels: masks of the synthetic detector (128 pixels) are too coarse for larger images
GRABCUT_ITERATIONS = 3


def mask_to_alpha(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: 0 below and 1 above MASK_RANGE, linear within."""
    return np.clip((mask - MASK_RANGE[0]) / (MASK_RANGE[1] - MASK_RANGE[0]), 0, 1)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The mask without regions that are not connected with its largest one, such as a ball or a bystander."""
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(np.uint8(mask > MASK_RANGE[0]))
    return mask * (labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])) if num_labels > 1 else mask


def refine_mask(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Move the mask's edge to the edges of the image (Rother et al. 2004, "GrabCut"), within its uncertain band.

    image (H, W, 3) uint8, mask (H, W) in [0, 1] -> (H, W) float32 in [0, 1]
    """
    labels = np.where(mask > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    kernel_side = 2 * max(1, round(max(mask.shape) / COARSE_MASK_SIDE)) + 1
    kernel = np.ones((kernel_side, kernel_side), np.uint8)
    labels[cv2.erode(np.uint8(mask > 0.9), kernel) > 0] = cv2.GC_FGD
    labels[cv2.dilate(np.uint8(mask > 0.1), kernel) == 0] = cv2.GC_BGD
    if (labels == cv2.GC_FGD).any():
        color_models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(image[..., ::-1].copy(), labels, None, *color_models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    return cv2.GaussianBlur(np.float32(np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))), (3, 3), 0)
