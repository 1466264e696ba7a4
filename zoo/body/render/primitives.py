"""Figures that are not human, made of rounded primitives that each move rigidly with one joint of the skeleton.

Every primitive is a superellipsoid or a tapered capsule with smooth normals: a few numbers make balls, boxes, tubes and
limbs. The semantic label of a primitive selects its color in `zoo.body.render.appearance.Appearance`.
"""

from collections.abc import Callable, Sequence

import numpy as np

from zoo.body.labels import BOTTOM, FACE, HAIR, JOINT_LIMB, SHOES, SKIN, TOP, TRIM
from zoo.body.skeleton import OFFSETS, PARENTS


class PrimitiveMesh:
    """Collects primitives, bound to joints, into one mesh. Coordinates: metres from the joint, at rest."""

    def __init__(self, offsets: np.ndarray):
        self.offsets = offsets
        self.joints = np.zeros((24, 3))
        for joint, parent in enumerate(PARENTS[1:], 1):
            self.joints[joint] = self.joints[parent] + offsets[joint]
        self._primitives = []  # (joint, label, points, normals, faces)

    @property
    def is_empty(self) -> bool:
        """Whether no primitive was added."""
        return not self._primitives

    def add_ellipsoid(
        self,
        joint: int,
        label: int,
        center: tuple[float, float, float],
        radii: tuple[float, float, float],
        exponent: float = 1.0,
        rings: int = 9,
    ) -> None:
        """Add a superellipsoid: exponent 1 gives an ellipsoid, smaller ones a box with round edges.

        label: semantic label; rings: points from pole to pole, with twice as many around.
        """
        latitude, longitude = np.meshgrid(
            np.linspace(-np.pi / 2, np.pi / 2, rings),
            np.linspace(0, 2 * np.pi, 2 * rings, endpoint=False),
            indexing="ij",
        )

        def surface(exponent: float) -> np.ndarray:
            """Points of the unit superellipsoid; with 2 - exponent they are along its normals."""

            def signed_power(function: Callable[[np.ndarray], np.ndarray], angle: np.ndarray) -> np.ndarray:
                return np.sign(function(angle)) * np.abs(function(angle)) ** exponent

            cos_latitude = signed_power(np.cos, latitude)
            return np.stack(
                [
                    cos_latitude * signed_power(np.cos, longitude),
                    signed_power(np.sin, latitude),
                    cos_latitude * signed_power(np.sin, longitude),
                ],
                -1,
            )

        points, normals = surface(exponent), surface(2 - exponent) / np.array(radii)
        self._add_grid(joint, label, points * radii + center, normals)

    def add_capsule(
        self,
        joint: int,
        label: int,
        end: np.ndarray,
        start_radius: float,
        end_radius: float,
        start: Sequence[float] = (0, 0, 0),
    ) -> None:
        """Add a tapered capsule from `start` to `end`."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        axis = (end - start) / np.linalg.norm(end - start)
        side_axis = np.cross(axis, [0, 0, 1.0] if abs(axis[2]) < 0.9 else [1.0, 0, 0])
        side_axis /= np.linalg.norm(side_axis)
        angles = np.linspace(0, 2 * np.pi, 14, endpoint=False)
        ring = np.cos(angles)[:, None] * np.cross(side_axis, axis) + np.sin(angles)[:, None] * side_axis
        start_latitudes, end_latitudes = np.linspace(-np.pi / 2, 0, 4), np.linspace(0, np.pi / 2, 4)
        points, normals = [], []
        for center, radius, latitudes in ((start, start_radius, start_latitudes), (end, end_radius, end_latitudes)):
            for latitude in latitudes:
                normal = np.cos(latitude) * ring + np.sin(latitude) * axis
                points.append(center + radius * normal)
                normals.append(normal)
        self._add_grid(joint, label, np.stack(points), np.stack(normals))

    def _add_grid(self, joint: int, label: int, points: np.ndarray, normals: np.ndarray) -> None:
        """Add a grid of points (rings, columns, 3), whose columns close a circle; a ring may shrink to one point.

        Faces are turned outwards, and those without an area left out.
        """
        rings, columns = points.shape[:2]
        index = np.arange(rings * columns).reshape(rings, columns)
        a, b = index[:-1], index[1:]
        c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
        faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
        points, normals = points.reshape(-1, 3), normals.reshape(-1, 3)
        corners = points[faces]
        face_normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        has_area = np.linalg.norm(face_normals, axis=1) > 1e-9
        faces, face_normals = faces[has_area], face_normals[has_area]
        if (face_normals * normals[faces[:, 0]]).sum() < 0:
            faces = faces[:, ::-1]
        self._primitives.append((joint, label, points + self.joints[joint], normals, faces))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """The arguments of `zoo.body.render.mesh.Body` after `name` and `human`."""
        primitive_joints, primitive_labels, primitive_points, primitive_normals, primitive_faces = zip(
            *self._primitives, strict=True
        )
        num_points = [len(points) for points in primitive_points]
        first_vertices = np.cumsum([0, *num_points[:-1]])
        vertex_joints = np.repeat(primitive_joints, num_points)
        normals = np.concatenate(primitive_normals)
        faces = [faces + first_vertex for faces, first_vertex in zip(primitive_faces, first_vertices, strict=True)]
        num_faces = [len(primitive_face) for primitive_face in faces]
        return {
            "vertices": np.concatenate(primitive_points).astype(np.float32),
            "normals": (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
            "faces": np.concatenate(faces).astype(np.int32),
            "weights": np.eye(24, dtype=np.float32)[vertex_joints],
            "offsets": self.offsets.astype(np.float32),
            "limbs": np.repeat([JOINT_LIMB[joint] for joint in primitive_joints], num_faces).astype(np.uint8),
            "semantic": np.repeat(primitive_labels, num_faces).astype(np.uint8),
        }


def _scaled_offsets(leg_scale: float, trunk_scale: float, arm_scale: float) -> np.ndarray:
    """Canonical offsets with groups of bones scaled (legs all by one factor: see `Body.scale_root`)."""
    scales = np.full(24, trunk_scale)
    scales[[1, 2, 4, 5, 7, 8, 10, 11]], scales[18:] = leg_scale, arm_scale
    return OFFSETS.numpy().astype(float) * scales[:, None]


def _robot() -> PrimitiveMesh:
    mesh = PrimitiveMesh(_scaled_offsets(0.95, 0.98, 0.95))
    bones = mesh.offsets
    mesh.add_ellipsoid(0, BOTTOM, (0, -0.02, -0.01), (0.15, 0.085, 0.1), 0.35)
    mesh.add_capsule(3, TRIM, bones[6], 0.07, 0.07)
    mesh.add_ellipsoid(9, TOP, (0, 0.01, 0.0), (0.19, 0.17, 0.125), 0.3)
    mesh.add_ellipsoid(9, TRIM, (0, 0.03, 0.115), (0.1, 0.07, 0.02), 0.3)
    mesh.add_ellipsoid(9, FACE, (0.05, 0.03, 0.13), (0.02, 0.02, 0.012))
    mesh.add_ellipsoid(9, SHOES, (-0.04, 0.03, 0.13), (0.03, 0.012, 0.012), 0.4)
    mesh.add_capsule(12, TRIM, bones[15] * 0.8, 0.045, 0.045)
    mesh.add_ellipsoid(15, SKIN, (0, 0.11, -0.005), (0.125, 0.105, 0.11), 0.3)
    mesh.add_ellipsoid(15, TRIM, (0, 0.115, 0.1), (0.1, 0.05, 0.015), 0.35)
    for x in (-0.045, 0.045):
        mesh.add_ellipsoid(15, FACE, (x, 0.12, 0.115), (0.024, 0.024, 0.012), rings=7)
        mesh.add_ellipsoid(15, TRIM, (2.85 * x, 0.1, -0.005), (0.025, 0.045, 0.045), 0.6, rings=7)
    mesh.add_capsule(15, TRIM, (0, 0.27, 0), 0.01, 0.01, (0, 0.2, 0))
    mesh.add_ellipsoid(15, FACE, (0, 0.29, 0), (0.028, 0.028, 0.028), rings=7)
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        mesh.add_capsule(hip, TRIM, bones[knee], 0.05, 0.045)
        mesh.add_ellipsoid(hip, BOTTOM, tuple(bones[knee] * 0.5), (0.07, 0.13, 0.075), 0.35)
        mesh.add_ellipsoid(knee, TRIM, (0, 0, 0.01), (0.065, 0.055, 0.065), 0.7, rings=7)
        mesh.add_ellipsoid(knee, BOTTOM, tuple(bones[ankle] * 0.52), (0.065, 0.15, 0.07), 0.35)
        mesh.add_ellipsoid(ankle, SHOES, tuple(bones[toe] * (0.5, 0.6, 0.5)), (0.065, 0.04, 0.13), 0.35)
    for shoulder, elbow, wrist in ((16, 18, 20), (17, 19, 21)):
        direction = np.sign(bones[elbow][0])
        mesh.add_ellipsoid(shoulder, TRIM, (0, 0, 0), (0.075, 0.075, 0.075))
        mesh.add_capsule(shoulder, TRIM, bones[elbow], 0.035, 0.035)
        mesh.add_ellipsoid(shoulder, TOP, tuple(bones[elbow] * 0.55), (0.075, 0.05, 0.05), 0.4)
        mesh.add_ellipsoid(elbow, TRIM, (0, 0, 0), (0.05, 0.05, 0.05), rings=7)
        mesh.add_ellipsoid(elbow, TOP, tuple(bones[wrist] * 0.55), (0.1, 0.052, 0.052), 0.35)
        mesh.add_ellipsoid(wrist, SKIN, (direction * 0.045, 0, 0), (0.045, 0.025, 0.045), 0.4, rings=7)
        for z in (-0.03, 0.03):
            mesh.add_capsule(wrist, TRIM, (direction * 0.13, -0.005, z), 0.016, 0.012, (direction * 0.08, 0, z))
    return mesh


def _bear() -> PrimitiveMesh:
    mesh = PrimitiveMesh(_scaled_offsets(0.72, 0.86, 0.74))
    bones = mesh.offsets
    mesh.add_ellipsoid(0, SKIN, (0, 0.0, -0.01), (0.2, 0.17, 0.175))
    mesh.add_ellipsoid(3, SKIN, (0, 0.03, 0.0), (0.205, 0.17, 0.18))
    mesh.add_ellipsoid(9, SKIN, (0, 0.0, -0.02), (0.17, 0.17, 0.145))
    mesh.add_ellipsoid(3, TRIM, (0, 0.0, 0.06), (0.165, 0.19, 0.145), rings=11)
    mesh.add_ellipsoid(0, SKIN, (0, -0.02, -0.19), (0.06, 0.06, 0.06), rings=7)
    mesh.add_ellipsoid(12, TOP, (0, 0.0, 0.0), (0.13, 0.035, 0.12))
    mesh.add_ellipsoid(15, SKIN, (0, 0.1, 0.0), (0.175, 0.155, 0.16), rings=11)
    mesh.add_ellipsoid(15, TRIM, (0, 0.055, 0.135), (0.08, 0.062, 0.075))
    mesh.add_ellipsoid(15, FACE, (0, 0.085, 0.205), (0.03, 0.022, 0.02), rings=7)
    for x in (-1, 1):
        mesh.add_ellipsoid(15, FACE, (x * 0.062, 0.13, 0.142), (0.02, 0.024, 0.016), rings=7)
        mesh.add_ellipsoid(15, SKIN, (x * 0.125, 0.235, -0.01), (0.065, 0.065, 0.035), rings=8)
        mesh.add_ellipsoid(15, TRIM, (x * 0.125, 0.235, 0.018), (0.04, 0.04, 0.02), rings=7)
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        mesh.add_capsule(hip, SKIN, bones[knee], 0.115, 0.095)
        mesh.add_capsule(knee, SKIN, bones[ankle], 0.095, 0.08)
        mesh.add_ellipsoid(ankle, SHOES, tuple(bones[toe] * (0.5, 0.25, 0.55)), (0.085, 0.055, 0.13))
    for shoulder, elbow, wrist, hand in ((16, 18, 20, 22), (17, 19, 21, 23)):
        mesh.add_capsule(shoulder, SKIN, bones[elbow], 0.085, 0.075)
        mesh.add_capsule(elbow, SKIN, bones[wrist], 0.075, 0.07)
        mesh.add_ellipsoid(wrist, SHOES, tuple(bones[hand] * 0.4), (0.085, 0.07, 0.08))
    return mesh


def _cat() -> PrimitiveMesh:
    mesh = PrimitiveMesh(_scaled_offsets(0.84, 0.86, 0.82))
    bones = mesh.offsets
    mesh.add_ellipsoid(0, SKIN, (0, -0.01, -0.01), (0.125, 0.12, 0.11))
    mesh.add_capsule(3, SKIN, bones[6] + bones[9], 0.105, 0.12)
    mesh.add_ellipsoid(9, SKIN, (0, 0.05, -0.01), (0.145, 0.15, 0.11))
    mesh.add_ellipsoid(9, TRIM, (0, 0.04, 0.04), (0.085, 0.13, 0.075))
    tail = [(0, -0.02, -0.1), (0, -0.06, -0.25), (0.05, 0.06, -0.38), (0.1, 0.24, -0.4), (0.08, 0.36, -0.34)]
    for index, (start, end) in enumerate(zip(tail[:-1], tail[1:], strict=True)):
        mesh.add_capsule(0, TRIM if index == 3 else SKIN, end, 0.032, 0.03, start)
    mesh.add_capsule(12, SKIN, bones[15], 0.065, 0.065)
    mesh.add_ellipsoid(15, SKIN, (0, 0.1, 0.01), (0.16, 0.13, 0.135), rings=11)
    mesh.add_ellipsoid(15, TRIM, (0, 0.055, 0.115), (0.065, 0.045, 0.05))
    mesh.add_ellipsoid(15, SHOES, (0, 0.075, 0.163), (0.02, 0.014, 0.014), rings=7)
    for x in (-1, 1):
        mesh.add_ellipsoid(15, FACE, (x * 0.062, 0.115, 0.122), (0.026, 0.032, 0.016), rings=7)
        mesh.add_ellipsoid(15, SHOES, (x * 0.062, 0.115, 0.136), (0.009, 0.024, 0.006), rings=7)
        mesh.add_capsule(15, SKIN, (x * 0.125, 0.285, 0.0), 0.06, 0.012, (x * 0.095, 0.185, 0.0))
        mesh.add_capsule(15, TRIM, (x * 0.122, 0.262, 0.028), 0.034, 0.008, (x * 0.097, 0.19, 0.034))
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        mesh.add_capsule(hip, SKIN, bones[knee], 0.09, 0.06)
        mesh.add_capsule(knee, SKIN, bones[ankle], 0.058, 0.045)
        mesh.add_ellipsoid(ankle, TRIM, tuple(bones[toe] * (0.5, 0.45, 0.6)), (0.052, 0.04, 0.105))
    for shoulder, elbow, wrist, hand in ((16, 18, 20, 22), (17, 19, 21, 23)):
        mesh.add_capsule(shoulder, SKIN, bones[elbow], 0.055, 0.045)
        mesh.add_capsule(elbow, SKIN, bones[wrist], 0.045, 0.042)
        mesh.add_ellipsoid(wrist, TRIM, tuple(bones[hand] * 0.5), (0.06, 0.042, 0.05))
    mesh.add_ellipsoid(12, TOP, (0, 0.005, 0.0), (0.085, 0.022, 0.08))
    mesh.add_ellipsoid(12, FACE, (0, -0.02, 0.085), (0.022, 0.022, 0.022), rings=7)
    return mesh


def _doll() -> PrimitiveMesh:
    mesh = PrimitiveMesh(_scaled_offsets(0.9, 0.92, 0.88))
    bones = mesh.offsets
    mesh.add_ellipsoid(0, BOTTOM, (0, -0.01, -0.01), (0.13, 0.1, 0.1), 0.8)
    mesh.add_capsule(3, TRIM, bones[6], 0.075, 0.075)
    mesh.add_ellipsoid(9, TOP, (0, 0.02, -0.01), (0.16, 0.15, 0.105), 0.7)
    for y in (0.08, 0.0):
        mesh.add_ellipsoid(9, TRIM, (0, y, 0.095), (0.016, 0.016, 0.012), rings=7)
    mesh.add_capsule(12, SKIN, bones[15], 0.04, 0.04)
    mesh.add_ellipsoid(15, SKIN, (0, 0.09, 0.0), (0.115, 0.13, 0.115), rings=11)
    mesh.add_ellipsoid(15, SKIN, (0, 0.075, 0.14), (0.018, 0.018, 0.06), rings=7)
    mesh.add_ellipsoid(15, HAIR, (0, 0.13, -0.022), (0.122, 0.108, 0.11), rings=9)
    mesh.add_capsule(15, TOP, (0, 0.35, -0.02), 0.115, 0.012, (0, 0.185, -0.02))
    mesh.add_ellipsoid(15, TRIM, (0, 0.37, -0.02), (0.03, 0.03, 0.03), rings=7)
    for x in (-1, 1):
        mesh.add_ellipsoid(15, FACE, (x * 0.043, 0.105, 0.103), (0.016, 0.02, 0.01), rings=7)
        mesh.add_ellipsoid(15, TRIM, (x * 0.07, 0.05, 0.083), (0.022, 0.018, 0.01), rings=7)
    mesh.add_ellipsoid(15, FACE, (0, 0.028, 0.098), (0.034, 0.009, 0.01), rings=7)
    for hip, knee, ankle, toe in ((1, 4, 7, 10), (2, 5, 8, 11)):
        mesh.add_capsule(hip, BOTTOM, bones[knee] * 0.86, 0.066, 0.05)
        mesh.add_ellipsoid(knee, TRIM, (0, 0, 0), (0.052, 0.052, 0.052), rings=7)
        mesh.add_capsule(knee, SKIN, bones[ankle], 0.043, 0.038, bones[ankle] * 0.12)
        mesh.add_ellipsoid(ankle, SHOES, tuple(bones[toe] * (0.5, 0.55, 0.55)), (0.056, 0.045, 0.115))
    for shoulder, elbow, wrist, hand in ((16, 18, 20, 22), (17, 19, 21, 23)):
        mesh.add_ellipsoid(shoulder, TRIM, (0, 0, 0), (0.056, 0.056, 0.056), rings=7)
        mesh.add_capsule(shoulder, TOP, bones[elbow] * 0.84, 0.042, 0.038, bones[elbow] * 0.18)
        mesh.add_ellipsoid(elbow, TRIM, (0, 0, 0), (0.043, 0.043, 0.043), rings=7)
        mesh.add_capsule(elbow, SKIN, bones[wrist] * 0.95, 0.034, 0.03, bones[wrist] * 0.15)
        mesh.add_ellipsoid(wrist, SKIN, tuple(bones[hand] * 0.45), (0.055, 0.04, 0.045))
    return mesh


FIGURES: dict[str, Callable[[], PrimitiveMesh]] = {"robot": _robot, "bear": _bear, "cat": _cat, "doll": _doll}


def build_figure(name: str) -> dict[str, np.ndarray]:
    """The mesh of a figure: the arguments of `zoo.body.render.mesh.Body` after `name` and `human`."""
    return FIGURES[name]().to_arrays()
