"""A pictured person as a puppet: a mesh that bends at the joints, as rigidly as it can, over what was behind.

No network but the detector's: the person is found and cut out (`zoo.body.image.segmentation`), each pixel belongs to the limb it is
nearest to, limbs are joined at their joints (`zoo.body.image.arap`), and what the body hid is made up from around it
(`zoo.body.image.inpainting`). A dance is fitted to the pictured body: its limbs' lengths, the floor it stands on, the side it
shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from zoo.body.detection.blazepose_detector import PeopleDetector, PoseDetector
from zoo.body.image.arap import Join, Limb, Mesh
from zoo.body.image.inpainting import filled
from zoo.body.image.segmentation import Figure, find_figure, seen_figure
from zoo.body.skeleton import FEET, FOOT_HEIGHTS, JOINTS, OFFSETS, PARENTS, STANDING, forward_kinematics

J = {name: index for index, name in enumerate(JOINTS)}
SEES = 0.2  # the world's judge is so sure of the joints of a figure of the world; of photographs it is 0.05
LONGEST = 720  # pixels of the longer side of what is drawn
SMPL_STATURE = 1.66  # m, of a body of OFFSETS, from the soles to the top of the head
TORSO = ("left_shoulder", "right_shoulder", "right_hip", "left_hip")
# limbs: from joint, to joint; half their thickness, and the radius about the first joint in which they overlap what
# they hang on, as shares of the stature
LIMBS = {
    "head": ("neck", "head", 0.07, 0.05),
    **{
        f"{side}_{name}": (f"{side}_{first}", f"{side}_{second}", thick, cap)
        for side in ("left", "right")
        for name, first, second, thick, cap in (
            ("thigh", "hip", "knee", 0.06, 0.075),
            ("shin", "knee", "ankle", 0.045, 0.045),
            ("sole", "ankle", "foot", 0.04, 0.03),
            ("upper_arm", "shoulder", "elbow", 0.05, 0.04),
            ("forearm", "elbow", "wrist", 0.033, 0.033),
        )
    },
}
HINGES = {first for first, *_ in LIMBS.values()}  # joints about which limbs bend
HANGS = {second: name for name, (_, second, *_) in LIMBS.items()}  # the limb that ends in a joint
BEYOND = {"head": 1.6, "forearm": 1.6, "sole": 1.3}  # a limb reaches so many times as far as its joints
ON_TORSO = 0.8  # a pixel between hips and shoulders is a limb's where it is nearer than so many of its thicknesses
LENGTHS = (0.8, 1.3)  # of the mean body's: what a limb's length in the picture is believed
STRETCH, WIDTH = (0.3, 1.6), (0.75, 1.2)  # of what is seen of a limb along it, of the trunk across
SIDEWAYS = np.radians(35)  # a picture shows one side of a person: so far the dance may turn it
TILT = 0.12  # how much higher a metre farther away is seen, in metres: the camera looks down a little
BEGINNING = 0.8  # s in which the dance takes over from the pictured pose
MARGIN = 0.32  # of the stature: what a dancer's arms take on either side
BACKDROP = 150  # pixels of the stature in which the background is filled in
CELL = 0.022  # of the stature: between the mesh's nodes
HOLD = 0.75  # of a limb's thickness: what is so near to its bone goes where that goes
PIN, BENT = 0.4, 0.35  # a joint is a pin of so many thicknesses, and takes at most so much of a limb to bend in
BEND = 0.05  # of the stature: in which the trunk gives about a joint
FEATHER = 0.006  # of the stature: how softly limbs end in each other


@dataclass(frozen=True)
class Puppet:
    """A person as a mesh, and the picture without it."""

    background: np.ndarray  # (H, W, 3) uint8
    mesh: Mesh
    joints: np.ndarray  # (24, 2) pixels: the pictured pose
    stature: float  # pixels
    floor: float  # the row it stands on
    offsets: torch.Tensor  # (24, 3) pixels: its skeleton at rest
    fit: float  # in [0, 1]: how surely all limbs are seen, and how near their lengths are to a person's


def make_puppet(image: np.ndarray, detector: PoseDetector, longest: int = LONGEST) -> Puppet:
    """From a picture (H, W, 3) uint8 of one whole figure. Sides of what is drawn are even.

    Raises ValueError, one line without the picture's name, as `find_figure` and, of other detectors, `seen_figure`.
    """
    real = isinstance(detector, PeopleDetector)
    figure = find_figure(image, detector, longest) if real else seen_figure(image, detector, longest, SEES)
    height, width = (side // 2 * 2 for side in figure.alpha.shape)
    joints, stature = figure.joints, figure.stature
    offsets, believed = limb_offsets(joints, stature)
    feet = joints[list(FEET), 1] + np.array(FOOT_HEIGHTS) * stature / SMPL_STATURE
    return Puppet(
        _without(figure)[:height, :width],
        _mesh(figure),
        joints,
        stature,
        float(feet.max()),
        offsets,
        figure.sure * believed,
    )


class Stage2D:
    """A puppet's dance, frame after frame; what comes next depends on what was."""

    def __init__(self, puppet: Puppet, fps: float):
        self.puppet, self.fps = puppet, fps
        self.scale = puppet.stature / SMPL_STATURE  # pixels a metre
        self.shown, self.origin = 0, None

    def joints(self, rotations: torch.Tensor, root: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Where consecutive poses are to be seen: pixels (F, 24, 2), and how far away (F, 24), in pixels.

        rotations (F, 24, 3, 3) local, root (F, 3) metres, at the stage's rate. Called once for each frame, in order.
        """
        puppet = self.puppet
        rotations, root = rotations.double(), root.double()
        plain = forward_kinematics(rotations, root, OFFSETS.double())
        rotations = rotations.clone()
        rotations[:, 0] = _turned(
            rotations[:, 0], puppet.joints[J["left_shoulder"], 0] < puppet.joints[J["right_shoulder"], 0]
        )
        if self.origin is None:
            self.origin = root[0, :2].clone()
        at = root.clone()
        at[:, :2] = (root[:, :2] - self.origin) * self.scale
        middle = float(puppet.joints[0, 0])
        room = min(middle, puppet.background.shape[1] - middle) - MARGIN * puppet.stature
        reach = max(room, 0.06 * puppet.stature)
        at[:, :2] = reach * torch.tanh(at[:, :2] / reach)
        placed = forward_kinematics(rotations, at, puppet.offsets.double())
        # a foot is as high above the floor as the dancer's is, whatever the lengths of the legs
        low = (plain[:, FEET, 2] - torch.tensor(FOOT_HEIGHTS)).amin(1) * self.scale
        sole = torch.tensor(FOOT_HEIGHTS) * self.scale
        placed[..., 2] += (low - (placed[:, FEET, 2] - sole).amin(1))[:, None]
        x, y, z = placed.unbind(-1)
        flat = torch.stack([middle + x, puppet.floor - z - TILT * y], -1).numpy()
        times = (self.shown + np.arange(len(flat))) / self.fps
        self.shown += len(flat)
        return _begun(puppet.joints, flat, np.clip(times / BEGINNING, 0, 1)), y.numpy()

    def draw(self, joints: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Frames (F, H, W, 3) uint8 of poses as `joints` says them."""
        return np.stack([self._frame(*pose) for pose in zip(joints, depth, strict=True)])

    def _frame(self, joints: np.ndarray, depth: np.ndarray) -> np.ndarray:
        puppet, frame = self.puppet, self.puppet.background.copy()
        puppet.mesh.draw(frame, puppet.mesh.bent(moved(puppet, joints)), drawing_order(joints, depth))
        return frame


def moved(puppet: Puppet, joints: np.ndarray) -> dict[str, np.ndarray]:
    """Each limb's affine map (2, 3) from the picture to a frame in which its joints are at (24, 2).

    Limbs keep their thickness, and hang together: where one may not be stretched as far as it is asked to, what hangs
    on it comes along.
    """
    seen = puppet.joints
    old, new = (each[[J[name] for name in TORSO]] for each in (seen, joints))
    moves = {"torso": _trunk(old, new)}
    parts = {J[name]: "torso" for name in (*TORSO, "neck")}
    for name, (first, second, *_) in LIMBS.items():
        a, b = seen[J[first]], seen[J[second]]
        start = _apply(moves[parts[J[first]]], a)
        way = joints[J[second]] - joints[J[first]]
        moves[name] = _limb(a, b, start, way, STRETCH if name != "head" else (0.85, 1.15))
        parts[J[second]] = name
    return moves


def drawing_order(joints: np.ndarray, depth: np.ndarray) -> list[str]:
    """Limbs from the farthest to the nearest: a limb is before or behind the trunk, as its end is."""
    trunk = depth[[J[name] for name in TORSO]].mean()
    hips = joints[[J["left_hip"], J["right_hip"]], 1].mean()
    behind, before = [], []
    for side in ("left", "right"):
        reach = depth[[J[f"{side}_elbow"], J[f"{side}_wrist"]]].mean()
        arm = [f"{side}_upper_arm", f"{side}_forearm"]
        (behind if reach > trunk else before).append((reach, arm))
        near = depth[[J[f"{side}_knee"], J[f"{side}_ankle"]]].mean()
        raised = joints[J[f"{side}_knee"], 1] < hips and near < trunk
        (before if raised else behind).append((near, [f"{side}_sole", f"{side}_shin", f"{side}_thigh"]))
    order = [name for _, names in sorted(behind, key=lambda one: -one[0]) for name in names]
    order += ["torso", "head"]
    return order + [name for _, names in sorted(before, key=lambda one: -one[0]) for name in names]


# cutting -------------------------------------------------------------------------------------------------------------


def _regions(alpha: np.ndarray, joints: np.ndarray, stature: float) -> dict[str, np.ndarray]:
    """Each limb's share (H, W) float32 of the figure, overlapping at the joints."""
    inside = alpha > 0.02
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]].astype(np.float32) + 0.5
    names, apart = ["torso"], [np.maximum(_off_trunk(x, y, joints) / (0.035 * stature), ON_TORSO)]
    for name, (first, second, thick, _) in LIMBS.items():
        a, b = joints[J[first]], joints[J[second]]
        reach = BEYOND.get(name.split("_")[-1], 1.0)
        names.append(name)
        apart.append(_off_line(x, y, a, a + reach * (b - a)) / (thick * stature))
    owner = np.stack(apart).argmin(0)
    regions = {}
    for index, name in enumerate(names):
        own = inside & (owner == index)
        if name == "torso":
            own |= inside & (_off_trunk(x, y, joints) < 0.01 * stature)  # also beneath an arm that lies on it
            for joint, cap in (*((corner, 0.035) for corner in TORSO), ("neck", 0.07)):
                own |= inside & (np.hypot(x - joints[J[joint], 0], y - joints[J[joint], 1]) < cap * stature)
        else:
            for joint, cap in ((LIMBS[name][0], LIMBS[name][3]), (LIMBS[name][1], 0.75 * LIMBS[name][3])):
                own |= inside & (np.hypot(x - joints[J[joint], 0], y - joints[J[joint], 1]) < cap * stature)
        regions[name] = _largest(own)
    blur = 2 * max(1, round(FEATHER * stature)) + 1
    return {name: cv2.GaussianBlur(np.float32(own), (blur, blur), 0) * alpha for name, own in regions.items()}


