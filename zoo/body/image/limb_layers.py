"""Cut a figure into layers, one for each limb, so that each layer is whole where another one lies over it.

A pixel belongs to the nearest limb, measured in thicknesses of the limb. Between an arm and what lies behind it, color
decides (Rother et al. 2004, "GrabCut"): hands at the sides touch the trunk and the thighs, and bones alone would leave
fingers there and take cloth along. What an arm hides of the trunk and of the thighs is filled with their own colors.
"""

from collections.abc import Collection

import cv2
import numpy as np

from zoo.body.image.segmentation import MIN_ALPHA, Figure
from zoo.body.image_skeleton import JOINT_INDEX, LIMB_EXTENSION, LIMBS, TORSO_CORNERS

# Sizes below are fractions of the stature, or of a limb's thickness where it says so.
BELOW_NECK_FACTOR = 3.0  # distances from the head count so much more below the neck
TRUNK_THICKNESS = 0.035  # unit of the distance from the trunk
MIN_TRUNK_DISTANCE = 0.8  # of that thickness: the trunk's own pixels count as so far away from it
TRUNK_OVERLAP = 0.01  # pixels so close to the trunk's outline belong to it too, even under an arm
TRUNK_CAPS = {**dict.fromkeys(TORSO_CORNERS, 0.035), "neck": 0.07}  # radii of the trunk about its joints
END_CAP_RATIO = 0.75  # radius in which a limb covers its second joint, over that about its first
MIN_COMPONENT_RATIO = 0.1  # smallest area of a connected part of a limb, over its largest part
LIMB_EDGE_BLUR = 0.006  # blur of the limbs' edges
ARM_CORE = 0.45  # of an arm's thickness: pixels so close to its bones are certainly the arm's,
ARM_INIT = 1.0  # pixels so close to them are the first guess of it,
MAX_ARM_DISTANCES = 2.0, 1.2  # and pixels farther away, on the outer and the inner side, certainly are not
MAX_DISTANCE_RATIO = 2.0  # nor pixels that are so much nearer to another limb, in thicknesses of each
CLEAR_DISTANCE = 3.0  # of the other limb's thickness: so far away from it the nearest limb decides
SHOULDER_RADIUS = 0.05  # so close to the shoulder the nearest limb decides: sleeves and shirts have one color
ELBOW_RADIUS = 0.05  # so close to the elbow nothing is certain: a sleeve may hang there
GAP_WIDTH, GAP_ALPHA = 0.02, 0.6  # a gap so narrow between arm and body is transparent up to this alpha
HIDDEN_RADIUS = 0.08  # the outline behind a forearm or a hand is bridged with this radius
HAND_EXTENSION = 1.9  # distance of the fingertips from the wrist, over that of the knuckles
SIDES = ("left", "right")


def cut_limbs(figure: Figure, without: Collection[str] = ()) -> dict[str, np.ndarray]:
    """Layers (H, W, 4) uint8 of the limbs: premultiplied colors and alpha. They overlap at the joints.

    without: limbs that are no parts of their own; their pixels belong to the nearest other one.
    """
    alpha, joints, stature = figure.alpha, figure.joints, figure.stature
    is_figure = alpha > MIN_ALPHA
    x, y = pixel_grid(alpha.shape)
    trunk_distance = distance_to_trunk(x, y, joints)
    distances = _limb_distances(x, y, trunk_distance, joints, stature, without)
    arms = {side: [f"{side}_{part}" for part in ("upper_arm", "forearm")] for side in SIDES}
    arms = {side: names for side, names in arms.items() if all(name in distances for name in names)}
    arm_names = [name for names in arms.values() for name in names]
    body_names = [name for name in distances if name not in arm_names]
    body_distance = np.min([distances[name] for name in body_names], 0)
    is_arm, is_shoulder, masks = np.zeros(alpha.shape, bool), np.zeros(alpha.shape, bool), {}
    for side, names in arms.items():
        other_distance = np.min([body_distance, *(distances[name] for name in arm_names if name not in names)], 0)
        is_fixed = distance_to_joint(x, y, joints, f"{side}_shoulder") < SHOULDER_RADIUS * stature
        is_upper = distances[names[0]] < distances[names[1]]
        for name, is_part in zip(names, (is_upper, ~is_upper), strict=True):
            masks[name] = _separate_arm(
                figure.rgb,
                is_figure & is_part,
                distances[name],
                other_distance,
                is_fixed | ((trunk_distance == 0) & (other_distance < distances[name])),
                distance_to_joint(x, y, joints, f"{side}_elbow") > ELBOW_RADIUS * stature,
            )
            masks[name] = _drop_islands(masks[name], alpha)
            is_arm |= masks[name]
        is_shoulder |= is_fixed
    is_forearm = np.any([np.zeros(alpha.shape, bool), *(masks[names[1]] for names in arms.values())], 0)
    is_hidden = (is_arm & (trunk_distance < TRUNK_OVERLAP * stature)) | (
        is_forearm & _bridge_outline(is_figure & ~is_arm, stature)
    )
    is_body = (is_figure & ~is_arm) | is_hidden
    nearest = np.stack([distances[name] for name in body_names]).argmin(0)
    masks |= {name: is_body & (nearest == index) for index, name in enumerate(body_names)}
    body_rgb = _fill(figure.rgb, is_figure & ~is_arm, is_hidden & ~is_shoulder, stature)
    alpha = _sharpen_gaps(alpha, is_arm, is_figure & ~is_arm, stature)
    kernel_side = 2 * max(1, round(LIMB_EDGE_BLUR * stature)) + 1
    layers = {}
    for name in distances:
        mask, rgb = masks[name], figure.rgb if name in arm_names else body_rgb
        for joint, radius in _caps(name).items():
            is_own = is_arm if joint.endswith(("elbow", "wrist")) else is_figure if "shoulder" in joint else is_body
            mask = mask | (is_own & (distance_to_joint(x, y, joints, joint) < radius * stature))
        limb_alpha = (
            cv2.GaussianBlur(_remove_small_components(mask).astype(np.float32), (kernel_side, kernel_side), 0) * alpha
        )
        rgba = np.dstack([rgb * limb_alpha[..., None], 255 * limb_alpha])
        layers[name] = rgba.round().clip(0, 255).astype(np.uint8)
    return layers


