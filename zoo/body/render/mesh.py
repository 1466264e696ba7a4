"""The bodies that dance: a mesh in SMPL's rest frame, bound to the 24 joints, with its own limb lengths.

Humans come from one baked file (CC0, see assets/LICENSE.md, made by tools/bake_body.py); figures that are not human are
put together in `zoo.body.render.primitives`. Every body is driven by the same canonical motion, see `Body.place`.
"""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import numpy as np
import torch

from zoo.body.labels import BY_POSITION, FOOT, FOREARM, HAND, HEAD, PARTS, SHIN, THIGH, TORSO, UPPER_ARM
from zoo.body.render import primitives as figures
from zoo.body.skeleton import FOOT_HEIGHTS, OFFSETS, PARENTS, world_transforms

# the two joints that a limb's front and back are told apart by, left and right: the line between them is the middle
_AXES = np.array(
    [[(0, 12), (0, 12)], [(12, 15), (12, 15)], [(20, 22), (21, 23)], [(7, 10), (8, 11)]]
    + [[(1, 4), (2, 5)], [(4, 7), (5, 8)], [(16, 18), (17, 19)], [(18, 20), (19, 21)]]
)


@dataclass(frozen=True, eq=False)
class Body:
    """A mesh on the skeleton, at rest: T-pose, Y up, left is +X, facing +Z, pelvis joint at the origin, metres.

    vertices, normals (V, 3) float32; faces (F, 3) int32; weights (V, 24) float32, rows sum to 1, at most 5 not zero;
    offsets (24, 3) float32, this body's bones; limbs, zones (F,) uint8: limb and semantic label of each face, or
    BY_POSITION; human: whether clothes and hair can be put on it; features (2, 3), humans only: left eye and mouth.
    """

    name: str
    human: bool
    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    limbs: np.ndarray
    zones: np.ndarray
    features: np.ndarray | None = None
    joints: np.ndarray = field(init=False)  # (24, 3) float32 rest positions
    legs: float = field(init=False)  # leg length over the canonical skeleton's
    lift: float = field(init=False)  # metres

    def __post_init__(self):
        joints = np.zeros((24, 3), np.float32)
        for joint, parent in enumerate(PARENTS[1:], 1):
            joints[joint] = joints[parent] + self.offsets[joint]
        canonical = OFFSETS.numpy()[[1, 2, 4, 5, 7, 8], 1].sum()
        legs = float(self.offsets[[1, 2, 4, 5, 7, 8], 1].sum() / canonical)
        sole = joints[10:12, 1].mean() - self.vertices[:, 1].min()
        object.__setattr__(self, "joints", joints)
        object.__setattr__(self, "legs", legs)
        object.__setattr__(self, "lift", float(sole - legs * FOOT_HEIGHTS[2]))

    def place(self, root: np.ndarray) -> np.ndarray:
        """The pelvis of this body for a canonical one: the rule by which every body dances the same motion.

        Legs are the canonical ones times one factor, so scaling the path by it keeps every step where it lands: feet
        that stood still stand still. The lift puts this body's soles, not its joints, on the floor. (..., 3) metres.
        """
        return root * self.legs + np.array([0, 0, self.lift])

    def transforms(self, rotations: np.ndarray, root: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pose the skeleton. (..., 24, 3, 3) local rotations and (..., 3) canonical root, arrays or tensors ->
        (..., 24, 3, 4) float32 that carries rest points to the world, and the joints (..., 24, 3) float32 there.
        """
        with torch.no_grad():
            placed = torch.as_tensor(self.place(np.asarray(root, np.float32)), dtype=torch.float32)
            turned = torch.as_tensor(np.asarray(rotations, np.float32))
            turns, places = (part.numpy() for part in world_transforms(turned, placed, torch.from_numpy(self.offsets)))
        shift = places - (turns @ self.joints[..., None])[..., 0]
        return np.concatenate([turns, shift[..., None]], -1), places

    def deform(self, transforms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Linear blend skinning of one pose. (24, 3, 4) -> vertices, normals (V, 3) float32; normals not unit."""
        blended = (self.weights @ transforms.reshape(24, 12)).reshape(-1, 3, 4)
        turned = blended[:, :, :3] @ np.stack([self.vertices, self.normals], -1)
        return turned[:, :, 0] + blended[:, :, 3], turned[:, :, 1]

    def skin(self, rotations: np.ndarray, root: np.ndarray) -> np.ndarray:
        """World vertices of one pose. (24, 3, 3) local rotations, (3,) canonical root in metres -> (V, 3) float32"""
        return self.deform(self.transforms(rotations, root)[0])[0]

    def limbs_at(self, face: np.ndarray, point: np.ndarray) -> np.ndarray:
        """Limb of surface points. face (N,) indices, point (N, 3) rest position -> (N,) uint8"""
        limb = self.limbs[face]
        return np.where(limb == BY_POSITION, self._limbs_by_position(point), limb) if self.human else limb

    def parts_at(self, limb: np.ndarray, point: np.ndarray) -> np.ndarray:
        """DensePose part 1..24 of surface points. limb (N,), point (N, 3) rest position -> (N,) uint8"""
        left = (point[:, 0] > 0).astype(np.intp)
        ends = self.joints[_AXES]  # (limb, side, end, 3)
        # depth of the limb's middle as a linear function of its long coordinate: x on arms, y elsewhere
        along = np.where(np.isin(np.arange(8), (HAND, UPPER_ARM, FOREARM)), 0, 1)
        span = np.take_along_axis(ends, along[:, None, None, None], 3)[..., 0]
        run = span[..., 1] - span[..., 0]
        slope = np.where(np.abs(run) > 0.02, (ends[..., 1, 2] - ends[..., 0, 2]) / np.where(run == 0, 1, run), 0)
        coordinate = np.where(along[limb] == 0, point[:, 0], point[:, 1])
        middle = ends[limb, left, 0, 2] + slope[limb, left] * (coordinate - span[limb, left, 0])
        return PARTS[limb, left, (point[:, 2] > middle).astype(np.intp)]

    def _limbs_by_position(self, point: np.ndarray) -> np.ndarray:
        """Cut a human body in T-pose into limbs by planes through its joints. (N, 3) -> (N,) uint8"""
        joints, size = self.joints, self.legs
        side, height = np.abs(point[:, 0]), point[:, 1]
        shoulder, elbow, wrist = (np.abs(joints[pair, 0]).mean() for pair in ([16, 17], [18, 19], [20, 21]))
        hip, knee, ankle = (joints[pair, 1].mean() for pair in ([1, 2], [4, 5], [7, 8]))
        limb = np.full(len(point), TORSO, np.uint8)
        # the neck goes with the head; its line rises towards the back
        above = height - joints[12, 1] - 0.02 * size
        limb[(above > -0.35 * (point[:, 2] - joints[12, 2])) & ((side < 0.1 * size) | (above > 0.06 * size))] = HEAD
        # the groin: from the crotch up to the hip bone
        limb[height < hip + np.minimum(0.75 * (side - 0.11 * size), 0.05 * size)] = THIGH
        limb[height < knee] = SHIN
        limb[height < ankle + 0.01 * size] = FOOT
        # the armpit: from below the shoulder outwards and up over its top
        arm = (side + 0.25 * (height - joints[16:18, 1].mean()) > shoulder - 0.02 * size) & (
            height > joints[16:18, 1].mean() - 0.2 * size
        )
        limb[arm] = UPPER_ARM
        limb[arm & (side > elbow)] = FOREARM
        limb[arm & (side > wrist)] = HAND
        return limb


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals, faces weighted by area. (V, 3), (F, 3) -> (V, 3) float32"""
    corner = vertices[faces]
    across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = np.zeros(vertices.shape)
    np.add.at(normals, faces.reshape(-1), np.repeat(across, 3, axis=0))
    return (normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)).astype(np.float32)


@cache
def _humans() -> dict[str, np.ndarray]:
    with (files("zoo.body.render") / "assets" / "humans.npz").open("rb") as file, np.load(file) as baked:
        return dict(baked)


def human_names() -> tuple[str, ...]:
    """Bodies that wear clothes and hair; 'man' has exactly the canonical bones."""
    return tuple(str(name) for name in _humans()["names"])


def body_names() -> tuple[str, ...]:
    """Every body there is, humans first."""
    return human_names() + tuple(figures.FIGURES)


@cache
def body(name: str) -> Body:
    """The body of that name. Raises ValueError for an unknown one."""
    if name in figures.FIGURES:
        return Body(name, False, **figures.build(name))
    if name not in human_names():
        raise ValueError(f"unknown body '{name}'; there are {', '.join(body_names())}")
    baked = _humans()
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
