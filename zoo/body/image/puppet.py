"""Animate the pictured figure as a puppet: a mesh that bends at the joints as rigidly as it can, over its background.

No network but the detector's is used. The figure is cut out (`zoo.body.image.segmentation`), each pixel belongs to the
nearest limb, limbs are connected at their joints (`zoo.body.image.arap`), and the background that the body hides is
inpainted (`zoo.body.image.inpainting`). The shadow under the feet moves along (`zoo.body.image.shadow`). The motion is
fitted to the pictured body: its limb lengths, the floor that it stands on, the side that it shows. Of a figure whose
legs are not in the image the upper body dances, and its lower edge stays still.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from zoo.body.detection.base import PoseDetector
from zoo.body.image.arap import Connection, Limb, Mesh
from zoo.body.image.inpainting import inpaint
from zoo.body.image.segmentation import Figure, extract_figure
from zoo.body.image.shadow import Shadow, separate_shadow, shadow_area, shadow_fading
from zoo.body.image_skeleton import (
    JOINT_INDEX,
    LIMB_ENDS,
    LIMB_EXTENSION,
    LIMBS,
    SMPL_STATURE,
    TORSO_CORNERS,
    fit_trunk,
    limb_offsets,
)
from zoo.body.skeleton import FEET, FOOT_HEIGHTS, OFFSETS, PARENTS, STANDING, forward_kinematics

# mean confidence of the synthetic detector that rendered figures exceed; of photographs it is about 0.05
DETECTION_CONFIDENCE = 0.2
MAX_FRAME_SIDE = 720  # pixels of the longer side of the frames
BENDING_JOINTS = {first for first, *_ in LIMBS.values()}  # a limb begins there: the figure bends about them
LIMB_OF_END_JOINT = {second: name for name, (_, second, *_) in LIMBS.items()}  # the limb that ends in a joint
STRETCH_RANGE, HEAD_STRETCH_RANGE = (0.3, 1.6), (0.85, 1.15)  # the length of a limb, over its pictured length
TRUNK_STRETCH_RANGE, TRUNK_WIDTH_RANGE = (0.7, 1.2), (0.75, 1.2)  # its length and width, over the pictured ones
MAX_TURN = np.radians(35)  # an image shows one side of a figure: the motion turns it by at most so much
SIDE_HEADING = np.radians(80)  # of a profile: both arms and legs can be told apart
# of the stature, shoulders and hips, or both feet, together: a profile has less width and longer feet (mean body from
# the front: 0.31 and 0.0; exact profile: 0.0 and 0.15)
MAX_PROFILE_WIDTH, MIN_PROFILE_FEET = 0.14, 0.03
RISE_PER_DEPTH = 0.12  # a point a metre farther away appears so many metres higher: the camera looks down a little
BLEND_SECONDS = 0.8  # duration of the transition from the pictured pose to the motion
ARM_MARGIN = 0.32  # of the stature: room that a dancer's arms need on either side
MIN_SIDE_ROOM = 0.06  # of the stature: the pelvis may always move so far, however narrow the image
# A figure without legs: its pelvis moves by at most so much of the stature, sideways and up or down, and of the length
# over which the motion fades out. Above the lower edge, this length is at least so much of the visible trunk.
MAX_HALF_MOVE, MAX_FADE_MOVE, FADE_RATIO = np.array([0.08, 0.06]), np.array([0.5, 0.35]), 0.5
MIN_FADE_CELLS = 4  # this length in cells of the mesh, at least
SIDE_FADE = 0.12  # of the stature: the same length, at a side of the image that cuts the figure off
MIN_ARM_DISTANCE = 0.05  # of the stature: a forearm nearer to the trunk is left on it, if the legs are missing
SWAY_SECONDS = 1.0  # such a pelvis moves about its own mean of the last seconds: this is the mean's time constant
INPAINTED_STATURE = 150  # pixels: the image is shrunk to this stature to inpaint the background
HOLE_MARGIN = 0.02  # of the stature: pixels so close to the figure may be mixed with its colors

# Sizes below are fractions of the stature, or of a limb's thickness where it says so.
MIN_ALPHA = 0.02  # of the figure's pixels
CELL_SIZE = 0.022  # distance of the mesh's nodes
TRUNK_THICKNESS = 0.035  # unit of the distance from the trunk
MIN_TRUNK_DISTANCE = 0.8  # of that thickness: the trunk's own pixels count as so far away from it
TRUNK_OVERLAP = 0.01  # pixels so close to the trunk's outline belong to it too, even under an arm
TRUNK_CAPS = {**dict.fromkeys(TORSO_CORNERS, 0.035), "neck": 0.07}  # radii of the trunk about its joints
END_CAP_RATIO = 0.75  # radius in which a limb covers its second joint, over that about its first
MIN_COMPONENT_RATIO = 0.1  # smallest area of a connected part of a limb, over its largest part
HANDLE_RADIUS = 0.75  # of the limb's thickness: pixels so close to its bone are its handles
MAX_BEND_LENGTH = 0.35  # of the limb's length: it deforms within so much of a joint, at most
JOINT_HANDLE_RADIUS = 0.4  # of the length that deforms: pixels so close to the joint itself are handles again
TRUNK_BEND_LENGTH = 0.05  # the trunk deforms within this distance of a joint
LIMB_EDGE_BLUR = 0.006  # blur of the limbs' edges


@dataclass(frozen=True)
class Puppet:
    """A figure as a mesh, and its image without it."""

    background: np.ndarray  # (H, W, 3) uint8, without the shadow
    shadow: Shadow | None
    mesh: Mesh
    joints: np.ndarray  # (24, 2) pixels: the pictured pose
    stature: float  # pixels
    floor_row: float  # the row of pixels that it stands on
    offsets: torch.Tensor  # (24, 3) pixels: its skeleton at rest
    quality: float  # in [0, 1]: visibility of the limbs, times the plausibility of their lengths
    note: str | None = None  # see SegmentedFigure
    cut: "LowerCut | None" = None  # None: the whole figure is visible


@dataclass(frozen=True)
class LowerCut:
    """Where a figure is cut off below, and which parts of it the motion moves."""

    row: float  # of pixels, below which the figure is not visible
    fade_length: float  # pixels from there over which the motion fades in; the shortest one of all edges
    still_arms: tuple[str, ...]  # sides of the arms that move with the trunk, as a part of it
    node_weights: np.ndarray  # (N,) of the mesh's nodes: 0 rests, 1 moves


def make_puppet(image: np.ndarray, detector: PoseDetector, max_side: int = MAX_FRAME_SIDE) -> Puppet:
    """Make a puppet from an image (H, W, 3) uint8 of one figure, whole or without legs.

    Height and width of its frames are even.

    Raises ValueError, one line without the image's name, as `PoseDetector.segment_figure`.
    """
    return make_puppets(image, [detector], max_side)[0]


def make_puppets(image: np.ndarray, detectors: Sequence[PoseDetector], max_side: int = MAX_FRAME_SIDE) -> list[Puppet]:
    """Make a puppet of each detector's figure in one image, see `make_puppet`. They share the background.

    The order is that in which they are drawn: who stands nearer, with lower feet, comes later.
    """
    figures = [
        extract_figure(image, detector, max_side, DETECTION_CONFIDENCE, half_body=True) for detector in detectors
    ]
    figures.sort(key=_floor_row)
    background, shadows = _separate_background(figures)
    return [_make_puppet(figure, background, shadow) for figure, shadow in zip(figures, shadows, strict=True)]


def _floor_row(figure: Figure) -> float:
    """The row of pixels that a figure stands on."""
    soles = figure.joints[list(FEET), 1] + np.array(FOOT_HEIGHTS) * figure.stature / SMPL_STATURE
    return float(soles.max())


def _make_puppet(figure: Figure, background: np.ndarray, shadow: Shadow | None) -> Puppet:
    height, width = (side // 2 * 2 for side in figure.alpha.shape)
    joints, stature = figure.joints, figure.stature
    limb_ends = LIMB_ENDS
    if figure.cut_row is not None:
        limb_ends = tuple(f"{side}_{joint}" for side in figure.visible_arms for joint in ("elbow", "wrist"))
    offsets, plausibility = limb_offsets(joints, stature, limb_ends)
    if figure.cut_row is not None:
        offsets = fit_trunk(offsets, joints)
    still_arms = () if figure.cut_row is None else _arms_on_the_trunk(figure)
    mesh = _make_mesh(figure, still_arms)
    return Puppet(
        background[:height, :width],
        shadow,
        mesh,
        joints,
        stature,
        _floor_row(figure),
        offsets,
        figure.quality * plausibility,
        figure.note,
        None if figure.cut_row is None else _lower_cut(figure, figure.cut_row, mesh, still_arms),
    )


def _arms_on_the_trunk(figure: Figure) -> tuple[str, ...]:
    """Sides of the arms that the image does not show, or whose forearm lies on the trunk or beside it."""
    still_arms = []
    distance = _distance_to_trunk(*_pixel_grid(figure.alpha.shape), figure.joints)
    for side in ("left", "right"):
        elbow, wrist, hand = (figure.joints[JOINT_INDEX[f"{side}_{joint}"]] for joint in ("elbow", "wrist", "hand"))
        points = np.stack([(elbow + wrist) / 2, wrist, hand]).astype(int)
        if side not in figure.visible_arms or (
            distance[points[:, 1], points[:, 0]].min() < MIN_ARM_DISTANCE * figure.stature
        ):
            still_arms.append(side)
    return tuple(still_arms)


def _lower_cut(figure: Figure, row: float, mesh: Mesh, still_arms: tuple[str, ...]) -> LowerCut:
    """The cut of a figure that is visible above `row`. The other arms move freely; what is near a cut rests."""
    hips, shoulders = (
        figure.joints[[JOINT_INDEX[f"{side}_{joint}"] for side in ("left", "right")], 1].mean()
        for joint in ("hip", "shoulder")
    )
    visible_trunk = max(min(hips, row) - shoulders, 1.0)
    side_fade, cell_size = SIDE_FADE * figure.stature, CELL_SIZE * figure.stature
    fade_height = float(max(row - hips, FADE_RATIO * visible_trunk, MIN_FADE_CELLS * cell_size))
    still_margin = 1.5 * cell_size  # so that whole cells rest at the edge
    width = figure.alpha.shape[1]
    free_limbs = {f"{side}_{limb}" for side in ("left", "right") for limb in ("upper_arm", "forearm")}
    node_weights = np.ones(mesh.num_nodes)
    for name, limb in mesh.limbs.items():
        if name not in free_limbs:
            rest = mesh.rest[limb.nodes]
            weights = _smoothstep((row - rest.imag - still_margin) / fade_height)
            for side in figure.cut_sides:
                distance = rest.real if side == "left" else width - rest.real
                weights = weights * _smoothstep((distance - still_margin) / side_fade)
            node_weights[limb.nodes] = weights
    fade_length = min(fade_height, side_fade) if figure.cut_sides else fade_height
    return LowerCut(row, fade_length, still_arms, node_weights)


def _smoothstep(fraction: np.ndarray) -> np.ndarray:
    fraction = fraction.clip(0, 1)
    return fraction * fraction * (3 - 2 * fraction)


class PuppetAnimator:
    """Draws a puppet frame after frame; it remembers where the motion began and how many frames were drawn."""

    def __init__(self, puppet: Puppet, fps: float, neighbors: Sequence[Puppet] = ()):
        """neighbors: the other puppets of the image, which it keeps its distance from."""
        self.puppet, self.fps = puppet, fps
        self.neighbor_columns = [float(neighbor.joints[0, 0]) for neighbor in neighbors]
        self.scale = puppet.stature / SMPL_STATURE  # pixels a metre
        self.num_frames_drawn = 0
        self.origin: torch.Tensor | None = None  # (2,) metres: where the motion began
        self.mean_position: np.ndarray | None = None  # (2,) metres, x and z: see `_sway`

    def joints(self, rotations: torch.Tensor, root: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Positions of consecutive poses in the image: pixels (F, 24, 2), and their depths (F, 24), in pixels.

        rotations (F, 24, 3, 3) local, root (F, 3) metres, at the animator's frame rate. To be called once for each
        frame, in order.
        """
        puppet = self.puppet
        rotations, root = rotations.double(), root.double()
        standard_joints = forward_kinematics(rotations, root, OFFSETS.double())
        rotations = rotations.clone()
        rotations[:, 0] = _limit_turn(rotations[:, 0], pictured_heading(puppet.joints, puppet.stature))
        if self.origin is None:
            self.origin = root[0, :2].clone()
        pelvis_pixels = root.clone()  # its z does not matter: the feet decide the height below
        pelvis_pixels[:, :2] = (root[:, :2] - self.origin) * self.scale
        pictured_pelvis_column = float(puppet.joints[0, 0])
        side_distances = [pictured_pelvis_column, puppet.background.shape[1] - pictured_pelvis_column]
        side_distances += [abs(pictured_pelvis_column - column) / 2 for column in self.neighbor_columns]
        side_room = min(side_distances) - ARM_MARGIN * puppet.stature
        max_displacement = max(side_room, MIN_SIDE_ROOM * puppet.stature)
        pelvis_pixels[:, :2] = max_displacement * torch.tanh(pelvis_pixels[:, :2] / max_displacement)
        positions = forward_kinematics(rotations, pelvis_pixels, puppet.offsets.double())
        # the lowest sole keeps the motion's height above the floor, whatever the length of the legs
        lowest_sole_height = (standard_joints[:, FEET, 2] - torch.tensor(FOOT_HEIGHTS)).amin(1) * self.scale
        joint_to_sole = torch.tensor(FOOT_HEIGHTS) * self.scale
        positions[..., 2] += (lowest_sole_height - (positions[:, FEET, 2] - joint_to_sole).amin(1))[:, None]
        x, depth, z = positions.unbind(-1)
        pixels = torch.stack([pictured_pelvis_column + x, puppet.floor_row - z - RISE_PER_DEPTH * depth], -1).numpy()
        if puppet.cut is not None:
            max_move = np.minimum(MAX_HALF_MOVE * puppet.stature, MAX_FADE_MOVE * puppet.cut.fade_length)
            move = self._sway(root.numpy()[:, [0, 2]]) * (self.scale, -self.scale)
            _move_anchor(puppet.joints, pixels, puppet.cut, max_move * np.tanh(move / max_move))
        times = (self.num_frames_drawn + np.arange(len(pixels))) / self.fps
        self.num_frames_drawn += len(pixels)
        pixels = _blend_from_pose(puppet.joints, pixels, np.clip(times / BLEND_SECONDS, 0, 1))
        if puppet.cut is not None:
            _hold_still_limbs(puppet.joints, pixels, puppet.cut)
        return pixels, depth.numpy()

    def _sway(self, positions: np.ndarray) -> np.ndarray:
        """How far positions (F, 2) of consecutive frames are from the mean of those before them."""
        rate = 1 - np.exp(-1 / (SWAY_SECONDS * self.fps))
        moves = np.empty_like(positions)
        for index, position in enumerate(positions):
            previous = position if self.mean_position is None else self.mean_position
            self.mean_position = previous + rate * (position - previous)
            moves[index] = position - self.mean_position
        return moves

    def draw(self, joints: np.ndarray, depth: np.ndarray) -> np.ndarray:
        """Frames (F, H, W, 3) uint8 of poses from `joints`."""
        return np.stack([self._draw_frame(*pose) for pose in zip(joints, depth, strict=True)])

    def _draw_frame(self, joints: np.ndarray, depth: np.ndarray) -> np.ndarray:
        frame = self.puppet.background.copy()
        self.draw_shadow(frame, joints, depth)
        self.draw_figure(frame, joints, depth)
        return frame

    def draw_shadow(self, frame: np.ndarray, joints: np.ndarray, depth: np.ndarray) -> None:
        """Draw the shadow of one pose, joints (24, 2) and depth (24,), on a frame (H, W, 3) uint8, in place."""
        puppet = self.puppet
        if puppet.shadow is not None:
            feet = joints[list(FEET)]
            floor_rows = puppet.floor_row - RISE_PER_DEPTH * depth[list(FEET)]
            heights = floor_rows - feet[:, 1] - np.array(FOOT_HEIGHTS) * self.scale
            center = np.array([feet[:, 0].mean(), floor_rows.mean()])
            puppet.shadow.draw(frame, center, _feet_distance(joints), float(heights.min()))

    def draw_figure(self, frame: np.ndarray, joints: np.ndarray, depth: np.ndarray) -> None:
        """Draw the figure in one pose, see `draw_shadow`."""
        mesh = self.puppet.mesh
        nodes = mesh.deform(limb_transforms(self.puppet, joints))
        if self.puppet.cut is not None:
            nodes = mesh.rest + self.puppet.cut.node_weights * (nodes - mesh.rest)
        mesh.draw(frame, nodes, drawing_order(joints, depth))


