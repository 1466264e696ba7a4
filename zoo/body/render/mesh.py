"""Body meshes in SMPL's rest frame, bound to the 24 joints, each with its own limb lengths.

Humans come from one baked file (CC0, see assets/LICENSE.md, made by tools/bake_body.py); figures that are not human are
built in `zoo.body.render.primitives`. Every body is driven by the same canonical motion, see `Body.scale_root`.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
import torch

from zoo.body.labels import BY_POSITION, FOOT, FOREARM, HAND, HEAD, PARTS, SHIN, THIGH, TORSO, UPPER_ARM
from zoo.body.render.primitives import FIGURES, build_figure
from zoo.body.skeleton import FOOT_HEIGHTS, OFFSETS, PARENTS, world_transforms

# [limb][right, left]: the two joints whose line separates the limb's front from its back
_LIMB_END_JOINTS = np.array(
    [[(0, 12), (0, 12)], [(12, 15), (12, 15)], [(20, 22), (21, 23)], [(7, 10), (8, 11)]]
    + [[(1, 4), (2, 5)], [(4, 7), (5, 8)], [(16, 18), (17, 19)], [(18, 20), (19, 21)]]
)


@dataclass(frozen=True, eq=False)
class Body:
    """A mesh on the skeleton, at rest: T-pose, Y up, left is +X, facing +Z, pelvis joint at the origin, metres.

    vertices, normals (V, 3) float32; faces (F, 3) int32; weights (V, 24) float32, rows sum to 1, at most 5 not zero;
    offsets (24, 3) float32, this body's bones; limbs, semantic (F,) uint8: limb and semantic label of each face, or
    BY_POSITION; human: whether it can wear clothes and hair; features (2, 3), humans only: left eye and mouth.
    """

    name: str
    human: bool
    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    limbs: np.ndarray
    semantic: np.ndarray
    features: np.ndarray | None = None
    joints: np.ndarray = field(init=False)  # (24, 3) float32 rest positions
    leg_scale: float = field(init=False)  # leg length over the canonical skeleton's
    sole_offset: float = field(init=False)  # metres that the pelvis is raised by

    def __post_init__(self) -> None:
        joints = np.zeros((24, 3), np.float32)
        for joint, parent in enumerate(PARENTS[1:], 1):
            joints[joint] = joints[parent] + self.offsets[joint]
        canonical_length = OFFSETS.numpy()[[1, 2, 4, 5, 7, 8], 1].sum()
        leg_scale = float(self.offsets[[1, 2, 4, 5, 7, 8], 1].sum() / canonical_length)
        toe_height = joints[10:12, 1].mean() - self.vertices[:, 1].min()
        object.__setattr__(self, "joints", joints)
        object.__setattr__(self, "leg_scale", leg_scale)
        object.__setattr__(self, "sole_offset", float(toe_height - leg_scale * FOOT_HEIGHTS[2]))

    def scale_root(self, root: np.ndarray) -> np.ndarray:
        """The pelvis of this body for a canonical one. (..., 3) metres.

        Legs are the canonical ones times one factor. A path that is scaled by the factor keeps every step where it
        lands, so that feet do not slide. `sole_offset` puts this body's soles, not its joints, on the floor.
        """
        return root * self.leg_scale + np.array([0, 0, self.sole_offset])

    def transforms(self, rotations: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pose the skeleton. (..., 24, 3, 3) local rotations and (..., 3) canonical root, arrays or tensors ->
        (..., 24, 3, 4) float32 that map rest points to the world, and the joints' positions (..., 24, 3) float32.
        """
        with torch.no_grad():
            root = torch.as_tensor(self.scale_root(np.asarray(root, np.float32)), dtype=torch.float32)
            local = torch.as_tensor(np.asarray(rotations, np.float32))
            posed = world_transforms(local, root, torch.from_numpy(self.offsets))
            world_rotations, positions = (array.numpy() for array in posed)
        translations = positions - (world_rotations @ self.joints[..., None])[..., 0]
        return np.concatenate([world_rotations, translations[..., None]], -1), positions

    def deform(self, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear blend skinning of one pose. (24, 3, 4) -> vertices, normals (V, 3) float32; normals not unit."""
        blended = (self.weights @ transforms.reshape(24, 12)).reshape(-1, 3, 4)
        rotated = blended[:, :, :3] @ np.stack([self.vertices, self.normals], -1)
        return rotated[:, :, 0] + blended[:, :, 3], rotated[:, :, 1]

    def skin(self, rotations: np.ndarray, root: np.ndarray) -> np.ndarray:
        """World vertices of one pose. (24, 3, 3) local rotations, (3,) canonical root in metres -> (V, 3) float32"""
        return self.deform(self.transforms(rotations, root)[0])[0]

    def limbs_at(self, face: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Limb of surface points. face (N,) indices, point (N, 3) rest position -> (N,) uint8"""
        limb = self.limbs[face]
        return np.where(limb == BY_POSITION, self._limbs_by_position(point), limb) if self.human else limb

    def parts_at(self, limb: np.ndarray, point: np.ndarray) -> np.ndarray:
        """DensePose part 1..24 of surface points. limb (N,), point (N, 3) rest position -> (N,) uint8"""
        is_left = (point[:, 0] > 0).astype(np.intp)
        ends = self.joints[_LIMB_END_JOINTS]  # (limb, side, end, 3)
        # depth of the limb's middle as a linear function of its long coordinate: x on arms, y elsewhere
        long_axis = np.where(np.isin(np.arange(8), (HAND, UPPER_ARM, FOREARM)), 0, 1)
        axis_ends = np.take_along_axis(ends, long_axis[:, None, None, None], 3)[..., 0]
        length = axis_ends[..., 1] - axis_ends[..., 0]
        depth_change = ends[..., 1, 2] - ends[..., 0, 2]
        slope = np.where(np.abs(length) > 0.02, depth_change / np.where(length == 0, 1, length), 0)
        coordinate = np.where(long_axis[limb] == 0, point[:, 0], point[:, 1])
        middle_depth = ends[limb, is_left, 0, 2] + slope[limb, is_left] * (coordinate - axis_ends[limb, is_left, 0])
        return PARTS[limb, is_left, (point[:, 2] > middle_depth).astype(np.intp)]

    def _limbs_by_position(self, point: np.ndarray) -> np.ndarray:
        """Cut a human body in T-pose into limbs by planes through its joints. (N, 3) -> (N,) uint8"""
        joints, scale = self.joints, self.leg_scale
        lateral, height = np.abs(point[:, 0]), point[:, 1]  # distance from the middle plane, and height
        shoulder_x, elbow_x, wrist_x = (np.abs(joints[pair, 0]).mean() for pair in ([16, 17], [18, 19], [20, 21]))
        hip_y, knee_y, ankle_y = (joints[pair, 1].mean() for pair in ([1, 2], [4, 5], [7, 8]))
        limb = np.full(len(point), TORSO, np.uint8)
        # the neck belongs to the head; its border rises towards the back
        neck_height = height - joints[12, 1] - 0.02 * scale
        is_above_neck = neck_height > -0.35 * (point[:, 2] - joints[12, 2])
        limb[is_above_neck & ((lateral < 0.1 * scale) | (neck_height > 0.06 * scale))] = HEAD
        # the groin: from the crotch up to the hip bone
        limb[height < hip_y + np.minimum(0.75 * (lateral - 0.11 * scale), 0.05 * scale)] = THIGH
        limb[height < knee_y] = SHIN
        limb[height < ankle_y + 0.01 * scale] = FOOT
        # the armpit: from below the shoulder outwards and up over its top
        shoulder_y = joints[16:18, 1].mean()
        is_outside_armpit = lateral + 0.25 * (height - shoulder_y) > shoulder_x - 0.02 * scale
        is_arm = is_outside_armpit & (height > shoulder_y - 0.2 * scale)
        limb[is_arm] = UPPER_ARM
        limb[is_arm & (lateral > elbow_x)] = FOREARM
        limb[is_arm & (lateral > wrist_x)] = HAND
        return limb


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals, faces weighted by area. (V, 3), (F, 3) -> (V, 3) float32"""
    corners = vertices[faces]
    face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = np.zeros(vertices.shape)
    np.add.at(normals, faces.reshape(-1), np.repeat(face_normals, 3, axis=0))
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@cache
def _baked_humans() -> dict[str, np.ndarray]:
    with (files("zoo.body.render") / "assets" / "humans.npz").open("rb") as file, np.load(file) as baked:
        return dict(baked)


def human_names() -> tuple[str, ...]:
    """Bodies that wear clothes and hair; 'man' has exactly the canonical bones."""
    return tuple(str(name) for name in _baked_humans()["names"])


def body_names() -> tuple[str, ...]:
    """All bodies, humans first."""
    return human_names() + tuple(FIGURES)


@cache
def load_body(name: str) -> Body:
    """The body of that name. Raises ValueError for an unknown one."""
    if name in FIGURES:
        return Body(name, False, **build_figure(name))
    if name not in human_names():
        raise ValueError(f"unknown body '{name}'; choose one of {', '.join(body_names())}")
    baked = _baked_humans()
    index = human_names().index(name)
    vertices, faces = baked["vertices"][index], baked["faces"].astype(np.int32)
    weights = np.zeros((len(vertices), 24), np.float32)
    np.put_along_axis(weights, baked["weight_joints"].astype(np.intp), baked["weights"], 1)
    by_position = np.full(len(faces), BY_POSITION, np.uint8)
    return Body(
        name,
        True,
        vertices,
        vertex_normals(vertices, faces),
        faces,
        weights,
        baked["offsets"][index],
        by_position,
        by_position,
        baked["features"][index],
    )
