"""What a human body wears: where clothes, hair and features lie on it, and the shapes that they add to it.

Borders are surfaces in the body's rest frame, evaluated at each point that is drawn, so that a collar or an eye is as sharp
as the picture and not as coarse as the mesh.
"""

from dataclasses import replace
from functools import lru_cache

import numpy as np

from zoo.body.figures import Solids
from zoo.body.labels import (
    BOTTOM,
    BY_POSITION,
    FACE,
    FOOT,
    FOREARM,
    HAIR,
    HAND,
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
from zoo.body.mesh import Body, body

HAIR_STYLES = ("bald", "short", "long", "bun", "afro", "cap")
SLEEVES = {"none": 0.0, "short": 0.55, "long": 1.96}  # reach along the arm: 1 is the elbow, 2 the wrist
LEGWEAR = {"shorts": 0.75, "trousers": 1.93, "skirt": 0.95}  # reach along the leg: 1 is the knee, 2 the ankle


def _head(body: Body) -> tuple[np.ndarray, float]:
    """Middle of the head and its size, 1 on the canonical man."""
    top = body.vertices[:, 1].max()
    size = float(top - body.joints[15, 1]) / 0.154
    return np.array([0, body.joints[15, 1] + 0.05 * size, body.joints[15, 2] + 0.01 * size]), size


def _hairy(point: np.ndarray, centre: np.ndarray, size: float) -> np.ndarray:
    """Signed distance-like height above the hairline: forehead high, nape low. (N, 3) -> (N,) metres"""
    local = (point - centre) / size
    return (
        local[:, 1] - 0.012 - 0.78 * np.minimum(local[:, 2], 0.1) + 0.25 * np.maximum(local[:, 2] - 0.055, 0)
    ) * size


def semantic_at(body: Body, face: np.ndarray, point: np.ndarray, limb: np.ndarray, hair: str, sleeves: str, legs: str):
    """Semantic label of surface points. face, limb (N,), point (N, 3) rest positions -> (N,) uint8"""
    zone = body.zones[face]
    if not body.human:
        return zone
    joints, size = body.joints, body.legs
    out = np.full(len(point), SKIN, np.uint8)
    side, height = np.abs(point[:, 0]), point[:, 1]
    hip, knee, ankle = (joints[pair, 1].mean() for pair in ([1, 2], [4, 5], [7, 8]))
    shoulder, elbow, wrist = (np.abs(joints[pair, 0]).mean() for pair in ([16, 17], [18, 19], [20, 21]))
    torso, head = limb == TORSO, limb == HEAD
    lower = torso | (limb == THIGH) | (limb == SHIN)
    # a round neck that dips in front, and shoulder straps where there are no sleeves
    neck = joints[12, 1] - 0.015 * size + 0.25 * np.maximum(side - 0.05 * size, 0) - 0.3 * np.maximum(point[:, 2], 0)
    arm = np.where(side < elbow, (side - shoulder) / (elbow - shoulder), 1 + (side - elbow) / (wrist - elbow))
    arms = (limb == UPPER_ARM) | (limb == FOREARM)
    out[torso & (height < np.maximum(neck, joints[9, 1])) | arms & (arm < SLEEVES[sleeves])] = TOP
    waist = hip + 0.12 * size
    reach = np.where(height > knee, (hip - height) / (hip - knee), 1 + (knee - height) / (knee - ankle))
    out[lower & (height < waist) & (reach < LEGWEAR[legs])] = BOTTOM
    out[(limb == FOOT) | (limb == SHIN) & (height < ankle + 0.035 * size)] = SHOES
    centre, scale = _head(body)
    if hair != "bald":
        out[head & (_hairy(point, centre, scale) > 0)] = HAIR
    x, y, z = ((point - centre) / scale).T
    front = head & (z > 0.02)
    out[front & (np.square((np.abs(x) - 0.031) / 0.0135) + np.square((y - 0.004) / 0.008) < 1)] = FACE
    out[
        front & (np.abs(np.abs(x) - 0.031) < 0.02) & (np.abs(y - 0.025 + 0.15 * np.abs(np.abs(x) - 0.031)) < 0.0045)
    ] = HAIR
    out[front & (np.square(x / 0.025) + np.square((y + 0.064) / 0.0075) < 1)] = FACE
    return np.where(zone == BY_POSITION, out, zone)


@lru_cache(maxsize=64)
def dress(name: str, hair: str, sleeves: str, legs: str) -> Body:
    """The body of that name in clothes: cloth stands off the skin, hair and skirt are added. Figures stay as they are."""
    bare = body(name)
    if not bare.human:
        return bare
    faces = np.arange(len(bare.faces))
    centres = bare.vertices[bare.faces].mean(1)
    zones = semantic_at(bare, faces, centres, bare.limbs_at(faces, centres), hair, sleeves, legs)
    thickness = np.zeros(8)
    thickness[[TOP, BOTTOM, SHOES]] = np.array([0.008, 0.012, 0.012]) * bare.legs
    cloth = np.zeros(len(bare.vertices))
    count = np.zeros(len(bare.vertices))
    np.add.at(cloth, bare.faces, thickness[zones][:, None])
    np.add.at(count, bare.faces, 1)
    vertices = bare.vertices + bare.normals * (cloth / count)[:, None].astype(np.float32)
    vertices[:, 1] = np.maximum(vertices[:, 1], bare.vertices[:, 1].min())  # soles stay on the floor
    dressed = replace(bare, vertices=vertices)
    for extra in (_hair(bare, hair), _skirt(bare) if legs == "skirt" else None):
        if extra is not None:
            dressed = _joined(dressed, extra)
    return dressed


def _joined(first: Body, extra: dict[str, np.ndarray]) -> Body:
    parts = {
        key: np.concatenate([getattr(first, key), extra[key]])
        for key in ("vertices", "normals", "weights", "limbs", "zones")
    }
    return replace(first, **parts, faces=np.concatenate([first.faces, extra["faces"] + len(first.vertices)]))


def _hair(bare: Body, style: str) -> dict[str, np.ndarray] | None:
    """Volumes of hair (or a cap), moving with the head."""
    if style == "bald":
        return None
    (x, y, z), size = _head(bare)
    s = Solids(bare.offsets)
    x, y, z = np.array([x, y, z]) - s.joints[15]

    def ball(zone, centre, radii, **shape):
        s.ball(15, zone, tuple(np.add((x, y, z), np.multiply(centre, size))), tuple(np.multiply(radii, size)), **shape)

    shell = {"short": 0.010, "long": 0.012, "bun": 0.007, "afro": 0.02, "cap": 0.012}[style]
    zone = TRIM if style == "cap" else HAIR
    cap = _shell(bare, shell * size, zone)
    if style == "long":
        ball(HAIR, (0, -0.05, -0.055), (0.088, 0.14, 0.05), square=0.8)
        ball(HAIR, (0, -0.16, -0.075), (0.075, 0.1, 0.032), square=0.8)
    elif style == "bun":
        ball(HAIR, (0, 0.1, -0.075), (0.045, 0.042, 0.042))
    elif style == "afro":
        ball(HAIR, (0, 0.055, -0.045), (0.135, 0.12, 0.115), rings=11)
    elif style == "cap":
        ball(TRIM, (0, 0.062, 0.095), (0.068, 0.008, 0.075), square=0.7)
    if not s.empty:
        solids = s.mesh()
        cap = {
            key: np.concatenate([cap[key], solids[key] + (len(cap["vertices"]) if key == "faces" else 0)])
            for key in cap
        }
    return cap


def _shell(bare: Body, thickness: float, zone: int) -> dict[str, np.ndarray]:
    """The scalp lifted off the head, thin at the hairline."""
    centre, size = _head(bare)
    centres = bare.vertices[bare.faces].mean(1)
    above = _hairy(bare.vertices, centre, size)
    keep = bare.faces[
        (bare.limbs_at(np.arange(len(bare.faces)), centres) == HEAD) & (above[bare.faces].max(1) > -0.004)
    ]
    used, faces = np.unique(keep, return_inverse=True)
    lift = thickness * np.clip(above[used] / (0.02 * size) + 0.3, 0, 1)
    count = len(keep)
    return {
        "vertices": (bare.vertices[used] + bare.normals[used] * lift[:, None]).astype(np.float32),
        "normals": bare.normals[used],
        "faces": faces.reshape(-1, 3).astype(np.int32),
        "weights": bare.weights[used],
        "limbs": np.full(count, HEAD, np.uint8),
        "zones": np.full(count, zone, np.uint8),
    }


def _skirt(bare: Body) -> dict[str, np.ndarray]:
    """A flared skirt from the waist to above the knee; it swings with pelvis and thighs."""
    joints, size = bare.joints, bare.legs
    hip, knee = joints[1:3, 1].mean(), joints[4:6, 1].mean()
    levels = np.linspace(hip + 0.12 * size, hip + 0.8 * (knee - hip), 6)
    around = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    points, normals, weights = [], [], []
    limb = bare.limbs_at(np.arange(len(bare.faces)), bare.vertices[bare.faces].mean(1))
    trunk = bare.vertices[np.unique(bare.faces[(limb == TORSO) | (limb == THIGH)])]
    centre = np.array([0, trunk[:, 2].max() / 2 + trunk[:, 2].min() / 2])
    radii = np.zeros(2)
    for step, level in enumerate(levels):
        slab = trunk[np.abs(trunk[:, 1] - level) < 0.05 * size]
        own = np.array([np.abs(slab[:, 0]).max(), np.abs(slab[:, 2] - centre[1]).max()]) + 0.02 * size
        radii = np.maximum(own, radii + (0.03 * size if step > 1 else 0))
        x, z = radii[0] * np.cos(around), radii[1] * np.sin(around)
        points.append(np.stack([x, np.full_like(x, level), z + centre[1]], 1))
        normals.append(np.stack([np.cos(around), np.full_like(x, 0.25), np.sin(around)], 1))
        swing = 0.75 * np.clip(step / (len(levels) - 1), 0, 1)
        left = 0.5 + 0.5 * np.clip(np.cos(around) * 1.5, -1, 1)
        row = np.zeros((len(around), 24), np.float32)
        row[:, 0], row[:, 1], row[:, 2] = 1 - swing, swing * left, swing * (1 - left)
        weights.append(row)
    index = np.arange(len(levels) * len(around)).reshape(len(levels), -1)
    a, b = index[:-1], index[1:]
    c, d = np.roll(b, -1, axis=1), np.roll(a, -1, axis=1)
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([a, d, c], -1).reshape(-1, 3)])
    normals = np.concatenate(normals)
    return {
        "vertices": np.concatenate(points).astype(np.float32),
        "normals": (normals / np.linalg.norm(normals, axis=1, keepdims=True)).astype(np.float32),
        "faces": faces.astype(np.int32),
        "weights": np.concatenate(weights),
        "limbs": np.full(len(faces), THIGH, np.uint8),
        "zones": np.full(len(faces), BOTTOM, np.uint8),
    }