def limb_transforms(puppet: Puppet, joints: np.ndarray) -> dict[str, np.ndarray]:
    """Affine map (2, 3) of each limb, from the puppet's image to a frame in which its joints are at (24, 2).

    Limbs keep their thickness and stay connected: where the stretch of a limb is limited, the limbs at its end move
    along with it.
    """
    pictured_joints = puppet.joints
    source_corners, target_corners = (
        pose[[JOINT_INDEX[name] for name in TORSO_CORNERS]] for pose in (pictured_joints, joints)
    )
    transforms = {"torso": _trunk_transform(source_corners, target_corners)}
    limb_at_joint = {JOINT_INDEX[name]: "torso" for name in (*TORSO_CORNERS, "neck")}
    for name, (first, second, *_) in LIMBS.items():
        a, b = pictured_joints[JOINT_INDEX[first]], pictured_joints[JOINT_INDEX[second]]
        limb_start = _apply(transforms[limb_at_joint[JOINT_INDEX[first]]], a)
        direction = joints[JOINT_INDEX[second]] - joints[JOINT_INDEX[first]]
        stretch_range = STRETCH_RANGE if name != "head" else HEAD_STRETCH_RANGE
        transforms[name] = _limb_transform(a, b, limb_start, direction, stretch_range)
        limb_at_joint[JOINT_INDEX[second]] = name
    return transforms


