"""Cutting a figure out of a picture, and standing it in another one (DabFusion sec. 4.4).

The edge of a cut-out is soft, and what is seen through it is the figure's own colour, not the old background's:
Germer et al. 2020, "Fast multi-level foreground estimation", in the short form of Forte 2021, "Approximate fast
foreground colour estimation", with box blurs.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from zoo.body.detection.blazepose import MIN_SCORE, Landmarks
from zoo.body.detection.blazepose_detector import EARS, TO_JOINTS, PeopleDetector, PoseDetector

MAIN = 1.5  # times as large as the next person: then it is the one who is meant
LONGEST = 2048  # pixels; a figure is drawn far smaller
SURE = (0.2, 0.8)  # a detector's mask below is background, above is figure
BLURS = (0.1, 0.02)  # of the figure's stature: from how far away a colour is fetched
PURE = 4  # power of alpha that weighs a colour: what is mixed teaches little about what it is mixed of
CHAIN = 0.852  # ears to ankles along the joints, over a standing human's height (measured on the world's: +- 0.006)
REACH = 1.4  # the tallest figure, arms up, over its stature; a chain that says less was foreshortened
SOLE = 0.05  # of the stature: so high above the lowest point is on the floor
CUT = {"feet": 0.13, "head": 0.09, "side": 0.05}  # of the stature: what is cut there is wider, on photographs cut so
BEYOND = 0.02  # of the stature: so far a joint may lie beyond the edge
HEAD, HANDS, FEET = slice(0, 11), slice(15, 23), slice(27, 33)  # BlazePose's points
EYES, LIMBS = (2, 5), [*range(11, 17), *range(23, 29)]
NECK_JOINT, HEAD_JOINT = 12, 15  # of SMPL's
UP, LEGS = ((0, 12), (12, 15)), ((1, 4), (4, 7))  # SMPL's joints from pelvis to head; hip, knee and ankle, left ones
JOINT_CHAIN = 0.875  # their lengths over the stature, in SMPL's mean body
COARSE = 192  # pixels: an outline that is found in 128 is too coarse for a larger picture
STRIDE = 0.2  # of the stature: what is wider on the floor is two feet


@dataclass(frozen=True)
class Cutout:
    """A figure without its background, cropped to itself: it touches all four edges."""

    rgb: np.ndarray  # (H, W, 3) float32 in [0, 255], the figure's own colours, also where it is half transparent
    alpha: np.ndarray  # (H, W) float32 in [0, 1]
    stature: float  # pixels: how tall it would be standing upright


def from_alpha(rgba: np.ndarray) -> Cutout:
    """What is opaque in (H, W, 4) uint8, taken to stand upright. Raises ValueError when nothing is."""
    rgba = _shrunk(rgba)
    alpha = np.float32(rgba[..., 3]) / 255
    rows = np.flatnonzero((alpha > 0.5).any(1))
    if not len(rows):
        raise ValueError("all of it is transparent; nobody is in it")
    return _crop(np.float32(rgba[..., :3]), alpha, float(rows[-1] + 1 - rows[0]))


@dataclass(frozen=True)
class Figure:
    """A person found in a picture (H, W), of which all is to be seen."""

    rgb: np.ndarray  # (H, W, 3) float32 in [0, 255], the person's own colours, also where it is half transparent
    alpha: np.ndarray  # (H, W) float32 in [0, 1]
    image: np.ndarray  # (H, W, 3) uint8: the picture
    joints: np.ndarray  # (24, 2) pixels
    sure: float  # in [0, 1]: how surely arms and legs are seen
    stature: float  # pixels: how tall it would be standing upright


def cut_out(image: np.ndarray, detector: PoseDetector) -> Cutout:
    """The one person in (H, W, 3) uint8, see `find_figure` and, of other detectors, `seen_figure`."""
    figure = (find_figure if isinstance(detector, PeopleDetector) else seen_figure)(image, detector)
    return _crop(figure.rgb, figure.alpha, figure.stature)


def find_figure(image: np.ndarray, detector: PeopleDetector, longest: int = LONGEST) -> Figure:
    """The one person in (H, W, 3) uint8, or the main one: `MAIN` times as large as any other.

    longest: pixels of the picture's longer side, to which it is shrunk first. Raises ValueError, one line without the
    picture's name, for nobody, for several, and for one who is cut off.
    """
    image = _shrunk(image, longest)
    found = [(person, *detector.look(image, person)) for person in detector.find_people(image)]
    found = [each for each in found if each[1].presence >= MIN_SCORE]
    if not found:
        raise ValueError(
            "no person was found in it; use a picture whose height one person fills to a quarter or more, "
            "or a png whose background is transparent"
        )
    sizes = [float(np.linalg.norm(person.region.up)) for person, _, _ in found]
    main = int(np.argmax(sizes))
    if sum(size * MAIN > sizes[main] for size in sizes) > 1:
        raise ValueError(f"{len(found)} people are in it, none clearly the main one; crop it to one person")
    _, landmarks, mask = found[main]
    mask = _largest_piece(mask)
    tall = _stature(landmarks.points)
    _check_whole(landmarks, mask, tall)
    alpha = np.clip((mask - SURE[0]) / (SURE[1] - SURE[0]), 0, 1)
    height = float(np.ptp(np.flatnonzero((alpha > 0.5).any(1)))) + 1
    tall = max(tall, height / REACH)
    joints = (TO_JOINTS @ landmarks.points).astype(np.float32)
    joints[HEAD_JOINT] = _upright(landmarks.points, *joints[[NECK_JOINT, HEAD_JOINT]], tall)
    sure = float(landmarks.visibility[LIMBS].mean())
    return Figure(_own_colours(np.float32(image), alpha, tall), alpha, image, joints, sure, tall)


def seen_figure(image: np.ndarray, detector: PoseDetector, longest: int = LONGEST, sure: float = 0.0) -> Figure:
    """The one figure that any detector sees in (H, W, 3) uint8, its outline made finer where the detector's is coarse.

    Raises ValueError where it sees none, is less sure of its joints than `sure` in the mean, or sees feet cut off.
    """
    image = _shrunk(image, longest)
    found = detector.detect(image[None])
    joints, mask = found.joints[0], _largest_piece(found.mask[0])
    if not np.isfinite(joints).all() or found.confidence[0].mean() < sure:
        raise ValueError(f"{detector.name} sees no figure in it")
    if max(image.shape[:2]) > COARSE:
        mask = _finer(image, mask)
    tall = stature_of(joints)
    if (mask[-1] > 0.5).sum() > CUT["feet"] * tall:
        raise ValueError("the feet of the figure in it are cut off; use a picture that shows the whole body")
    alpha = np.clip((mask - SURE[0]) / (SURE[1] - SURE[0]), 0, 1)
    return Figure(_own_colours(np.float32(image), alpha, tall), alpha, image, joints, 1.0, tall)


def stature_of(joints: np.ndarray) -> float:
    """How tall a figure would be standing upright, pixels, by its joints (24, 2)."""
    chain = [np.linalg.norm(joints[a] - joints[b]) for a, b in UP]
    legs = [max(np.linalg.norm(joints[a + side] - joints[b + side]) for side in (0, 1)) for a, b in LEGS]
    return float(sum(chain) + sum(legs)) / JOINT_CHAIN


def place(cutout: Cutout, side: int, foot: np.ndarray, stature: float) -> tuple[np.ndarray, np.ndarray]:
    """A cut-out scaled to `stature` pixels in a square picture, its lowest point at foot (2,), its middle above it.

    It is drawn smaller, or moved aside, where else it would not fit. -> colours times alpha (side, side, 3) float32 in
    [0, 255], alpha (side, side) float32 in [0, 1]
    """
    height, width = cutout.alpha.shape
    scale = min(stature / cutout.stature, foot[1] / height, side / width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    shrinks = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    drawn = np.dstack([cutout.rgb * cutout.alpha[..., None], cutout.alpha])
    drawn = cv2.resize(drawn, size, interpolation=shrinks)
    share = np.cumsum(drawn[..., 3].sum(0))
    middle = int(np.searchsorted(share, share[-1] / 2))
    left = int(np.clip(round(foot[0]) - middle, 0, side - size[0]))
    top = max(0, round(foot[1]) - size[1])
    picture = np.zeros((side, side, 4), np.float32)
    picture[top : top + size[1], left : left + size[0]] = drawn[: side - top]
    return picture[..., :3], picture[..., 3]


def soles(alpha: np.ndarray, stature: float) -> list[float]:
    """The columns at which a figure (H, W) stands on the floor."""
    inside = alpha > 0.5
    rows = np.flatnonzero(inside.any(1))
    if not len(rows):
        return []
    standing = inside[max(0, int(rows[-1] + 1 - SOLE * stature)) :].any(0)
    edges = np.flatnonzero(np.diff(standing, prepend=False, append=False)).reshape(-1, 2)
    columns = []
    for left, right in edges:
        shares = (0.5,) if right - left < STRIDE * stature else (0.2, 0.8)
        columns += [float(left + share * (right - left)) for share in shares]
    return columns


def _shrunk(image: np.ndarray, longest: int = LONGEST) -> np.ndarray:
    """At most `longest` pixels a side."""
    scale = longest / max(image.shape[:2])
    return image if scale >= 1 else cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)


def _largest_piece(mask: np.ndarray) -> np.ndarray:
    """A mask without what hangs together with the figure nowhere: a ball, somebody behind."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(np.uint8(mask > SURE[0]))
    return mask * (pieces == 1 + np.argmax(stats[1:, cv2.CC_STAT_AREA])) if count > 1 else mask