def _limb_distances(
    x: np.ndarray,
    y: np.ndarray,
    trunk_distance: np.ndarray,
    joints: np.ndarray,
    stature: float,
    without: Collection[str],
) -> dict[str, np.ndarray]:
    """Distances (H, W) of the pixels from each limb, in thicknesses of the limb."""
    distances = {"torso": np.maximum(trunk_distance / (TRUNK_THICKNESS * stature), MIN_TRUNK_DISTANCE)}
    for name, (first, second, thickness, _) in LIMBS.items():
        if name not in without:
            a, b = joints[JOINT_INDEX[first]], joints[JOINT_INDEX[second]]
            side, limb = name.split("_", 1) if "_" in name else ("", name)
            distance = distance_to_segment(x, y, a, a + LIMB_EXTENSION.get(limb, 1.0) * (b - a))
            if limb == "head":  # the front of a shirt in profile is nearer to the neck than to the line of the trunk
                is_below = (x - a[0]) * (b[0] - a[0]) + (y - a[1]) * (b[1] - a[1]) < 0
                distance = np.where(is_below, BELOW_NECK_FACTOR * distance, distance)
            if limb == "forearm":
                fingertips = b + HAND_EXTENSION * (joints[JOINT_INDEX[f"{side}_hand"]] - b)
                distance = np.minimum(distance_to_segment(x, y, a, b), distance_to_segment(x, y, b, fingertips))
            distances[name] = distance / (thickness * stature)
    return distances


def _caps(name: str) -> dict[str, float]:
    """Radii about its joints in which a limb overlaps the next ones."""
    if name == "torso":
        return TRUNK_CAPS
    first, second, _, overlap_radius = LIMBS[name]
    return {first: overlap_radius, second: END_CAP_RATIO * overlap_radius}


