"""Dancers that are not human, made of rounded solids that each move rigidly with one joint of the canonical skeleton.

Every solid is a superellipsoid or a tapered capsule, so that a few numbers make balls, boxes, tubes and limbs, all with
smooth normals. The semantic label of a solid says which colour of a `zoo.body.render.appearance.Appearance` it takes.
"""

from collections.abc import Callable

import numpy as np

from zoo.body.labels import BOTTOM, FACE, HAIR, JOINT_LIMB, SHOES, SKIN, TOP, TRIM
from zoo.body.skeleton import OFFSETS, PARENTS


class PrimitiveMesh:
    """Collects solids, bound to joints, into one mesh. Coordinates are relative to the joint, at rest, in metres."""

    def __init__(self, offsets: np.ndarray):
        self.offsets = offsets
        self.joints = np.zeros((24, 3))
        for joint, parent in enumerate(PARENTS[1:], 1):
            self.joints[joint] = self.joints[parent] + offsets[joint]
        self._parts = []

    @property
    def empty(self) -> bool:
        """Whether nothing was added yet."""
        return not self._parts

    def ball(
        self,
        joint: int,
        zone: int,
        centre: tuple[float, float, float],
        radii: tuple[float, float, float],
        square: float = 1.0,
        rings: int = 9,
    ) -> None:
        """A superellipsoid: square 1 is an ellipsoid, towards 0 it becomes a box with round edges."""
        latitude, longitude = np.meshgrid(
            np.linspace(-np.pi / 2, np.pi / 2, rings),
            np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False),
            indexing="ij",
        )

        def shape(power):
            def wave(f, angle):
                return np.sign(f(angle)) * np.abs(f(angle)) ** power

            flat = wave(np.cos, latitude)
            return np.stack(
                [flat * wave(np.cos, longitude), wave(np.sin, latitude), flat * wave(np.sin, longitude)], -1
            )

        points, normals = shape(square), shape(2 - square) / np.array(radii)
        self._add(joint, zone, points * radii + centre, normals)

    def limb(
        self, joint: int, zone: int, end: np.ndarray, start_radius: float, end_radius: float, start=(0, 0, 0)
    ) -> None:
        """A tapered capsule from `start` to `end`."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        axis = (end - start) / np.linalg.norm(end - start)
        side = np.cross(axis, [0, 0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0, 0])
        side /= np.linalg.norm(side)
        angle = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        ring = np.cos(angle)[:, None] * np.cross(side, axis) + np.sin(angle)[:, None] * side
        steps = np.linspace(-np.pi / 2, 0, 4), np.linspace(0, np.pi / 2, 4)
        points, normals = [], []
        for centre, radius, latitudes in ((start, start_radius, steps[0]), (end, end_radius, steps[1])):
            for latitude in latitudes:
                normal = np.cos(latitude) * ring + np.sin(latitude) * axis
                points.append(centre + radius * normal)
                normals.append(normal)
        self._add(joint, zone, np.stack(points), np.stack(normals))

    def _add(self, joint: int, zone: int, points: np.ndarray, normals: np.ndarray) -> None:
        """A grid (rings, around, 3), closed around; first and last rings may be points. Faces are turned outwards."""
        rings, around = points.shape[:2]
        index = np.arange(rings * around).reshape(rings, around)
        a, b = index[:-1], index[1:]
        c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
        faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
        points, normals = points.reshape(-1, 3), normals.reshape(-1, 3)
        corner = points[faces]
        across = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        solid = np.linalg.norm(across, axis=1) > 1e-9
        faces, across = faces[solid], across[solid]
        if (across * normals[faces[:, 0]]).sum() < 0:
            faces = faces[:, ::-1]
        self._parts.append((joint, zone, points + self.joints[joint], normals, faces))

    def mesh(self) -> dict[str, np.ndarray]:
        """The arguments of `zoo.body.render.mesh.Body` after its name and kind."""
        sizes = [len(part[2]) for part in self._parts]
        start = np.cumsum([0, *sizes[:-1]])
        joints = np.repeat([part[0] for part in self._parts], sizes)
        normals = np.concatenate([part[3] for part in self._parts])
        faces = [part[4] for part in self._parts]
        counts = [len(face) for face in faces]
        return {
            "vertices": np.concatenate([part[2] for part in self._parts]).astype(np.float32),
            "normals": (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
            "faces": np.concatenate([face + first for face, first in zip(faces, start, strict=True)]).astype(np.int32),
            "weights": np.eye(24, dtype=np.float32)[joints],
            "offsets": self.offsets.astype(np.float32),
            "limbs": np.repeat([JOINT_LIMB[part[0]] for part in self._parts], counts).astype(np.uint8),
            "zones": np.repeat([part[1] for part in self._parts], counts).astype(np.uint8),
        }


def _offsets(legs: float, trunk: float, arms: float) -> np.ndarray:
    """Canonical offsets, groups of bones scaled (legs all by one factor: see `Body.place`)."""
    scale = np.full(24, trunk)
    scale[[1, 2, 4, 5, 7, 8, 10, 11]], scale[18:] = legs, arms
    return OFFSETS.numpy().astype(float) * scale[:, None]


def _robot() -> PrimitiveMesh:
    s = PrimitiveMesh(_offsets(0.95, 0.98, 0.95))
    o = s.offsets
    s.ball(0, BOTTOM, (0, -0.02, -0.01), (0.15, 0.085, 0.1), 0.35)
    s.limb(3, TRIM, o[6], 0.07, 0.07)
    s.ball(9, TOP, (0, 0.01, 0.0), (0.19, 0.17, 0.125), 0.3)
    s.ball(9, TRIM, (0, 0.03, 0.115), (0.1, 0.07, 0.02), 0.3)
    s.ball(9, FACE, (0.05, 0.03, 0.13), (0.02, 0.02, 0.012))
    s.ball(9, SHOES, (-0.04, 0.03, 0.13), (0.03, 0.012, 0.012), 0.4)
    s.limb(12, TRIM, o[15] * 0.8, 0.045, 0.045)
    s.ball(15, SKIN, (0, 0.11, -0.005), (0.125, 0.105, 0.11), 0.3)
    s.ball(15, TRIM, (0, 0.115, 0.1), (0.1, 0.05, 0.015), 0.35)
    for x in (-0.045, 0.045):
        s.ball(15, FACE, (x, 0.12, 0.115), (0.024, 0.024, 0.012), rings=7)
        s.ball(15, TRIM, (2.85 * x, 0.1, -0.005), (0.025, 0.045, 0.045), 0.6, rings=7)
    s.limb(15, TRIM, (0, 0.27, 0), 0.01, 0.01, (0, 0.2, 0))
    s.ball(15, FACE, (0, 0.29, 0), (0.028, 0.028, 0.028), rings=7)
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        s.limb(hip, TRIM, o[knee], 0.05, 0.045)
        s.ball(hip, BOTTOM, tuple(o[knee] * 0.5), (0.07, 0.13, 0.075), 0.35)
        s.ball(knee, TRIM, (0, 0, 0.01), (0.065, 0.055, 0.065), 0.7, rings=7)
        s.ball(knee, BOTTOM, tuple(o[ankle] * 0.52), (0.065, 0.15, 0.07), 0.35)
        s.ball(ankle, SHOES, tuple(o[toe] * (0.5, 0.6, 0.5)), (0.065, 0.04, 0.13), 0.35)
    for shoulder, elbow, wrist in ((16, 18, 20), (17, 19, 21)):
        way = np.sign(o[elbow][0])
        s.ball(shoulder, TRIM, (0, 0, 0), (0.075, 0.075, 0.075))
        s.limb(shoulder, TRIM, o[elbow], 0.035, 0.035)
        s.ball(shoulder, TOP, tuple(o[elbow] * 0.55), (0.075, 0.05, 0.05), 0.4)
        s.ball(elbow, TRIM, (0, 0, 0), (0.05, 0.05, 0.05), rings=7)
        s.ball(elbow, TOP, tuple(o[wrist] * 0.55), (0.1, 0.052, 0.052), 0.35)
        s.ball(wrist, SKIN, (way * 0.045, 0, 0), (0.045, 0.025, 0.045), 0.4, rings=7)
        for z in (-0.03, 0.03):
            s.limb(wrist, TRIM, (way * 0.13, -0.005, z), 0.016, 0.012, (way * 0.08, 0, z))
    return s


def _bear() -> PrimitiveMesh:
    s = PrimitiveMesh(_offsets(0.72, 0.86, 0.74))
    o = s.offsets
    s.ball(0, SKIN, (0, 0.0, -0.01), (0.2, 0.17, 0.175))
    s.ball(3, SKIN, (0, 0.03, 0.0), (0.205, 0.17, 0.18))
    s.ball(9, SKIN, (0, 0.0, -0.02), (0.17, 0.17, 0.145))
    s.ball(3, TRIM, (0, 0.0, 0.06), (0.165, 0.19, 0.145), rings=11)
    s.ball(0, SKIN, (0, -0.02, -0.19), (0.06, 0.06, 0.06), rings=7)
    s.ball(12, TOP, (0, 0.0, 0.0), (0.13, 0.035, 0.12))
    s.ball(15, SKIN, (0, 0.1, 0.0), (0.175, 0.155, 0.16), rings=11)
    s.ball(15, TRIM, (0, 0.055, 0.135), (0.08, 0.062, 0.075))
    s.ball(15, FACE, (0, 0.085, 0.205), (0.03, 0.022, 0.02), rings=7)
    for x in (-1, 1):
        s.ball(15, FACE, (x * 0.062, 0.13, 0.142), (0.02, 0.024, 0.016), rings=7)
        s.ball(15, SKIN, (x * 0.125, 0.235, -0.01), (0.065, 0.065, 0.035), rings=8)
        s.ball(15, TRIM, (x * 0.125, 0.235, 0.018), (0.04, 0.04, 0.02), rings=7)
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        s.limb(hip, SKIN, o[knee], 0.115, 0.095)
        s.limb(knee, SKIN, o[ankle], 0.095, 0.08)
        s.ball(ankle, SHOES, tuple(o[toe] * (0.5, 0.25, 0.55)), (0.085, 0.055, 0.13))
    for shoulder, elbow, wrist, hand in ((16, 18, 20, 22), (17, 19, 21, 23)):
        s.limb(shoulder, SKIN, o[elbow], 0.085, 0.075)
        s.limb(elbow, SKIN, o[wrist], 0.075, 0.07)
        s.ball(wrist, SHOES, tuple(o[hand] * 0.4), (0.085, 0.07, 0.08))
    return s


def _cat() -> PrimitiveMesh:
    s = PrimitiveMesh(_offsets(0.84, 0.86, 0.82))
    o = s.offsets
    s.ball(0, SKIN, (0, -0.01, -0.01), (0.125, 0.12, 0.11))
    s.limb(3, SKIN, o[6] + o[9], 0.105, 0.12)
    s.ball(9, SKIN, (0, 0.05, -0.01), (0.145, 0.15, 0.11))
    s.ball(9, TRIM, (0, 0.04, 0.04), (0.085, 0.13, 0.075))
    tail = [(0, -0.02, -0.1), (0, -0.06, -0.25), (0.05, 0.06, -0.38), (0.1, 0.24, -0.4), (0.08, 0.36, -0.34)]
    for index, (start, end) in enumerate(zip(tail[:-1], tail[1:], strict=True)):
        s.limb(0, TRIM if index == 3 else SKIN, end, 0.032, 0.03, start)
    s.limb(12, SKIN, o[15], 0.065, 0.065)
    s.ball(15, SKIN, (0, 0.1, 0.01), (0.16, 0.13, 0.135), rings=11)
    s.ball(15, TRIM, (0, 0.055, 0.115), (0.065, 0.045, 0.05))
    s.ball(15, SHOES, (0, 0.075, 0.163), (0.02, 0.014, 0.014), rings=7)
    for x in (-1, 1):
        s.ball(15, FACE, (x * 0.062, 0.115, 0.122), (0.026, 0.032, 0.016), rings=7)
        s.ball(15, SHOES, (x * 0.062, 0.115, 0.136), (0.009, 0.024, 0.006), rings=7)
        s.limb(15, SKIN, (x * 0.125, 0.285, 0.0), 0.06, 0.012, (x * 0.095, 0.185, 0.0))
        s.limb(15, TRIM, (x * 0.122, 0.262, 0.028), 0.034, 0.008, (x * 0.097, 0.19, 0.034))
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        s.limb(hip, SKIN, o[knee], 0.09, 0.06)
        s.limb(knee, SKIN, o[ankle], 0.058, 0.045)
        s.ball(ankle, TRIM, tuple(o[toe] * (0.5, 0.45, 0.6)), (0.052, 0.04, 0.105))
    for shoulder, elbow, wrist, hand in ((16, 18, 20, 22), (17, 19, 21, 23)):
        s.limb(shoulder, SKIN, o[elbow], 0.055, 0.045)
        s.limb(elbow, SKIN, o[wrist], 0.045, 0.042)
        s.ball(wrist, TRIM, tuple(o[hand] * 0.5), (0.06, 0.042, 0.05))
    s.ball(12, TOP, (0, 0.005, 0.0), (0.085, 0.022, 0.08))
    s.ball(12, FACE, (0, -0.02, 0.085), (0.022, 0.022, 0.022), rings=7)
    return s


def _doll() -> PrimitiveMesh:
    s = PrimitiveMesh(_offsets(0.9, 0.92, 0.88))
    o = s.offsets
    s.ball(0, BOTTOM, (0, -0.01, -0.01), (0.13, 0.1, 0.1), 0.8)
    s.limb(3, TRIM, o[6], 0.075, 0.075)
    s.ball(9, TOP, (0, 0.02, -0.01), (0.16, 0.15, 0.105), 0.7)
    for y in (0.08, 0.0):
        s.ball(9, TRIM, (0, y, 0.095), (0.016, 0.016, 0.012), rings=7)
    s.limb(12, SKIN, o[15], 0.04, 0.04)
    s.ball(15, SKIN, (0, 0.09, 0.0), (0.115, 0.13, 0.115), rings=11)
    s.ball(15, SKIN, (0, 0.075, 0.14), (0.018, 0.018, 0.06), rings=7)
    s.ball(15, HAIR, (0, 0.13, -0.022), (0.122, 0.108, 0.11), rings=9)
    s.limb(15, TOP, (0, 0.35, -0.02), 0.115, 0.012, (0, 0.185, -0.02))
    s.ball(15, TRIM, (0, 0.37, -0.02), (0.03, 0.03, 0.03), rings=7)
    for x in (-1, 1):
        s.ball(15, FACE, (x * 0.043, 0.105, 0.103), (0.016, 0.02, 0.01), rings=7)
        s.ball(15, TRIM, (x * 0.07, 0.05, 0.083), (0.022, 0.018, 0.01), rings=7)
    s.ball(15, FACE, (0, 0.028, 0.098), (0.034, 0.009, 0.01), rings=7)
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        s.limb(hip, BOTTOM, o[knee] * 0.86, 0.066, 0.05)
        s.ball(knee, TRIM, (0, 0, 0), (0.052, 0.052, 0.052), rings=7)
        s.limb(knee, SKIN, o[ankle], 0.043, 0.038, o[ankle] * 0.12)
        s.ball(ankle, SHOES, tuple(o[toe] * (0.5, 0.55, 0.55)), (0.056, 0.045, 0.115))
    for shoulder, elbow, wrist, hand in ((16, 18, 20, 22), (17, 19, 21, 23)):
        s.ball(shoulder, TRIM, (0, 0, 0), (0.056, 0.056, 0.056), rings=7)
        s.limb(shoulder, TOP, o[elbow] * 0.84, 0.042, 0.038, o[elbow] * 0.18)
        s.ball(elbow, TRIM, (0, 0, 0), (0.043, 0.043, 0.043), rings=7)
        s.limb(elbow, SKIN, o[wrist] * 0.95, 0.034, 0.03, o[wrist] * 0.15)
        s.ball(wrist, SKIN, tuple(o[hand] * 0.45), (0.055, 0.04, 0.045))
    return s


FIGURES: dict[str, Callable[[], PrimitiveMesh]] = {"robot": _robot, "bear": _bear, "cat": _cat, "doll": _doll}


def build(name: str) -> dict[str, np.ndarray]:
    """The mesh of a figure: the arguments of `zoo.body.render.mesh.Body` after its name and kind."""
    return FIGURES[name]().mesh()
