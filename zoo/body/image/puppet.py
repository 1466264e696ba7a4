"""Animate the pictured figure as a puppet: a mesh that bends at the joints as rigidly as it can, over its background.

No network but the detector's is used. The figure is segmented (`zoo.body.image.segmentation`) and cut into limbs
(`zoo.body.image.limb_layers`), which are connected at their joints (`zoo.body.image.arap`). The background that the
body hides is inpainted, and the shadow under the feet moves along (`zoo.body.image.figure_background`). The motion is
fitted to the pictured body: its limb lengths, the floor that it stands on, the side that it shows
(`zoo.body.image.puppet_motion`). Of a figure whose legs are not in the image the upper body dances, and its lower edge
stays still.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch

from zoo.body.detection.base import PoseDetector
from zoo.body.image.arap import Connection, Limb, Mesh
from zoo.body.image.canvas import canvas_growth
from zoo.body.image.figure_background import feet_distance, floor_row, separate_background
from zoo.body.image.limb_layers import (
    cut_limbs,
    distance_to_joint,
    distance_to_segment,
    distance_to_trunk,
    pixel_grid,
)
from zoo.body.image.limb_transforms import drawing_order, limb_transforms
from zoo.body.image.puppet_motion import (
    SIDE_HEADING,
    LowerCut,
    blend_from_pose,
    hold_still_arms,
    hold_still_legs,
    limit_turn,
    move_anchor,
    pictured_heading,
)
from zoo.body.image.segmentation import Figure, extract_figure
from zoo.body.image.shadow import Shadow
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
from zoo.body.skeleton import FEET, FOOT_HEIGHTS, OFFSETS, forward_kinematics

# mean confidence of the synthetic detector that rendered figures exceed; of photographs it is about 0.05
DETECTION_CONFIDENCE = 0.2
MAX_FRAME_SIDE = 720  # pixels of the longer side of the frames
BENDING_JOINTS = {first for first, *_ in LIMBS.values()}  # a limb begins there: the figure bends about them
LIMB_OF_END_JOINT = {second: name for name, (_, second, *_) in LIMBS.items()}  # the limb that ends in a joint
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
TOUCH_DISTANCE = 0.09  # of the stature: a wrist or hand so near to the other forearm holds it
HEAD_TOUCH_DISTANCE = 0.17  # of the stature: a hand above the neck, so near to the head's axis, is at the head
MIN_ELBOW_ANGLE = np.radians(45)  # a forearm folded back onto the upper arm cannot be told from it
MIN_KNEE_GAP = 0.03  # of the stature: a knee so near to the other leg
SWAY_SECONDS = 1.0  # such a pelvis moves about its own mean of the last seconds: this is the mean's time constant

# Sizes below are fractions of the stature, or of a limb's thickness where it says so.
CELL_SIZE = 0.022  # distance of the mesh's nodes
HANDLE_RADIUS = 0.75  # of the limb's thickness: pixels so close to its bone are its handles
MAX_BEND_LENGTH = 0.35  # of the limb's length: it deforms within so much of a joint, at most
JOINT_HANDLE_RADIUS = 0.4  # of the length that deforms: pixels so close to the joint itself are handles again
TRUNK_BEND_LENGTH = 0.05  # the trunk deforms within this distance of a joint


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
    still_arms: tuple[str, ...] = ()  # sides of the arms that move with the trunk, as a part of it
    cut: LowerCut | None = None  # None: the whole figure is visible


def make_puppet(image: np.ndarray, detector: PoseDetector, max_side: int = MAX_FRAME_SIDE) -> Puppet:
    """Make a puppet from an image (H, W, 3) uint8 of one figure, whole or without legs.

    Height and width of its frames are even.

    Raises ValueError, one line without the image's name, as `PoseDetector.segment_figure`.
    """
    return make_puppets(image, [detector], max_side)[0]


def make_puppets(
    image: np.ndarray, detectors: Sequence[PoseDetector], max_side: int = MAX_FRAME_SIDE, grow_canvas: bool = False
) -> list[Puppet]:
    """Make a puppet of each detector's figure in one image, see `make_puppet`. They share the background.

    The order is that in which they are drawn: who stands nearer, with lower feet, comes later. grow_canvas: where
    raised or spread arms would leave the image, a plain background is continued by reflection, see `canvas_growth`.
    """
    figures = [
        extract_figure(image, detector, max_side, DETECTION_CONFIDENCE, half_body=True) for detector in detectors
    ]
    figures = [without_crossed_legs(figure) for figure in figures]
    figures.sort(key=floor_row)
    background, shadows = separate_background(figures)
    if grow_canvas:
        growth = canvas_growth(figures, background, [len(find_still_arms(figure)) < 2 for figure in figures])
        background = growth.pad(background, cv2.BORDER_REFLECT_101)
        figures = [growth.grow_figure(figure) for figure in figures]
        shadows = [shadow and growth.move_shadow(shadow) for shadow in shadows]
    return [_make_puppet(figure, background, shadow) for figure, shadow in zip(figures, shadows, strict=True)]


def _make_puppet(figure: Figure, background: np.ndarray, shadow: Shadow | None) -> Puppet:
    height, width = (side // 2 * 2 for side in figure.alpha.shape)
    joints, stature = figure.joints, figure.stature
    limb_ends = LIMB_ENDS
    if figure.cut_row is not None:
        limb_ends = tuple(f"{side}_{joint}" for side in figure.visible_arms for joint in ("elbow", "wrist"))
    offsets, plausibility = limb_offsets(joints, stature, limb_ends)
    if figure.cut_row is not None:
        offsets = fit_trunk(offsets, joints)
    still_arms = find_still_arms(figure)
    mesh = _make_mesh(figure, still_arms)
    return Puppet(
        background[:height, :width],
        shadow,
        mesh,
        joints,
        stature,
        floor_row(figure),
        offsets,
        figure.quality * plausibility,
        figure.note,
        still_arms,
        None if figure.cut_row is None else _lower_cut(figure, figure.cut_row, mesh),
    )


def without_crossed_legs(figure: Figure) -> Figure:
    """A figure whose legs cover each other counts as cut off at the floor: legs that were cut apart would tear.

    In profile they dance: one leg may cover the other as a whole.
    """
    if figure.cut_row is not None or _is_profile(figure):
        return figure
    sides = ("left", "right")
    legs = {
        side: figure.joints[[JOINT_INDEX[f"{side}_{joint}"] for joint in ("hip", "knee", "ankle")]] for side in sides
    }
    gap = min(
        float(distance_to_segment(*legs[side][1], *bone))
        for side, other in (sides, sides[::-1])
        for bone in (legs[other][:2], legs[other][1:])
    )
    if gap > MIN_KNEE_GAP * figure.stature:
        return figure
    row = float(np.flatnonzero((figure.alpha > 0.5).any(1))[-1] + 1)
    note = "the legs cover each other: the upper body dances"
    note = f"{figure.note}; {note}" if figure.note else note
    return replace(figure, cut_row=row, note=note, has_still_legs=True)


def find_still_arms(figure: Figure) -> tuple[str, ...]:
    """Sides of the arms that move with the trunk, as a part of it: with a folded elbow; both if crossed before it.

    Of a figure whose legs are not shown also arms that are not shown, or whose forearm lies on the trunk or beside it;
    and both in profile, as one hides the other and the trunk.
    """
    sides = ("left", "right")
    distance = distance_to_trunk(*pixel_grid(figure.alpha.shape), figure.joints)
    forearms = {
        side: [figure.joints[JOINT_INDEX[f"{side}_{joint}"]] for joint in ("elbow", "wrist", "hand")] for side in sides
    }
    min_distance = MIN_ARM_DISTANCE * figure.stature
    touch = min(
        float(distance_to_segment(*point, *forearms[other][:2]))
        for side, other in (sides, sides[::-1])
        for point in forearms[side][1:]
    )
    still_arms = [side for side in sides if _elbow_angle(figure, side) < MIN_ELBOW_ANGLE]
    touches = touch < TOUCH_DISTANCE * figure.stature
    if figure.cut_row is None or figure.has_still_legs:
        column, row = np.stack([wrist for _, wrist, _ in forearms.values()]).astype(int).T
        row, column = row.clip(0, distance.shape[0] - 1), column.clip(0, distance.shape[1] - 1)
        is_before_trunk = distance[row, column].max() < TOUCH_DISTANCE * figure.stature
        return sides if touches and is_before_trunk else tuple(still_arms)
    if touches or _is_profile(figure):
        return sides
    for side, (elbow, wrist, hand) in forearms.items():
        points = np.stack([(elbow + wrist) / 2, wrist, hand]).astype(int)
        if side in still_arms:
            continue
        if side not in figure.visible_arms or distance[points[:, 1], points[:, 0]].min() < min_distance:
            still_arms.append(side)
    return tuple(still_arms)


def is_head_held(figure: Figure, still_arms: Collection[str]) -> bool:
    """Whether the hand of an arm that moves with the trunk is at the head: then the head moves with the trunk too."""
    neck, head = (figure.joints[JOINT_INDEX[name]] for name in ("neck", "head"))
    top = neck + LIMB_EXTENSION["head"] * (head - neck)
    hands = [figure.joints[JOINT_INDEX[f"{side}_{joint}"]] for side in still_arms for joint in ("wrist", "hand")]
    max_distance = HEAD_TOUCH_DISTANCE * figure.stature
    return any(
        (hand - neck) @ (head - neck) > 0 and float(distance_to_segment(*hand, neck, top)) < max_distance
        for hand in hands
    )


def _elbow_angle(figure: Figure, side: str) -> float:
    """Radians between upper arm and forearm in the image: pi where the arm is straight."""
    shoulder, elbow, wrist = (figure.joints[JOINT_INDEX[f"{side}_{joint}"]] for joint in ("shoulder", "elbow", "wrist"))
    upper_arm, forearm = shoulder - elbow, wrist - elbow
    lengths = np.linalg.norm(upper_arm) * np.linalg.norm(forearm)
    return float(np.arccos(np.clip(upper_arm @ forearm / max(lengths, 1e-6), -1, 1)))


def _is_profile(figure: Figure) -> bool:
    return abs(pictured_heading(figure.joints, figure.stature)) == SIDE_HEADING


def _lower_cut(figure: Figure, row: float, mesh: Mesh) -> LowerCut:
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
    return LowerCut(row, fade_length, node_weights)


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
        rotations[:, 0] = limit_turn(rotations[:, 0], pictured_heading(puppet.joints, puppet.stature))
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
            move_anchor(puppet.joints, pixels, puppet.cut, max_move * np.tanh(move / max_move))
        times = (self.num_frames_drawn + np.arange(len(pixels))) / self.fps
        self.num_frames_drawn += len(pixels)
        pixels = blend_from_pose(puppet.joints, pixels, np.clip(times / BLEND_SECONDS, 0, 1))
        if puppet.cut is not None:
            hold_still_legs(puppet.joints, pixels)
        hold_still_arms(puppet.joints, pixels, puppet.still_arms)
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
            puppet.shadow.draw(frame, center, feet_distance(joints), float(heights.min()))

    def draw_figure(self, frame: np.ndarray, joints: np.ndarray, depth: np.ndarray) -> None:
        """Draw the figure in one pose, see `draw_shadow`."""
        mesh = self.puppet.mesh
        nodes = mesh.deform(limb_transforms(self.puppet.joints, joints))
        if self.puppet.cut is not None:
            nodes = mesh.rest + self.puppet.cut.node_weights * (nodes - mesh.rest)
        mesh.draw(frame, nodes, drawing_order(joints, depth))


def _make_mesh(figure: Figure, still_arms: Collection[str] = ()) -> Mesh:
    """The figure's limbs, connected at the joints. Pixels near a limb's bone are its handles, except where it bends.

    still_arms: sides of the arms that belong to the trunk.
    """
    joints, stature = figure.joints, figure.stature
    cell_size = CELL_SIZE * stature
    x, y = pixel_grid(figure.alpha.shape)
    limbs, connections = {}, []
    still_limbs = [f"{side}_{limb}" for side in still_arms for limb in ("upper_arm", "forearm")]
    if is_head_held(figure, still_arms):
        still_limbs.append("head")
    if figure.cut_row is not None and _is_profile(figure):  # legs do not move: parts of the trunk would be theirs
        still_limbs += [f"{side}_{limb}" for side in ("left", "right") for limb in ("thigh", "shin", "sole")]
    for name, rgba in cut_limbs(figure, still_limbs).items():
        if name == "torso":
            is_handle = distance_to_trunk(x, y, joints) == 0
            end_joints, bend_length = TORSO_CORNERS, TRUNK_BEND_LENGTH * stature
        else:
            first, second, thickness, overlap_radius = LIMBS[name]
            a, b = joints[JOINT_INDEX[first]], joints[JOINT_INDEX[second]]
            end_joints = (first, second)
            bend_length = min(thickness * stature, MAX_BEND_LENGTH * float(np.linalg.norm(b - a)))
            handle_radius = max(HANDLE_RADIUS * thickness * stature, 0.8 * cell_size)
            is_handle = distance_to_segment(x, y, a, b) < handle_radius
            connection_radius = overlap_radius * stature + 1.5 * cell_size
            connections.append(Connection(name, LIMB_OF_END_JOINT.get(first, "torso"), a, connection_radius))
        for joint in end_joints:
            if joint in BENDING_JOINTS:
                distance = distance_to_joint(x, y, joints, joint)
                is_joint_handle = distance < max(JOINT_HANDLE_RADIUS * bend_length, 0.8 * cell_size)
                is_handle = (is_handle & (distance > bend_length)) | is_joint_handle
        limbs[name] = Limb(rgba, is_handle)
    return Mesh(limbs, connections, cell_size)