def _separate_arm(
    rgb: np.ndarray,
    is_figure: np.ndarray,
    distance: np.ndarray,
    other_distance: np.ndarray,
    is_fixed: np.ndarray,
    has_core: np.ndarray,
) -> np.ndarray:
    """The pixels (H, W) bool of an arm, by the distances (H, W) from it and from the other limbs, and by color.

    The color models are those of the arm and of what is around it: of the trunk, the thighs, the gap between them.
    """
    # detectors place bones on the arm's inner edge: only their outer side, away from the other limbs, is certain
    is_outer = sum(a * b for a, b in zip(np.gradient(distance), np.gradient(other_distance), strict=True)) >= 0
    is_near = is_figure & (distance < np.where(is_outer, *MAX_ARM_DISTANCES))
    is_arm = is_figure & (distance < other_distance)
    is_core = (distance < ARM_CORE) & has_core & is_outer
    is_clear = (distance * MAX_DISTANCE_RATIO < other_distance) & (
        other_distance > CLEAR_DISTANCE
    )  # such as a wide sleeve of a raised arm
    is_open = is_near & (distance < MAX_DISTANCE_RATIO * other_distance) & ~(is_core | is_fixed | is_clear)
    if not is_open.any():
        return is_arm
    is_certain = is_figure & (~is_open | (is_arm & is_outer & (distance < ARM_INIT)))
    is_certain_arm = is_certain & is_arm & (is_near | is_clear)
    rows, columns = (np.flatnonzero(is_near.any(axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    if not (is_certain_arm[window].any() and (is_certain & ~is_certain_arm)[window].any()):
        return is_arm
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)  # GrabCut begins with random clusters
    labels = np.where(is_certain_arm, cv2.GC_FGD, cv2.GC_BGD)[window].astype(np.uint8)
    cv2.grabCut(_on_magenta(rgb, is_certain, window), labels, None, *models, 0, cv2.GC_INIT_WITH_MASK)
    labels[is_open[window]] = np.where(is_arm[window][is_open[window]], cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    cv2.grabCut(_on_magenta(rgb, is_figure, window), labels, None, *models, 1, cv2.GC_EVAL_FREEZE_MODEL)
    is_arm &= is_clear
    is_arm[window] |= np.isin(labels, (cv2.GC_FGD, cv2.GC_PR_FGD)) & is_figure[window]
    return is_arm


def _on_magenta(rgb: np.ndarray, mask: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """A window of the colors (H, W, 3) uint8, magenta where the mask (H, W) bool is not: no limb has this color."""
    return np.where(mask[..., None], rgb, (255, 0, 255))[window].round().clip(0, 255).astype(np.uint8)


def _sharpen_gaps(alpha: np.ndarray, is_arm: np.ndarray, is_body: np.ndarray, stature: float) -> np.ndarray:
    """The alpha (H, W), lower in narrow gaps between an arm and the body, where the detector's mask is blurred."""
    kernel = np.ones((2 * max(1, round(GAP_WIDTH * stature)) + 1,) * 2, np.uint8)
    is_between = (cv2.dilate(is_arm.astype(np.uint8), kernel) & cv2.dilate(is_body.astype(np.uint8), kernel)) > 0
    return np.where(is_between, ((alpha - GAP_ALPHA) / (1 - GAP_ALPHA)).clip(0, 1), alpha)


def _bridge_outline(mask: np.ndarray, stature: float) -> np.ndarray:
    """The mask (H, W) bool, closed where a hand cuts into its outline."""
    scale = min(1.0, 12 / (HIDDEN_RADIUS * stature))  # in pixels of a twelfth of the radius
    small = cv2.resize(mask.astype(np.uint8), None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
    radius = round(HIDDEN_RADIUS * stature * scale)
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
    closed = cv2.morphologyEx(small, cv2.MORPH_CLOSE, disc)
    return cv2.resize(closed.astype(np.float32), mask.shape[::-1], interpolation=cv2.INTER_LINEAR) > 0.5


def _fill(rgb: np.ndarray, is_known: np.ndarray, is_hole: np.ndarray, stature: float) -> np.ndarray:
    """Colors (H, W, 3), those of is_hole (H, W) bool from the nearest of is_known."""
    if not is_hole.any() or not is_known.any():
        return rgb
    margin = max(2, round(0.02 * stature))
    rows, columns = (np.flatnonzero(is_hole.any(axis)) for axis in (1, 0))
    window = tuple(slice(max(0, side[0] - margin), side[-1] + 1 + margin) for side in (rows, columns))
    kernel_side = 2 * max(1, round(LIMB_EDGE_BLUR * stature)) + 1  # pixels of the border are mixed
    is_core = cv2.erode(is_known[window].astype(np.uint8), np.ones((kernel_side, kernel_side), np.uint8))
    filled = cv2.inpaint(rgb[window].round().clip(0, 255).astype(np.uint8), 1 - is_core, 3, cv2.INPAINT_TELEA)
    result = rgb.copy()
    result[window] = np.where((is_hole[window] | (is_core == 0))[..., None], filled, rgb[window])
    return result


def _drop_islands(mask: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Drop regions of a mask (H, W) bool that only a gap, translucent by alpha (H, W), connects with it."""
    is_solid = mask & (alpha > GAP_ALPHA)
    return mask & ~(is_solid & ~_remove_small_components(is_solid))


def _remove_small_components(mask: np.ndarray) -> np.ndarray:
    """Drop small regions that are nearest to a limb but not connected with it."""
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if num_labels <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    large = np.flatnonzero(areas > MIN_COMPONENT_RATIO * areas[1:].max())
    return np.isin(labels, large[large > 0])


def pixel_grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows (H, W) float32 of the pixels' centers."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) + 0.5
    return x, y


def distance_to_joint(x: np.ndarray, y: np.ndarray, joints: np.ndarray, name: str) -> np.ndarray:
    """Distance of pixels to a joint."""
    return np.hypot(x - joints[JOINT_INDEX[name], 0], y - joints[JOINT_INDEX[name], 1])


def distance_to_segment(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of pixels to the line segment from a to b."""
    direction = b - a
    fraction = ((x - a[0]) * direction[0] + (y - a[1]) * direction[1]) / max(float(direction @ direction), 1e-6)
    fraction = fraction.clip(0, 1)
    return np.hypot(x - a[0] - fraction * direction[0], y - a[1] - fraction * direction[1])


def distance_to_trunk(x: np.ndarray, y: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Distance of pixels to the trunk's outline, 0 within."""
    corners = joints[[JOINT_INDEX[name] for name in TORSO_CORNERS]].astype(np.float32)
    trunk_mask = np.zeros(x.shape, np.uint8)
    cv2.fillConvexPoly(trunk_mask, cv2.convexHull(corners).round().astype(np.int32), 1)
    return cv2.distanceTransform(1 - trunk_mask, cv2.DIST_L2, 5)
