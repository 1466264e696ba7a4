"""From a detector's soft mask to the alpha channel of a figure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from zoo.body.image_skeleton import JOINT_INDEX, LIMB_EXTENSION, LIMBS, TORSO_CORNERS, stature_from_joints

MASK_RANGE = (0.2, 0.8)  # values of a detector's mask up to which a pixel is background, and from which it is figure
COARSE_MASK_SIDE = 192  # pixels: side at which the uncertain band of the synthetic detector's masks is 3 pixels wide
MIN_GRABCUT_SIDE = 384  # pixels: smaller images are enlarged for GrabCut
GRABCUT_ITERATIONS = 3
MIN_HOLE_ALPHA = 0.15  # mean alpha of an enclosed hole that is the figure's; gaps between limbs are surer (below 0.1)
HOLE_EDGE = 9  # pixels, odd: a filled hole's surroundings so wide are opaque too
SURE_DISTANCE = 0.07  # of the stature: so near to a body the detector's mask decides, where no other mask shows it
MAX_BODY_DISTANCE = 0.12  # of the stature: in a group, a pixel farther from a body is rather not of it
OWN_THICKNESS = 0.6  # of a limb's thickness: in a group, a pixel so close to a visible bone is certainly of that person
HEAD_WIDTH = 2.0  # widths of a face: a head with its hair
BONE_THICKNESS = 0.15  # of a limb's thickness: so close to its bone a pixel is certainly figure,
MIN_BONE_MASK = 0.05  # where the detector's mask has at least this value


def mask_to_alpha(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32 in [0, 1]: 0 below and 1 above MASK_RANGE, linear within."""
    return np.clip((mask - MASK_RANGE[0]) / (MASK_RANGE[1] - MASK_RANGE[0]), 0, 1)


def fill_uncertain_holes(alpha: np.ndarray) -> np.ndarray:
    """Alpha (H, W) in [0, 1] with holes filled that the figure encloses, where the detector is not sure of them."""
    is_hole = (alpha < 0.5).astype(np.uint8)
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(is_hole, connectivity=4)
    sums = np.bincount(labels.ravel(), alpha.ravel(), num_labels)
    last_column, last_row = alpha.shape[1] - 1, alpha.shape[0] - 1
    right, bottom = stats[:, 0] + stats[:, 2] - 1, stats[:, 1] + stats[:, 3] - 1
    is_enclosed = (stats[:, 0] > 0) & (stats[:, 1] > 0) & (right < last_column) & (bottom < last_row)
    is_filled = is_enclosed & (sums > MIN_HOLE_ALPHA * stats[:, cv2.CC_STAT_AREA])
    is_filled[0] = False  # the figure itself
    if not is_filled.any():
        return alpha
    # pixels around a hole are as uncertain
    is_around = cv2.dilate(is_filled[labels].astype(np.uint8), np.ones((HOLE_EDGE, HOLE_EDGE), np.uint8)) > 0
    is_inside = cv2.erode((np.where(is_filled[labels], 1, alpha) > 0.5).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return np.where(is_filled[labels] | (is_around & is_inside), 1, alpha).astype(alpha.dtype)


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
    _grab_cut(image, labels)
    is_figure = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD))
    num_components, components, stats, _ = cv2.connectedComponentsWithStats(is_figure.astype(np.uint8))
    if num_components > 1:
        on_bones = np.unique(components[bones & is_figure])
        is_figure = np.isin(components, [*on_bones[on_bones > 0], 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])])
    refined = cv2.GaussianBlur(is_figure.astype(np.float32), (3, 3), 0)
    return cv2.resize(refined, (width, height), interpolation=cv2.INTER_AREA)


