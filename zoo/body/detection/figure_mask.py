"""From a detector's soft mask to the alpha channel of a figure."""

import cv2
import numpy as np

from zoo.body.image_skeleton import JOINT_INDEX, LIMBS, stature_from_joints

MASK_RANGE = (0.2, 0.8)  # values of a detector's mask up to which a pixel is background, and from which it is figure
COARSE_MASK_SIDE = 192  # pixels: side at which the uncertain band of the synthetic detector's masks is 3 pixels wide
MIN_GRABCUT_SIDE = 384  # pixels: smaller images are enlarged for GrabCut
GRABCUT_ITERATIONS = 3
BONE_THICKNESS = 0.15  # of a limb's thickness: so close to its bone a pixel is certainly figure,
MIN_BONE_MASK = 0.05  # where the detector's mask has at least this value


def mask_to_alpha(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: 0 below and 1 above MASK_RANGE, linear within."""
    return np.clip((mask - MASK_RANGE[0]) / (MASK_RANGE[1] - MASK_RANGE[0]), 0, 1)


def largest_component(mask: np.ndarray) -> np.ndarray:
    """The mask without regions that are not connected with its largest one, such as a ball or a bystander."""
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats((mask > MASK_RANGE[0]).astype(np.uint8))
    return mask * (labels == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])) if num_labels > 1 else mask


def refine_mask(image: np.ndarray, mask: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Move the mask's edge to the edges of the image (Rother et al. 2004, "GrabCut"), within its uncertain band.

    Small images are enlarged for it. Pixels on the bones between the joints are figure, and regions of the mask that
    are neither its largest nor on a bone are dropped: a ball or a bystander, but not a forearm behind a gap.

    image (H, W, 3) uint8, mask (H, W) in [0, 1], joints (24, 2) pixels -> (H, W) float32 in [0, 1]
    """
    height, width = mask.shape
    scale = max(1.0, MIN_GRABCUT_SIDE / max(height, width))
    size = round(width * scale), round(height * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    mask = cv2.resize(mask, size, interpolation=cv2.INTER_LINEAR)
    bones = _draw_bones(mask.shape, joints * scale)
    labels = np.where(mask > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    kernel_side = 2 * max(1, round(max(mask.shape) / COARSE_MASK_SIDE)) + 1
    kernel = np.ones((kernel_side, kernel_side), np.uint8)
    labels[cv2.dilate((mask > MASK_RANGE[0]).astype(np.uint8), kernel) == 0] = cv2.GC_BGD
    labels[(cv2.erode((mask > 0.9).astype(np.uint8), kernel) > 0) | (bones & (mask > MIN_BONE_MASK))] = cv2.GC_FGD
    if (labels == cv2.GC_FGD).any() and (labels == cv2.GC_BGD).any():
        color_models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.setRNGSeed(0)  # GrabCut begins with random clusters
        cv2.grabCut(image[..., ::-1].copy(), labels, None, *color_models, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
    is_figure = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    num_components, components, stats, _ = cv2.connectedComponentsWithStats(is_figure.astype(np.uint8))
    if num_components > 1:
        on_bones = np.unique(components[bones & is_figure])
        is_figure = np.isin(components, [*on_bones[on_bones > 0], 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])])
    refined = cv2.GaussianBlur(is_figure.astype(np.float32), (3, 3), 0)
    return cv2.resize(refined, (width, height), interpolation=cv2.INTER_AREA)


def _draw_bones(shape: tuple[int, int], joints: np.ndarray) -> np.ndarray:
    """(H, W) bool: lines along the limbs, BONE_THICKNESS of a limb's thickness wide. joints (24, 2) pixels"""
    stature, image = stature_from_joints(joints), np.zeros(shape, np.uint8)
    for first, second, thickness, _ in LIMBS.values():
        ends = (joints[[JOINT_INDEX[first], JOINT_INDEX[second]]] * 8).round().astype(int)  # eighths of a pixel
        width = max(1, round(2 * BONE_THICKNESS * thickness * stature))
        cv2.line(image, tuple(ends[0].tolist()), tuple(ends[1].tolist()), 1, width, cv2.LINE_8, 3)
    return image > 0