def drawing_order(joints: np.ndarray, depth: np.ndarray) -> list[str]:
    """Limbs from the farthest to the nearest.

    An arm is in front of the trunk or behind it by its depth, a leg only in front if its knee is raised over the hips.
    """
    trunk_depth = depth[[JOINT_INDEX[name] for name in TORSO_CORNERS]].mean()
    hip_row = joints[[JOINT_INDEX["left_hip"], JOINT_INDEX["right_hip"]], 1].mean()
    behind: list[tuple[float, list[str]]] = []
    in_front: list[tuple[float, list[str]]] = []
    for side in ("left", "right"):
        arm_depth = depth[[JOINT_INDEX[f"{side}_elbow"], JOINT_INDEX[f"{side}_wrist"]]].mean()
        arm = [f"{side}_upper_arm", f"{side}_forearm"]
        (behind if arm_depth > trunk_depth else in_front).append((arm_depth, arm))
        leg_depth = depth[[JOINT_INDEX[f"{side}_knee"], JOINT_INDEX[f"{side}_ankle"]]].mean()
        is_raised = joints[JOINT_INDEX[f"{side}_knee"], 1] < hip_row and leg_depth < trunk_depth
        leg = [f"{side}_sole", f"{side}_shin", f"{side}_thigh"]
        (in_front if is_raised else behind).append((leg_depth, leg))

    def by_depth(limbs: list[tuple[float, list[str]]]) -> list[str]:
        return [name for _, names in sorted(limbs, key=lambda limb: -limb[0]) for name in names]

    return [*by_depth(behind), "torso", "head", *by_depth(in_front)]


