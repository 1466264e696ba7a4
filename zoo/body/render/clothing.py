"""What a human body wears: where clothes, hair and features lie on it, and the shapes that they add to it.

Borders are surfaces in the body's rest frame, evaluated at each point that is drawn, so that a collar or an eye is as
sharp as the picture and not as coarse as the mesh.
"""

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
from zoo.body.render.mesh import Body, body
from zoo.body.render.primitives import PrimitiveMesh

HAIR_STYLES = ("bald", "short", "long", "bun", "afro", "cap")
SLEEVES = {"none": 0.0, "short": 0.55, "long": 1.96}  # reach along the arm: 1 is the elbow, 2 the wrist
LEGWEAR = {"shorts": 0.75, "trousers": 1.93, "skirt": 0.95}  # reach along the leg: 1 is the knee, 2 the ankle


def _face_frame(body: Body, point: np.ndarray) -> np.ndarray:
    """Places on the head at the man's scale: x to the left, y up from the eyes, z out of the face. (N, 3) both"""
    eye, mouth = body.features
    return (point - [0, eye[1], body.joints[15, 2]]) * (0.0676 / (eye[1] - mouth[1]))


def _hairy(local: np.ndarray) -> np.ndarray:
    """Height above the hairline, which is high at the forehead and low at the nape. (N, 3) face frame -> (N,)"""
    y, z = local[:, 1], local[:, 2]
    return y + 0.004 - 0.72 * np.clip(z, -0.11, 0.075)


def _collar(body: Body, point: np.ndarray) -> np.ndarray:
    """Whether a point of the trunk lies within the neckline: a round one that dips in front. (N, 3) -> (N,) bool"""
    x, y, z = (point - body.joints[12]).T
    return (np.hypot(x, z - 0.02 * body.legs) < 0.1 * body.legs) & (y > -0.02 * body.legs - 0.5 * np.clip(z, 0, 0.1))


def semantic_at(
    body: Body, face: np.ndarray, point: np.ndarray, limb: np.ndarray, hair: str, sleeves: str, legs: str
) -> np.ndarray:
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
    arm = np.where(side < elbow, (side - shoulder) / (elbow - shoulder), 1 + (side - elbow) / (wrist - elbow))
    arms = (limb == UPPER_ARM) | (limb == FOREARM)
    out[torso & ~_collar(body, point) | arms & (arm < SLEEVES[sleeves])] = TOP
    waist = hip + 0.12 * size
    reach = np.where(height > knee, (hip - height) / (hip - knee), 1 + (knee - height) / (knee - ankle))
    out[lower & (height < waist) & (reach < LEGWEAR[legs])] = BOTTOM
    out[(limb == FOOT) | (limb == SHIN) & (height < ankle + 0.035 * size)] = SHOES
    local = _face_frame(body, point)
    if hair != "bald":
        out[head & (_hairy(local) > 0)] = TRIM if hair == "cap" else HAIR
    x, y, z = local.T
    beside = np.abs(np.abs(x) - 0.0325)  # from the middle of an eye
    eyes = np.square(beside / 0.014) + np.square((y - 0.002) / 0.0085) < 1
    brows = (beside < 0.019) & (np.abs(y - 0.0225 + 0.2 * beside) < 0.0045)
    mouth = np.square(x / 0.026) + np.square((y + 0.0676 - 6 * np.square(x)) / 0.008) < 1  # corners up: it smiles
    out[head & (z > 0.03) & (eyes | brows | mouth)] = FACE
    return np.where(zone == BY_POSITION, out, zone)


@lru_cache(maxsize=64)
def add_clothes(name: str, hair: str, sleeves: str, legs: str) -> Body:
    """The body of that name in clothes: cloth stands off the skin, hair and skirt are added. Figures stay as they are.

    Keys of `HAIR_STYLES`, `SLEEVES`, `LEGWEAR`.
    """
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
    eye, mouth = bare.features
    size = float(eye[1] - mouth[1]) / 0.0676
    s = PrimitiveMesh(bare.offsets)
    middle = np.array([0, eye[1], bare.joints[15, 2]]) - s.joints[15]

    def ball(zone, centre, radii, **shape):
        s.ball(15, zone, tuple(middle + np.multiply(centre, size)), tuple(np.multiply(radii, size)), **shape)

    cap = _shell(bare, {"short": 0.011, "long": 0.013, "bun": 0.007, "afro": 0.012, "cap": 0.012}[style])
    if style == "long":
        ball(HAIR, (0, -0.045, -0.055), (0.09, 0.14, 0.052), square=0.8)
        ball(HAIR, (0, -0.16, -0.075), (0.076, 0.09, 0.034), square=0.7)
    elif style == "bun":
        ball(HAIR, (0, 0.095, -0.085), (0.045, 0.042, 0.042))
    elif style == "afro":
        ball(HAIR, (0, 0.06, -0.026), (0.135, 0.115, 0.118), rings=11)
    elif style == "cap":
        ball(TRIM, (0, 0.05, 0.1), (0.066, 0.009, 0.06), square=0.8)
    if not s.empty:
        solids = s.mesh()
        solids["faces"] = solids["faces"] + len(cap["vertices"])
        cap = {key: np.concatenate([cap[key], solids[key]]) for key in cap}
    return cap


def _shell(bare: Body, thickness: float) -> dict[str, np.ndarray]:
    """The scalp lifted off the head, from the hairline on. What lies on it still follows from position."""
    centres = bare.vertices[bare.faces].mean(1)
    above = _hairy(_face_frame(bare, bare.vertices))
    keep = bare.faces[(bare.limbs_at(np.arange(len(bare.faces)), centres) == HEAD) & (above[bare.faces].max(1) > 0)]
    used, faces = np.unique(keep, return_inverse=True)
    lift = thickness * bare.legs * np.clip(above[used] / 0.03, 0, 1)
    return {
        "vertices": (bare.vertices[used] + bare.normals[used] * lift[:, None]).astype(np.float32),
        "normals": bare.normals[used],
        "faces": faces.reshape(-1, 3).astype(np.int32),
        "weights": bare.weights[used],
        "limbs": np.full(len(keep), HEAD, np.uint8),
        "zones": np.full(len(keep), BY_POSITION, np.uint8),
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
        own = np.array([np.abs(slab[:, 0]).max(), np.abs(slab[:, 2] - centre[1]).max()]) + 0.014 * size
        radii = np.maximum(own, radii + (0.032 * size if step > 1 else 0))
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
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    both = np.concatenate([faces, faces[:, ::-1] + index.size])  # seen from below, it has an inside
    return {
        "vertices": np.tile(np.concatenate(points), (2, 1)).astype(np.float32),
        "normals": np.concatenate([normals, -normals]).astype(np.float32),
        "faces": both.astype(np.int32),
        "weights": np.tile(np.concatenate(weights), (2, 1)),
        "limbs": np.full(len(both), THIGH, np.uint8),
        "zones": np.full(len(both), BOTTOM, np.uint8),
    }