def _largest(own: np.ndarray) -> np.ndarray:
    """Without crumbs that are nearest to a limb and no part of it."""
    count, pieces, stats, _ = cv2.connectedComponentsWithStats(np.uint8(own))
    if count <= 2:
        return own
    large = np.flatnonzero(stats[:, cv2.CC_STAT_AREA] > 0.1 * stats[1:, cv2.CC_STAT_AREA].max())
    return np.isin(pieces, large[large > 0])


def _off_line(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of pixels to the line from a to b."""
    way = b - a
    along = ((x - a[0]) * way[0] + (y - a[1]) * way[1]) / max(float(way @ way), 1e-6)
    along = along.clip(0, 1)
    return np.hypot(x - a[0] - along * way[0], y - a[1] - along * way[1])


def _off_trunk(x: np.ndarray, y: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Distance of pixels to the trunk's outline, 0 within."""
    corners = joints[[J[name] for name in TORSO]].astype(np.float32)
    shape = np.uint8(np.zeros(x.shape))
    cv2.fillConvexPoly(shape, cv2.convexHull(corners).round().astype(np.int32), 1)
    return cv2.distanceTransform(1 - shape, cv2.DIST_L2, 5)


def _mesh(figure: Figure) -> Mesh:
    """The figure's limbs, joined at joints. What is near its bone holds each, but for where it bends about a joint."""
    alpha, joints, stature = figure.alpha, figure.joints, figure.stature
    cell = CELL * stature
    y, x = np.mgrid[: alpha.shape[0], : alpha.shape[1]].astype(np.float32) + 0.5
    limbs, joins = {}, []
    for name, region in _regions(alpha, joints, stature).items():
        pixels = np.dstack([figure.rgb * region[..., None], 255 * region]).round().clip(0, 255).astype(np.uint8)
        if name == "torso":
            held, bends, thick = _off_trunk(x, y, joints) == 0, TORSO, BEND * stature
        else:
            first, second, thick, cap = LIMBS[name]
            a, b = joints[J[first]], joints[J[second]]
            bends, thick = (first, second), min(thick * stature, BENT * float(np.linalg.norm(b - a)))
            held = _off_line(x, y, a, b) < max(HOLD * LIMBS[name][2] * stature, 0.8 * cell)
            joins.append(Join(name, HANGS.get(first, "torso"), a, cap * stature + 1.5 * cell))
        for joint in bends:
            if joint in HINGES:
                away = np.hypot(x - joints[J[joint], 0], y - joints[J[joint], 1])
                held = (held & (away > thick)) | (away < max(PIN * thick, 0.8 * cell))
        limbs[name] = Limb(pixels, held)
    return Mesh(limbs, joins, cell)


def _without(figure: Figure) -> np.ndarray:
    """The picture with what was behind the figure made up from around it."""
    image, inside = figure.image, np.uint8(figure.alpha > 0.02)
    reach = 2 * max(2, round(0.02 * figure.stature)) + 1
    # what is so near may be mixed with the figure's colours: nothing is made of it, but it stays where it can
    hidden, near = (cv2.dilate(inside, np.ones((side, side), np.uint8)) for side in (reach, 2 * reach // 3 | 1))
    scale = min(1.0, BACKDROP / figure.stature)
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    gone = cv2.resize(np.float32(hidden), size, interpolation=cv2.INTER_AREA) > 0.01
    made_up = cv2.resize(filled(small, gone), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    share = np.maximum(cv2.GaussianBlur(np.float32(near), (reach, reach), 0), inside)[..., None]
    return (image * (1 - share) + made_up * share).round().clip(0, 255).astype(np.uint8)


# fitting -------------------------------------------------------------------------------------------------------------


def limb_offsets(joints: np.ndarray, stature: float) -> tuple[torch.Tensor, float]:
    """The mean skeleton in pixels with the picture's lengths of limbs, and how believable these were, in [0, 1].

    A limb is as long as the longer of the two sides' is seen, since what points at the viewer looks short.
    """
    scale = stature / SMPL_STATURE
    offsets, shares = OFFSETS * scale, []
    for child, name in enumerate(JOINTS):
        if name.startswith(("left", "right")) and name.split("_")[1] in ("knee", "ankle", "elbow", "wrist"):
            other = J[name.replace("left", "x").replace("right", "left").replace("x", "right")]
            seen = max(np.linalg.norm(joints[one] - joints[PARENTS[one]]) for one in (child, other))
            share = seen / float(offsets[child].norm())
            shares.append(np.exp(-max(0.0, abs(np.log(share)) - 0.25)))
            offsets[child] = offsets[child] * float(np.clip(share, *LENGTHS))
    return offsets, float(np.mean(shares))


def _turned(root: torch.Tensor, from_behind: bool) -> torch.Tensor:
    """Root rotations (F, 3, 3) whose dancer shows the side that is pictured: turns become sways, half turns nothing."""
    front = root @ (STANDING.T.to(root) @ torch.tensor([0.0, -1.0, 0.0]).to(root))
    heading = torch.atan2(front[:, 0], -front[:, 1])
    change = SIDEWAYS * torch.sin(heading) - heading + (np.pi if from_behind else 0)
    zero, cos, sin = torch.zeros_like(change), change.cos(), change.sin()
    spin = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))
    return spin @ root


def _begun(start: np.ndarray, poses: np.ndarray, way: np.ndarray) -> np.ndarray:
    """From the pictured pose (24, 2) into the dance (F, 24, 2): each bone turns the shorter way; way (F,) in [0, 1]."""
    weight = (way * way * (3 - 2 * way))[:, None]
    made = np.empty_like(poses)
    made[:, 0] = start[0] * (1 - weight) + poses[:, 0] * weight
    for joint, parent in enumerate(PARENTS[1:], 1):
        old, new = start[joint] - start[parent], poses[:, joint] - poses[:, parent]
        angle = np.arctan2(old[1], old[0])
        turn = np.arctan2(new[:, 1], new[:, 0]) - angle
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        length = np.linalg.norm(old) * (1 - weight[:, 0]) + np.linalg.norm(new, axis=1) * weight[:, 0]
        angle = angle + turn * weight[:, 0]
        made[:, joint] = made[:, parent] + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return made


# moving --------------------------------------------------------------------------------------------------------------


def _apply(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    return matrix[:, :2] @ point + matrix[:, 2]


def _axes(way: np.ndarray) -> np.ndarray:
    """(2, 2): columns are the unit vector along, and the one to its right."""
    along = way / max(float(np.linalg.norm(way)), 1e-6)
    return np.array([[along[0], -along[1]], [along[1], along[0]]])


def _between(old: np.ndarray, new: np.ndarray, stretch: Sequence[float], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The map that takes a to b, the direction old to new, and stretches by (along, across)."""
    linear = _axes(new) @ np.diag(stretch) @ _axes(old).T
    return np.hstack([linear, (b - linear @ a)[:, None]])


def _limb(a: np.ndarray, b: np.ndarray, start: np.ndarray, way: np.ndarray, limits: Sequence[float]) -> np.ndarray:
    seen = max(float(np.linalg.norm(b - a)), 1e-6)
    along = float(np.clip(np.linalg.norm(way) / seen, *limits))
    return _between(b - a, way, (along, 1.0), a, start)


def _trunk(old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Corners (4, 2) in the order of TORSO: turned and stretched upwards as they say, across within WIDTH."""
    (rise, middle, wide), (new_rise, new_middle, new_wide) = (
        (each[:2].mean(0) - each[2:].mean(0), each[2:].mean(0), np.linalg.norm(each[0] - each[1]))
        for each in (old, new)
    )
    along = float(np.clip(np.linalg.norm(new_rise) / max(np.linalg.norm(rise), 1e-6), 0.7, 1.2))
    across = float(np.clip(new_wide / max(wide, 1e-6), *WIDTH))
    return _between(rise, new_rise, (along, across), middle, new_middle)