# cutting -------------------------------------------------------------------------------------------------------------


def _limb_alphas(
    alpha: np.ndarray, joints: np.ndarray, stature: float, without: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Split a figure's alpha (H, W) into one (H, W) float32 for each limb; they overlap at the joints.

    without: limbs that are no parts of their own; their pixels belong to the nearest other one.
    """
    is_figure = alpha > MIN_ALPHA
    x, y = _pixel_grid(alpha.shape)
    trunk_distance = _distance_to_trunk(x, y, joints)
    names = ["torso"]
    # in thicknesses of the limb
    relative_distances = [np.maximum(trunk_distance / (TRUNK_THICKNESS * stature), MIN_TRUNK_DISTANCE)]
    for name, (first, second, thickness, _) in LIMBS.items():
        if name in without:
            continue
        a, b = joints[JOINT_INDEX[first]], joints[JOINT_INDEX[second]]
        length_ratio = LIMB_EXTENSION.get(name.split("_")[-1], 1.0)
        names.append(name)
        relative_distances.append(_distance_to_segment(x, y, a, a + length_ratio * (b - a)) / (thickness * stature))
    nearest = np.stack(relative_distances).argmin(0)
    masks = {}
    for index, name in enumerate(names):
        mask = is_figure & (nearest == index)
        if name == "torso":
            mask |= is_figure & (trunk_distance < TRUNK_OVERLAP * stature)
            cap_radii = TRUNK_CAPS
        else:
            first, second, _, overlap_radius = LIMBS[name]
            cap_radii = {first: overlap_radius, second: END_CAP_RATIO * overlap_radius}
        for joint, radius in cap_radii.items():
            mask |= is_figure & (_distance_to_joint(x, y, joints, joint) < radius * stature)
        masks[name] = _remove_small_components(mask)
    kernel_side = 2 * max(1, round(LIMB_EDGE_BLUR * stature)) + 1
    return {
        name: cv2.GaussianBlur(np.float32(mask), (kernel_side, kernel_side), 0) * alpha for name, mask in masks.items()
    }


def _remove_small_components(mask: np.ndarray) -> np.ndarray:
    """Drop small regions that are nearest to a limb but not connected with it."""
    num_labels, labels, stats, _ = cv2.connectedComponentsWithStats(np.uint8(mask))
    if num_labels <= 2:
        return mask
    areas = stats[:, cv2.CC_STAT_AREA]
    large = np.flatnonzero(areas > MIN_COMPONENT_RATIO * areas[1:].max())
    return np.isin(labels, large[large > 0])


def _pixel_grid(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Columns and rows (H, W) float32 of the pixels' centers."""
    y, x = np.mgrid[: shape[0], : shape[1]].astype(np.float32) + 0.5
    return x, y


def _distance_to_joint(x: np.ndarray, y: np.ndarray, joints: np.ndarray, name: str) -> np.ndarray:
    """Distance of pixels to a joint."""
    return np.hypot(x - joints[JOINT_INDEX[name], 0], y - joints[JOINT_INDEX[name], 1])


def _distance_to_segment(x: np.ndarray, y: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Distance of pixels to the line segment from a to b."""
    direction = b - a
    fraction = ((x - a[0]) * direction[0] + (y - a[1]) * direction[1]) / max(float(direction @ direction), 1e-6)
    fraction = fraction.clip(0, 1)
    return np.hypot(x - a[0] - fraction * direction[0], y - a[1] - fraction * direction[1])


def _distance_to_trunk(x: np.ndarray, y: np.ndarray, joints: np.ndarray) -> np.ndarray:
    """Distance of pixels to the trunk's outline, 0 within."""
    corners = joints[[JOINT_INDEX[name] for name in TORSO_CORNERS]].astype(np.float32)
    trunk_mask = np.uint8(np.zeros(x.shape))
    cv2.fillConvexPoly(trunk_mask, cv2.convexHull(corners).round().astype(np.int32), 1)
    return cv2.distanceTransform(1 - trunk_mask, cv2.DIST_L2, 5)


def _make_mesh(figure: Figure, still_arms: Collection[str] = ()) -> Mesh:
    """The figure's limbs, connected at the joints. Pixels near a limb's bone are its handles, except where it bends.

    still_arms: sides of the arms that belong to the trunk.
    """
    alpha, joints, stature = figure.alpha, figure.joints, figure.stature
    cell_size = CELL_SIZE * stature
    x, y = _pixel_grid(alpha.shape)
    limbs, connections = {}, []
    still_limbs = [f"{side}_{limb}" for side in still_arms for limb in ("upper_arm", "forearm")]
    for name, limb_alpha in _limb_alphas(alpha, joints, stature, still_limbs).items():
        rgba = np.dstack([figure.rgb * limb_alpha[..., None], 255 * limb_alpha]).round().clip(0, 255).astype(np.uint8)
        if name == "torso":
            is_handle = _distance_to_trunk(x, y, joints) == 0
            end_joints, bend_length = TORSO_CORNERS, TRUNK_BEND_LENGTH * stature
        else:
            first, second, thickness, overlap_radius = LIMBS[name]
            a, b = joints[JOINT_INDEX[first]], joints[JOINT_INDEX[second]]
            end_joints = (first, second)
            bend_length = min(thickness * stature, MAX_BEND_LENGTH * float(np.linalg.norm(b - a)))
            handle_radius = max(HANDLE_RADIUS * thickness * stature, 0.8 * cell_size)
            is_handle = _distance_to_segment(x, y, a, b) < handle_radius
            connection_radius = overlap_radius * stature + 1.5 * cell_size
            connections.append(Connection(name, LIMB_OF_END_JOINT.get(first, "torso"), a, connection_radius))
        for joint in end_joints:
            if joint in BENDING_JOINTS:
                distance = _distance_to_joint(x, y, joints, joint)
                is_joint_handle = distance < max(JOINT_HANDLE_RADIUS * bend_length, 0.8 * cell_size)
                is_handle = (is_handle & (distance > bend_length)) | is_joint_handle
        limbs[name] = Limb(rgba, is_handle)
    return Mesh(limbs, connections, cell_size)


def _separate_background(figures: Sequence[Figure]) -> tuple[np.ndarray, list[Shadow | None]]:
    """The image (H, W, 3) uint8 without the figures and their shadows, and each shadow, if it can be told."""
    image, stature = figures[0].image, max(figure.stature for figure in figures)
    alpha = np.max([figure.alpha for figure in figures], 0)
    centers = [  # None: the floor is not in the image
        None if figure.cut_row is not None else np.array([figure.joints[list(FEET), 0].mean(), _floor_row(figure)])
        for figure in figures
    ]
    distances = [
        np.full(alpha.shape, np.inf, np.float32) if center is None else shadow_area(alpha.shape, center, figure.stature)
        for center, figure in zip(centers, figures, strict=True)
    ]
    is_shadow = np.any([distance < 1 for distance in distances], 0)
    inpainted = _inpaint(image, alpha, stature, is_shadow)
    floor = _replace_figure(image, inpainted, alpha, stature, np.float32(is_shadow))
    is_figure = alpha > MIN_ALPHA
    shadows = [
        None
        if center is None
        else separate_shadow(image, floor, is_figure, center, _feet_distance(figure.joints), figure.stature)
        for center, figure in zip(centers, figures, strict=True)
    ]
    distances = [distance for distance, shadow in zip(distances, shadows, strict=True) if shadow is not None]
    if len(distances) < sum(center is not None for center in centers):
        is_shadow = np.any([np.zeros(alpha.shape, bool), *(distance < 1 for distance in distances)], 0)
        inpainted = _inpaint(image, alpha, stature, is_shadow)
    # the floor fades into the image as the shadows do: there is no step where a shadow reaches farther
    fading = np.max([np.zeros(alpha.shape, np.float32), *map(shadow_fading, distances)], 0)
    return _replace_figure(image, inpainted, alpha, stature, fading), shadows


def _feet_distance(joints: np.ndarray) -> float:
    """Horizontal distance of the ankles of joints (24, 2)."""
    left, right = joints[list(FEET[:2]), 0]
    return float(abs(left - right))


def _inpaint(image: np.ndarray, alpha: np.ndarray, stature: float, is_shadow: np.ndarray) -> np.ndarray:
    """Inpaint the figures, what is near them, and the pixels `is_shadow` (H, W) bool. -> (H, W, 3) float32"""
    hole_mask = _dilate(np.uint8((alpha > MIN_ALPHA) | is_shadow), 2 * max(2, round(HOLE_MARGIN * stature)) + 1)
    scale = min(1.0, INPAINTED_STATURE / stature)
    small_size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    small_image = cv2.resize(image, small_size, interpolation=cv2.INTER_AREA)
    is_hole = cv2.resize(np.float32(hole_mask), small_size, interpolation=cv2.INTER_AREA) > 0.01
    return cv2.resize(np.float32(inpaint(small_image, is_hole)), image.shape[1::-1], interpolation=cv2.INTER_CUBIC)


def _replace_figure(
    image: np.ndarray, inpainted: np.ndarray, alpha: np.ndarray, stature: float, shadow_weight: np.ndarray
) -> np.ndarray:
    """The image (H, W, 3) uint8, replaced by `inpainted` at the figures, and elsewhere by `shadow_weight` (H, W)."""
    figure_mask = np.uint8(alpha > MIN_ALPHA)
    kernel_side = 2 * max(2, round(HOLE_MARGIN * stature)) + 1
    # narrower than the hole: pixels that only may be mixed with the figure's colors stay unchanged
    replaced_mask = _dilate(figure_mask, 2 * kernel_side // 3 | 1)
    weight = cv2.GaussianBlur(np.float32(replaced_mask), (kernel_side, kernel_side), 0)
    weight = np.max([weight, np.float32(figure_mask), shadow_weight], 0)[..., None]
    return (image * (1 - weight) + inpainted * weight).round().clip(0, 255).astype(np.uint8)


def _dilate(mask: np.ndarray, side: int) -> np.ndarray:
    return cv2.dilate(mask, np.ones((side, side), np.uint8))


# fitting the motion --------------------------------------------------------------------------------------------------


def pictured_heading(joints: np.ndarray, stature: float) -> float:
    """The side of the figure that an image shows, radians: 0 its front, pi its back, +-SIDE_HEADING its profiles.

    joints (24, 2), stature: pixels. It is positive where the figure looks to the right: then the width of shoulders and
    hips is small, and the toes are on the right of the ankles.
    """
    column = {name: float(joints[index, 0]) / stature for name, index in JOINT_INDEX.items()}
    width = sum(column[f"left_{joint}"] - column[f"right_{joint}"] for joint in ("shoulder", "hip"))
    toes = sum(column[f"{side}_foot"] - column[f"{side}_ankle"] for side in ("left", "right"))
    if abs(width) < MAX_PROFILE_WIDTH and abs(toes) > MIN_PROFILE_FEET:
        return float(np.copysign(SIDE_HEADING, toes))
    return 0.0 if width >= 0 else np.pi


def _limit_turn(root_rotations: torch.Tensor, pictured: float) -> torch.Tensor:
    """Root rotations (F, 3, 3) whose dancer shows the pictured side: quarter turns become MAX_TURN, half turns zero.

    pictured: see `pictured_heading`.
    """
    front = root_rotations @ (STANDING.T.to(root_rotations) @ torch.tensor([0.0, -1.0, 0.0]).to(root_rotations))
    heading = torch.atan2(front[:, 0], -front[:, 1])
    heading_change = MAX_TURN * torch.sin(heading) - heading + pictured
    zero, cos, sin = torch.zeros_like(heading_change), heading_change.cos(), heading_change.sin()
    turn_matrix = torch.stack([cos, -sin, zero, sin, cos, zero, zero, zero, zero + 1], -1).unflatten(-1, (3, 3))
    return turn_matrix @ root_rotations


def _move_anchor(pictured: np.ndarray, pixels: np.ndarray, cut: LowerCut, move: np.ndarray) -> None:
    """Shift poses (F, 24, 2), in place, so that an anchor moves by (F, 2) pixels from where it is pictured.

    The anchor is the pelvis; where the image does not show it, the point of the trunk's axis on the cut.
    """
    pelvis, neck = pictured[0], pictured[JOINT_INDEX["neck"]]
    fraction = float(np.clip((pelvis[1] - cut.row) / max(pelvis[1] - neck[1], 1e-6), 0, 0.9))
    anchor = (1 - fraction) * pixels[:, 0] + fraction * pixels[:, JOINT_INDEX["neck"]]
    pixels += ((1 - fraction) * pelvis + fraction * neck + move - anchor)[:, None]


def _hold_still_limbs(pictured: np.ndarray, pixels: np.ndarray, cut: LowerCut) -> None:
    """Put legs where they are pictured (24, 2), and still arms where the trunk takes them, in poses (F, 24, 2)."""
    leg_joints, arm_joints = (
        [JOINT_INDEX[f"{side}_{joint}"] for side in sides for joint in joints]
        for sides, joints in (
            (("left", "right"), ("knee", "ankle", "foot")),
            (cut.still_arms, ("elbow", "wrist", "hand")),
        )
    )
    corners = [JOINT_INDEX[name] for name in TORSO_CORNERS]
    for pose in pixels:
        pose[leg_joints] = pictured[leg_joints]
        matrix = _trunk_transform(pictured[corners], pose[corners])
        pose[arm_joints] = pictured[arm_joints] @ matrix[:, :2].T + matrix[:, 2]


def _blend_from_pose(start_pose: np.ndarray, poses: np.ndarray, progress: np.ndarray) -> np.ndarray:
    """Blend from the pictured pose (24, 2) to poses (F, 24, 2), by progress (F,) in [0, 1].

    Each bone turns the shorter way.
    """
    weight = (progress * progress * (3 - 2 * progress))[:, None]
    blended = np.empty_like(poses)
    blended[:, 0] = start_pose[0] * (1 - weight) + poses[:, 0] * weight
    for joint, parent in enumerate(PARENTS[1:], 1):
        start_bone, target_bone = start_pose[joint] - start_pose[parent], poses[:, joint] - poses[:, parent]
        start_angle = np.arctan2(start_bone[1], start_bone[0])
        turn = np.arctan2(target_bone[:, 1], target_bone[:, 0]) - start_angle
        turn = (turn + np.pi) % (2 * np.pi) - np.pi
        length = np.linalg.norm(start_bone) * (1 - weight[:, 0]) + np.linalg.norm(target_bone, axis=1) * weight[:, 0]
        angle = start_angle + turn * weight[:, 0]
        blended[:, joint] = blended[:, parent] + length[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1)
    return blended


# affine maps ---------------------------------------------------------------------------------------------------------


def _apply(matrix: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Apply an affine map (2, 3) to a point (2,)."""
    return matrix[:, :2] @ point + matrix[:, 2]


def _axes(direction: np.ndarray) -> np.ndarray:
    """(2, 2): columns are the unit vector along a direction, and the one to its right."""
    unit = direction / max(float(np.linalg.norm(direction)), 1e-6)
    return np.array([[unit[0], -unit[1]], [unit[1], unit[0]]])


def _stretch_between(
    source: np.ndarray, target: np.ndarray, stretch: Sequence[float], a: np.ndarray, b: np.ndarray
) -> np.ndarray:
    """The map that takes a to b, the direction `source` to `target`, and stretches by (along, across)."""
    linear = _axes(target) @ np.diag(stretch) @ _axes(source).T
    return np.hstack([linear, (b - linear @ a)[:, None]])


def _limb_transform(
    a: np.ndarray, b: np.ndarray, start: np.ndarray, direction: np.ndarray, stretch_range: Sequence[float]
) -> np.ndarray:
    """The map that takes a to `start`, and b along `direction`; the stretch stays within limits."""
    length = max(float(np.linalg.norm(b - a)), 1e-6)
    stretch = float(np.clip(np.linalg.norm(direction) / length, *stretch_range))
    return _stretch_between(b - a, direction, (stretch, 1.0), a, start)


def _trunk_transform(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The map of the trunk between corners (4, 2) in the order of TORSO_CORNERS."""
    (source_up, source_hips, source_shoulder_width), (target_up, target_hips, target_shoulder_width) = (
        (corners[:2].mean(0) - corners[2:].mean(0), corners[2:].mean(0), np.linalg.norm(corners[0] - corners[1]))
        for corners in (source, target)
    )
    ratio = np.linalg.norm(target_up) / max(np.linalg.norm(source_up), 1e-6)
    stretch = float(np.clip(ratio, *TRUNK_STRETCH_RANGE))
    widening = float(np.clip(target_shoulder_width / max(source_shoulder_width, 1e-6), *TRUNK_WIDTH_RANGE))
    return _stretch_between(source_up, target_up, (stretch, widening), source_hips, target_hips)
