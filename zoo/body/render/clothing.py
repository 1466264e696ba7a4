"""Clothes, hair and facial features of human bodies: their borders on the surface, and the shapes that they add to it.

Borders are surfaces in the body's rest frame. They are evaluated at each point that is drawn, so that a collar or an
eye is as sharp as the image and not as coarse as the mesh.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np

from zoo.body.labels import (
    BOTTOM,
    BY_POSITION,
    FACE,
    FOOT,
    FOREARM,
    HAIR,
    HEAD,
    SHIN,
    SHOES,
    SKIN,
    THIGH,
    TOP,
    TORSO,
    TRIM,
    UPPER_ARM,
)
from zoo.body.render.mesh import Body, load_body
from zoo.body.render.primitives import PrimitiveMesh

HAIR_STYLES = ("bald", "short", "long", "bun", "afro", "cap")
SLEEVES = {"none": 0.0, "short": 0.55, "long": 1.96}  # end along the arm: 1 is the elbow, 2 the wrist
LEGWEAR = {"shorts": 0.75, "trousers": 1.93, "skirt": 0.95}  # end along the leg: 1 is the knee, 2 the ankle
EYE_TO_MOUTH = 0.0676  # metres on the body 'man', whose scale face coordinates have
# Lengths below are metres on a body with legs of the canonical length; on the head, in face coordinates.
CLOTH_THICKNESS = {TOP: 0.008, BOTTOM: 0.012, SHOES: 0.012}
SCALP_THICKNESS = {"short": 0.011, "long": 0.013, "bun": 0.007, "afro": 0.012, "cap": 0.012}
WAIST_ABOVE_HIPS, SHOE_ABOVE_ANKLE = 0.12, 0.035
EYE_OFFSET = 0.0325  # distance of an eye from the middle of the face
SKIRT_COLUMNS, SKIRT_ROWS = 28, 6  # vertices around the skirt, and from waist to hem
SKIRT_SWING = 0.75  # skinning weight of the thighs at the hem; the pelvis has the rest


def _face_coordinates(body: Body, point: np.ndarray) -> np.ndarray:
    """Positions on the head at the scale of 'man': x to the left, y up from the eyes, z out of the face. (N, 3) both"""
    left_eye, mouth = body.features
    return (point - [0, left_eye[1], body.joints[15, 2]]) * (EYE_TO_MOUTH / (left_eye[1] - mouth[1]))


def _height_above_hairline(head_points: np.ndarray) -> np.ndarray:
    """The hairline is high at the forehead and low at the nape. (N, 3) face coordinates -> (N,)"""
    y, z = head_points[:, 1], head_points[:, 2]
    return y + 0.004 - 0.72 * np.clip(z, -0.11, 0.075)


def _in_neckline(body: Body, point: np.ndarray) -> np.ndarray:
    """Whether a point of the trunk lies within the neckline: a round one, lower in front. (N, 3) -> (N,) bool"""
    x, y, z = (point - body.joints[12]).T
    scale = body.leg_scale
    return (np.hypot(x, z - 0.02 * scale) < 0.1 * scale) & (y > -0.02 * scale - 0.5 * np.clip(z, 0, 0.1))


def semantic_at(
    body: Body, face: np.ndarray, point: np.ndarray, limb: np.ndarray, hair_style: str, sleeves: str, legwear: str
) -> np.ndarray:
    """Semantic label of surface points. face, limb (N,), point (N, 3) rest positions -> (N,) uint8"""
    face_labels = body.semantic[face]
    if not body.human:
        return face_labels
    joints, scale = body.joints, body.leg_scale
    labels = np.full(len(point), SKIN, np.uint8)
    lateral, height = np.abs(point[:, 0]), point[:, 1]
    hip_y, knee_y, ankle_y = (joints[pair, 1].mean() for pair in ([1, 2], [4, 5], [7, 8]))
    shoulder_x, elbow_x, wrist_x = (np.abs(joints[pair, 0]).mean() for pair in ([16, 17], [18, 19], [20, 21]))
    is_torso, is_head = limb == TORSO, limb == HEAD
    is_lower = is_torso | (limb == THIGH) | (limb == SHIN)
    is_arm = (limb == UPPER_ARM) | (limb == FOREARM)
    along_arm = np.where(
        lateral < elbow_x,
        (lateral - shoulder_x) / (elbow_x - shoulder_x),
        1 + (lateral - elbow_x) / (wrist_x - elbow_x),
    )
    labels[is_torso & ~_in_neckline(body, point) | is_arm & (along_arm < SLEEVES[sleeves])] = TOP
    waist_y = hip_y + WAIST_ABOVE_HIPS * scale
    along_leg = np.where(
        height > knee_y, (hip_y - height) / (hip_y - knee_y), 1 + (knee_y - height) / (knee_y - ankle_y)
    )
    labels[is_lower & (height < waist_y) & (along_leg < LEGWEAR[legwear])] = BOTTOM
    labels[(limb == FOOT) | (limb == SHIN) & (height < ankle_y + SHOE_ABOVE_ANKLE * scale)] = SHOES
    head_points = _face_coordinates(body, point)
    if hair_style != "bald":
        labels[is_head & (_height_above_hairline(head_points) > 0)] = TRIM if hair_style == "cap" else HAIR
    x, y, z = head_points.T
    eye_distance = np.abs(np.abs(x) - EYE_OFFSET)  # distance from the middle of an eye
    is_eye = np.square(eye_distance / 0.014) + np.square((y - 0.002) / 0.0085) < 1
    is_brow = (eye_distance < 0.019) & (np.abs(y - 0.0225 + 0.2 * eye_distance) < 0.0045)
    is_mouth = np.square(x / 0.026) + np.square((y + EYE_TO_MOUTH - 6 * np.square(x)) / 0.008) < 1  # it smiles
    labels[is_head & (z > 0.03) & (is_eye | is_brow | is_mouth)] = FACE
    return np.where(face_labels == BY_POSITION, labels, face_labels)


@lru_cache(maxsize=64)
def add_clothes(name: str, hair_style: str, sleeves: str, legwear: str) -> Body:
    """The body of that name with clothes: cloth stands off the skin, hair and skirt are added.

    Keys of HAIR_STYLES, SLEEVES and LEGWEAR. Figures that are not human stay as they are.
    """
    bare = load_body(name)
    if not bare.human:
        return bare
    faces = np.arange(len(bare.faces))
    centers = bare.vertices[bare.faces].mean(1)
    labels = semantic_at(bare, faces, centers, bare.limbs_at(faces, centers), hair_style, sleeves, legwear)
    thickness = np.zeros(8)
    thickness[list(CLOTH_THICKNESS)] = np.array(list(CLOTH_THICKNESS.values())) * bare.leg_scale
    thickness_sums = np.zeros(len(bare.vertices))
    num_faces = np.zeros(len(bare.vertices))
    np.add.at(thickness_sums, bare.faces, thickness[labels][:, None])
    np.add.at(num_faces, bare.faces, 1)
    vertices = bare.vertices + bare.normals * (thickness_sums / num_faces)[:, None].astype(np.float32)
    vertices[:, 1] = np.maximum(vertices[:, 1], bare.vertices[:, 1].min())  # soles stay on the floor
    clothed = replace(bare, vertices=vertices)
    for addition in (_make_hair(bare, hair_style), _make_skirt(bare) if legwear == "skirt" else None):
        if addition is not None:
            clothed = _append(clothed, addition)
    return clothed


def _append(body: Body, addition: dict[str, np.ndarray]) -> Body:
    """The body with a further mesh, given as arrays of the fields of `Body`."""
    arrays = {
        key: np.concatenate([getattr(body, key), addition[key]])
        for key in ("vertices", "normals", "weights", "limbs", "semantic")
    }
    return replace(body, **arrays, faces=np.concatenate([body.faces, addition["faces"] + len(body.vertices)]))


def _make_hair(bare: Body, style: str) -> dict[str, np.ndarray] | None:
    """Volumes of hair, or a cap, that move with the head."""
    if style == "bald":
        return None
    eye, mouth = bare.features
    head_scale = float(eye[1] - mouth[1]) / EYE_TO_MOUTH
    mesh = PrimitiveMesh(bare.offsets)
    origin = np.array([0, eye[1], bare.joints[15, 2]]) - mesh.joints[15]

    def add_ellipsoid(label: int, center: Sequence[float], radii: Sequence[float], **shape: float) -> None:
        mesh.add_ellipsoid(
            15, label, tuple(origin + np.multiply(center, head_scale)), tuple(np.multiply(radii, head_scale)), **shape
        )

    scalp = _make_scalp(bare, SCALP_THICKNESS[style])
    if style == "long":
        add_ellipsoid(HAIR, (0, -0.045, -0.055), (0.09, 0.14, 0.052), exponent=0.8)
        add_ellipsoid(HAIR, (0, -0.16, -0.075), (0.076, 0.09, 0.034), exponent=0.7)
    elif style == "bun":
        add_ellipsoid(HAIR, (0, 0.095, -0.085), (0.045, 0.042, 0.042))
    elif style == "afro":
        add_ellipsoid(HAIR, (0, 0.06, -0.026), (0.135, 0.115, 0.118), rings=11)
    elif style == "cap":
        add_ellipsoid(TRIM, (0, 0.05, 0.1), (0.066, 0.009, 0.06), exponent=0.8)
    if not mesh.is_empty:
        volumes = mesh.to_arrays()
        volumes["faces"] = volumes["faces"] + len(scalp["vertices"])
        scalp = {key: np.concatenate([scalp[key], volumes[key]]) for key in scalp}
    return scalp


def _make_scalp(bare: Body, thickness: float) -> dict[str, np.ndarray]:
    """The scalp above the hairline, lifted off the head. Its labels follow from position."""
    centers = bare.vertices[bare.faces].mean(1)
    height = _height_above_hairline(_face_coordinates(bare, bare.vertices))
    is_head = bare.limbs_at(np.arange(len(bare.faces)), centers) == HEAD
    scalp_faces = bare.faces[is_head & (height[bare.faces].max(1) > 0)]
    vertices, faces = np.unique(scalp_faces, return_inverse=True)
    lift = thickness * bare.leg_scale * np.clip(height[vertices] / 0.03, 0, 1)
    return {
        "vertices": (bare.vertices[vertices] + bare.normals[vertices] * lift[:, None]).astype(np.float32),
        "normals": bare.normals[vertices],
        "faces": faces.reshape(-1, 3).astype(np.int32),
        "weights": bare.weights[vertices],
        "limbs": np.full(len(scalp_faces), HEAD, np.uint8),
        "semantic": np.full(len(scalp_faces), BY_POSITION, np.uint8),
    }


def _make_skirt(bare: Body) -> dict[str, np.ndarray]:
    """A flared skirt from the waist to above the knee; it swings with pelvis and thighs."""
    joints, scale = bare.joints, bare.leg_scale
    hip_y, knee_y = joints[1:3, 1].mean(), joints[4:6, 1].mean()
    level_heights = np.linspace(hip_y + WAIST_ABOVE_HIPS * scale, hip_y + 0.8 * (knee_y - hip_y), SKIRT_ROWS)
    angles = np.linspace(0, 2 * np.pi, SKIRT_COLUMNS, endpoint=False)
    points, normals, weights = [], [], []
    limb = bare.limbs_at(np.arange(len(bare.faces)), bare.vertices[bare.faces].mean(1))
    trunk_points = bare.vertices[np.unique(bare.faces[(limb == TORSO) | (limb == THIGH)])]
    center_z = trunk_points[:, 2].max() / 2 + trunk_points[:, 2].min() / 2
    ring_radii = np.zeros(2)
    for level_index, level_height in enumerate(level_heights):
        slab_points = trunk_points[np.abs(trunk_points[:, 1] - level_height) < 0.05 * scale]
        body_radii = (
            np.array([np.abs(slab_points[:, 0]).max(), np.abs(slab_points[:, 2] - center_z).max()]) + 0.014 * scale
        )
        ring_radii = np.maximum(body_radii, ring_radii + (0.032 * scale if level_index > 1 else 0))
        x, z = ring_radii[0] * np.cos(angles), ring_radii[1] * np.sin(angles)
        points.append(np.stack([x, np.full_like(x, level_height), z + center_z], 1))
        normals.append(np.stack([np.cos(angles), np.full_like(x, 0.25), np.sin(angles)], 1))
        thigh_weight = SKIRT_SWING * np.clip(level_index / (len(level_heights) - 1), 0, 1)
        left_share = 0.5 + 0.5 * np.clip(np.cos(angles) * 1.5, -1, 1)
        level_weights = np.zeros((len(angles), 24), np.float32)
        level_weights[:, 0], level_weights[:, 1], level_weights[:, 2] = (
            1 - thigh_weight,
            thigh_weight * left_share,
            thigh_weight * (1 - left_share),
        )
        weights.append(level_weights)
    index = np.arange(len(level_heights) * len(angles)).reshape(len(level_heights), -1)
    a, b = index[:-1], index[1:]
    c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    normals = np.concatenate(normals)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    faces = np.concatenate([faces, faces[:, ::-1] + index.size])  # the inside is visible from below
    return {
        "vertices": np.tile(np.concatenate(points), (2, 1)).astype(np.float32),
        "normals": np.concatenate([normals, -normals]).astype(np.float32),
        "faces": faces.astype(np.int32),
        "weights": np.tile(np.concatenate(weights), (2, 1)),
        "limbs": np.full(len(faces), THIGH, np.uint8),
        "semantic": np.full(len(faces), BOTTOM, np.uint8),
    }