def separate_people(image: np.ndarray, masks: Sequence[np.ndarray], bodies: Sequence["Body"]) -> list[np.ndarray]:
    """Masks of several people, in which no pixel belongs to two: a detector's mask of one shows parts of the others.

    A pixel on a visible limb may be of that person, one on the head or trunk is not of another one, one on a face is of
    that person alone, and one near the body that no other mask shows is of that person. The others begin with the
    person whose body is nearest, and GrabCut moves the borders to the edges of the image. Masks that no other person
    touches stay as they are.

    image (H, W, 3) uint8, masks (H, W) in [0, 1] -> one mask for each
    """
    shape = image.shape[:2]
    heads = [body.draw_face(shape, HEAD_WIDTH) for body in bodies]
    hidden = []  # pixels of each person behind another's detected face or its hair
    for index, body in enumerate(bodies):
        others = [head for position, head in enumerate(heads) if position != index]
        hidden.append(np.any([np.zeros(shape, bool), *others], 0) & ~body.draw_face(shape))
    areas = [body.draw(shape) & ~behind for body, behind in zip(bodies, hidden, strict=True)]
    # without arms: hidden ones are often detected on the person before them
    cores = [body.draw(shape, with_limbs=False) & ~behind for body, behind in zip(bodies, hidden, strict=True)]
    distances = np.stack(
        [
            cv2.distanceTransform((~area).astype(np.uint8), cv2.DIST_L2, 5) / body.stature
            for area, body in zip(areas, bodies, strict=True)
        ]
    )
    separated = []
    for index, (mask, area) in enumerate(zip(masks, areas, strict=True)):
        is_figure = mask > MASK_RANGE[0]
        other_cores = np.any([~area & core for position, core in enumerate(cores) if position != index], 0)
        others = np.delete(distances, index, 0).min(0)
        other_areas = np.any([~area & other for position, other in enumerate(areas) if position != index], 0)
        if not (is_figure & other_areas).any() or not (is_figure & area).any():
            separated.append(mask)
            continue
        other_masks = np.max([other for position, other in enumerate(masks) if position != index], 0)
        is_near = distances[index] < MAX_BODY_DISTANCE
        is_only_own = (other_masks < MASK_RANGE[0]) & (mask > MASK_RANGE[1])
        is_own = is_near & ((distances[index] < others) | is_only_own)
        labels = np.where(is_figure & is_own, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
        labels[is_near & is_only_own] = cv2.GC_FGD
        labels[~is_figure | other_cores] = cv2.GC_BGD
        labels[is_figure & area & (others > 0)] = cv2.GC_FGD
        labels[(mask > MASK_RANGE[1]) & heads[index] & ~hidden[index]] = cv2.GC_FGD
        _grab_cut(image, labels)
        is_person = np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)) | (
            (distances[index] < SURE_DISTANCE) & (other_masks < MASK_RANGE[0])
        )
        separated.append(mask * cv2.GaussianBlur(is_person.astype(np.float32), (5, 5), 0))
    return separated


@dataclass(frozen=True)
class Body:
    """A person's joints in an image, and which of them are visible."""

    joints: np.ndarray  # (24, 2) pixels
    is_visible: np.ndarray  # (24,) bool
    stature: float  # pixels
    face: tuple[np.ndarray, float] | None = None  # center (2,) and width, pixels, of a detected one

    def draw_face(self, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
        """(H, W) bool: a disc about the face's center, `scale` times as wide as its box."""
        image = np.zeros(shape, np.uint8)
        if self.face is not None:
            center, width = self.face
            cv2.circle(image, (center * 8).astype(int).tolist(), round(scale * width * 4), (1,), -1, cv2.LINE_8, 3)
        return image > 0

    def draw(self, shape: tuple[int, ...], with_limbs: bool = True) -> np.ndarray:
        """(H, W) bool: face, trunk, head and the visible arms and legs, OWN_THICKNESS of their thickness wide."""
        image, joints = np.zeros(shape, np.uint8), self.joints.copy()
        neck, head = JOINT_INDEX["neck"], JOINT_INDEX["head"]
        joints[head] = joints[neck] + LIMB_EXTENSION["head"] * (joints[head] - joints[neck])  # to the top of the head
        visible_limbs = [
            limb
            for name, limb in LIMBS.items()
            if (with_limbs or name == "head") and all(self.is_visible[JOINT_INDEX[joint]] for joint in limb[:2])
        ]
        _draw_limbs(image, joints, visible_limbs, OWN_THICKNESS * self.stature)
        corners = [JOINT_INDEX[name] for name in TORSO_CORNERS]
        if self.is_visible[corners[:2]].all():
            cv2.fillConvexPoly(image, (self.joints[corners] * 8).astype(np.int32), (1,), cv2.LINE_8, 3)
        return (image > 0) | self.draw_face(shape)


def _grab_cut(image: np.ndarray, labels: np.ndarray) -> None:
    """GrabCut of an image (H, W, 3) uint8 from labels (H, W), which are changed in place if there are both kinds."""
    is_figure = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if is_figure.all() or not is_figure.any():
        return
    foreground_model, background_model = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # GrabCut begins with random clusters
    cv2.grabCut(
        image[..., ::-1].copy(),
        labels,
        (0, 0, 0, 0),
        background_model,
        foreground_model,
        GRABCUT_ITERATIONS,
        cv2.GC_INIT_WITH_MASK,
    )


def _draw_bones(shape: tuple[int, ...], joints: np.ndarray) -> np.ndarray:
    """(H, W) bool: lines along the limbs, BONE_THICKNESS of a limb's thickness wide. joints (24, 2) pixels"""
    image = np.zeros(shape, np.uint8)
    _draw_limbs(image, joints, LIMBS.values(), BONE_THICKNESS * stature_from_joints(joints))
    return image > 0


def _draw_limbs(
    image: np.ndarray, joints: np.ndarray, limbs: Iterable[tuple[str, str, float, float]], pixels: float
) -> None:
    """Draw limbs with value 1, in place. pixels: half the width of a limb of thickness 1."""
    for first, second, thickness, _ in limbs:
        ends = (joints[[JOINT_INDEX[first], JOINT_INDEX[second]]] * 8).round().astype(int)  # eighths of a pixel
        width = max(1, round(2 * thickness * pixels))
        cv2.line(image, ends[0].tolist(), ends[1].tolist(), (1,), width, cv2.LINE_8, 3)