def _finer(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """A mask whose edge follows the picture's (Rother et al. 2004, "GrabCut"), within where it was unsure."""
    kinds = np.where(mask > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    reach = 2 * max(1, round(max(mask.shape) / COARSE)) + 1
    around = np.ones((reach, reach), np.uint8)
    kinds[cv2.erode(np.uint8(mask > 0.9), around) > 0] = cv2.GC_FGD
    kinds[cv2.dilate(np.uint8(mask > 0.1), around) == 0] = cv2.GC_BGD
    if (kinds == cv2.GC_FGD).any():
        cv2.grabCut(
            image[..., ::-1].copy(), kinds, None, np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK
        )
    return cv2.GaussianBlur(np.float32(np.isin(kinds, (cv2.GC_FGD, cv2.GC_PR_FGD))), (3, 3), 0)


def _upright(points: np.ndarray, neck: np.ndarray, head: np.ndarray, stature: float) -> np.ndarray:
    """The head's place, over the neck at right angles to the line of BlazePose's eyes and ears, where these are apart.

    Else `head`. So a head that is held upright over a leaning trunk is taken to be upright.
    """
    line = points[EYES[0]] - points[EYES[1]] + points[EARS[0]] - points[EARS[1]]
    if np.linalg.norm(line) < 0.06 * stature:
        return head
    up = np.array([line[1], -line[0]]) / np.linalg.norm(line)
    return neck + np.linalg.norm(head - neck) * (up if up[1] < 0 else -up)


def _check_whole(landmarks: Landmarks, mask: np.ndarray, stature: float) -> None:
    """Raises ValueError for a figure of which more than a trifle is beyond the picture, and for hidden feet."""
    width = mask.shape[1]
    inside = mask > 0.5
    top, bottom, *sides = (edge.sum() / stature for edge in (inside[0], inside[-1], inside[:, 0], inside[:, -1]))
    lowest = (landmarks.points[FEET, 1].max() - len(mask)) / stature
    whole = "use a picture that shows the whole body"
    if bottom > CUT["feet"] or lowest > BEYOND or landmarks.visibility[FEET].max() < 0.5:
        raise ValueError(f"the feet of the person in it are cut off or hidden; {whole}")
    if top > CUT["head"] or landmarks.points[HEAD, 1].min() < 0:
        raise ValueError(f"the head or a raised hand of the person in it is cut off; {whole}")
    hands = landmarks.points[HANDS, 0]
    if max(sides) > CUT["side"] or hands.min() < -BEYOND * stature or hands.max() > width + BEYOND * stature:
        raise ValueError(f"the person in it is cut off at the side; {whole}")


def _stature(points: np.ndarray) -> float:
    """Pixels from BlazePose's points (33, 2): raised arms and bent knees do not change it."""
    ears, shoulders, hips = (points[[low, low + 1]].mean(0) for low in (7, 11, 23))
    hip, knee, ankle = points[23:25], points[25:27], points[27:29]
    legs = [np.linalg.norm(low - high, axis=1).max() for low, high in ((knee, hip), (ankle, knee))]
    chain = np.linalg.norm(ears - shoulders) + np.linalg.norm(shoulders - hips) + sum(legs)
    return float(chain) / CHAIN


def _own_colours(image: np.ndarray, alpha: np.ndarray, stature: float) -> np.ndarray:
    """The figure's colours (H, W, 3) at every pixel: image = alpha own + (1 - alpha) background, solved nearby."""
    alpha = alpha[..., None]
    own = behind = image
    for blur in BLURS:
        side = 2 * max(1, round(blur * stature)) + 1
        own, behind = _near(own, alpha**PURE, side), _near(behind, (1 - alpha) ** PURE, side)
        own = np.clip(own + alpha * (image - alpha * own - (1 - alpha) * behind), 0, 255)
    return own


def _near(colours: np.ndarray, weight: np.ndarray, side: int) -> np.ndarray:
    """Mean of colours (H, W, 3) by weight (H, W, 1) in the square of `side` pixels about each pixel."""
    total = cv2.blur(weight, (side, side))[..., None]
    return cv2.blur(colours * weight, (side, side)) / np.maximum(total, 1e-9)


def _crop(rgb: np.ndarray, alpha: np.ndarray, stature: float) -> Cutout:
    inside = alpha > 0.5
    rows, columns = (np.flatnonzero(inside.any(axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return Cutout(rgb[window], alpha[window], stature)
