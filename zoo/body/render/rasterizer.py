"""The CPU rasteriser: one pass of rays gives colour, depth, normals, parts and semantic labels of a posed body.

Rays are cast (Embree) only into the rectangle that the body covers, four a pixel. A hit is traced back to its place on
the resting body, where labels and colours are looked up; the floor beneath gets a soft shadow.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene

from zoo.body.camera import Camera, camera
from zoo.body.render.appearance import Appearance, shade
from zoo.body.render.clothing import add_clothes
from zoo.body.render.mesh import Body
from zoo.body.render.pose_maps import draw_skeleton, heatmaps

__all__ = [
    "Camera",
    "camera",
    "draw_skeleton",
    "clothed_body",
    "heatmaps",
    "inverse_depth",
    "render",
    "render_motion",
    "render_parts",
    "shade_floor",
]

MAPS = ("rgb", "depth", "normal", "parts", "semantic")
LAMP = np.array([0.42, -0.62, 0.66]) / np.linalg.norm([0.42, -0.62, 0.66])  # world direction towards the key light
SHADING = (0, 7, 8, 10, 11, 20, 21)  # joints whose shadow is on the floor: pelvis, feet and hands
_SIDE = 2  # rays a pixel, each way


def clothed_body(look: Appearance) -> Body:
    """The body that a look wears its clothes on: what `render` draws."""
    return add_clothes(look.body, look.hair_style, look.sleeves, look.legwear)


def render(
    look: Appearance,
    rotations: np.ndarray,
    root: np.ndarray,
    camera: Camera,
    height: int,
    width: int,
    background: np.ndarray | None = None,
    shadow: bool = True,
    maps: Sequence[str] = MAPS,
) -> dict[str, np.ndarray]:
    """Draw one pose.

    rotations (24, 3, 3) local; root (3,) canonical, metres (see `Body.place`); background (H, W, 3) uint8, or None for
    a studio in the look's colour; shadow: whether the floor gets the body's. -> the maps in `maps`, all (H, W, ...):
    rgb uint8; depth float32 metres along the viewing axis, 0 background; normal float32 (3) in [-1, 1], camera space: x
    right, y up, z to the viewer, 0 background; parts uint8, DensePose's 1..24; semantic uint8, see
    `zoo.body.labels.SEMANTIC`. All but rgb are taken a quarter pixel up and left of the pixel's centre. And always
    joints2d (24, 2) float32 pixels, joints3d (24, 3) float32 metres, world, of this body.
    Raises ValueError for an unknown map.
    """
    body = clothed_body(look)
    transforms, joints = body.transforms(rotations, root)
    return _draw(look, body, transforms, joints, camera, height, width, background, shadow, maps)


def render_motion(
    look: Appearance,
    rotations: np.ndarray,
    root: np.ndarray,
    camera: Camera | Sequence[Camera],
    height: int,
    width: int,
    background: np.ndarray | None = None,
    shadow: bool = True,
    maps: Sequence[str] = MAPS,
) -> dict[str, np.ndarray]:
    """Draw a clip: `render` for rotations (F, 24, 3, 3), root (F, 3), and one camera or F. -> maps (F, H, W, ...)"""
    body = clothed_body(look)
    transforms, joints = body.transforms(rotations, root)
    cameras = [camera] * len(joints) if isinstance(camera, Camera) else camera
    frames = [
        _draw(look, body, pose, places, view, height, width, background, shadow, maps)
        for pose, places, view in zip(transforms, joints, cameras, strict=True)
    ]
    return {key: np.stack([frame[key] for frame in frames]) for key in (*maps, "joints2d", "joints3d")}


def render_parts(
    body: Body, rotations: np.ndarray, root: np.ndarray, camera: Camera, height: int, width: int
) -> np.ndarray:
    """DensePose's parts of a clip, of the bare mesh: `render_motion`'s map `parts`, (F, H, W) uint8."""
    poses = zip(*body.transforms(rotations, root), strict=True)
    drawn = (_draw(None, body, *pose, camera, height, width, None, False, ("parts",)) for pose in poses)
    return np.stack([one["parts"] for one in drawn])


def inverse_depth(depth: np.ndarray) -> np.ndarray:
    """A clip's depth in metres (0 background) as the batch wants it: affine inverse, 1 nearest, 0 background."""
    seen = depth > 0
    if not seen.any():
        return np.zeros_like(depth)
    near, far = depth[seen].min(), depth[seen].max() + 0.5  # half a metre behind, so that the farthest point is not 0
    return np.where(seen, (1 / np.maximum(depth, near) - 1 / far) / (1 / near - 1 / far), 0).astype(np.float32)


@lru_cache(maxsize=32)
def _rays(axes: bytes, fov: float, height: int, width: int) -> np.ndarray:
    """Fine rays of every pixel, (H, W, side * side, 3): they depend on where a camera looks, not where it stands."""
    level = Camera((0.0, -1.0, 0.0), (0.0, 0.0, 0.0), fov)
    fine = level.rays(height * _SIDE, width * _SIDE) @ (level.axes.T @ np.frombuffer(axes).reshape(3, 3))
    blocks = fine.reshape(height, _SIDE, width, _SIDE, 3).swapaxes(1, 2)
    return np.ascontiguousarray(blocks.reshape(height, width, _SIDE * _SIDE, 3), np.float32)


@lru_cache(maxsize=32)
def _studio(camera: Camera, height: int, width: int, colour: tuple[int, int, int]) -> np.ndarray:
    """A paper sweep: a lit floor that rises into a wall. (H, W, 3) uint8"""
    floor = camera.floor(height, width)
    seen = np.isfinite(floor[..., 0])
    away = np.linalg.norm(np.where(seen[..., None], floor, 0), axis=-1)
    lit = np.where(seen & (away < 4.5), 0.86 + 0.16 * np.exp(-np.square(away / 2.2)), 0.86)
    wall = np.linspace(1.0, 0.9, height)[:, None]
    tone = np.where(seen & (away < 4.5), lit, wall)
    return np.round(tone[..., None] * np.array(colour)).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def _floor(camera: Camera, height: int, width: int) -> np.ndarray:
    return camera.floor(height, width)


def _window(low: np.ndarray, high: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """Whole pixels that a rectangle touches, cut to the image. low, high (2,) pixels x, y -> rows, columns"""
    left, top = np.floor(low).clip(0, [width, height]).astype(int)
    right, bottom = np.ceil(high).clip(0, [width, height]).astype(int)
    return slice(top, bottom), slice(left, right)


def shade_floor(image: np.ndarray, points: np.ndarray, camera: Camera) -> None:
    """Darken the floor in an image (H, W, 3) uint8 under points (N, 3) of a body: the lower, the darker and sharper."""
    height, width = image.shape[:2]
    reach = 2.0
    centre = points[0, :2]
    corners = np.array([[x, y, 0.0] for x in (-reach, reach) for y in (-reach, reach)]) + [*centre, 0]
    flat, depth = camera.project(corners, height, width)
    if (depth < 0.1).any():
        rows, columns = slice(0, height), slice(0, width)
    else:
        rows, columns = _window(flat.min(0), flat.max(0), height, width)
    x, y = np.moveaxis(_floor(camera, height, width)[rows, columns], -1, 0)
    light = np.ones(x.shape, np.float32)
    for at_x, at_y, lift in points:
        lift = max(float(lift), 0.0)
        away = np.square(x - at_x) + np.square(y - at_y)
        light *= 1 - 0.34 / (1 + 3 * lift) * np.exp(away * (-0.5 / (0.012 + 0.06 * lift)))
    image[rows, columns] = (image[rows, columns] * light[..., None] + 0.5).astype(np.uint8)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nc,nc->n", vectors, vectors))


@lru_cache(maxsize=1)
def _device() -> EmbreeDevice:
    return EmbreeDevice()


def _trace(vertices: np.ndarray, faces: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """First hits of rays (N, 3) from the origin. -> face of each (N,), -1 for none; Embree's u, v, tfar and so on (N,)

    Building the tree costs more than tracing, so faces that look away from the eye, which another hides, are left out.
    """
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (vertices.T[:, corner] for corner in faces.T)
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    seen = np.append(np.flatnonzero(volume < 0), -1).astype(np.int32)
    scene = EmbreeScene(_device())
    TriangleMesh(scene, vertices, faces[seen[:-1]])
    traced = scene.run(np.zeros_like(rays), rays, output=True)
    return seen[traced["primID"]], traced


def _draw(look, body, transforms, joints, camera, height, width, background, shadow, maps) -> dict[str, np.ndarray]:
    unknown = sorted(set(maps) - set(MAPS))
    if unknown:
        raise ValueError(f"the renderer makes no '{unknown[0]}'; it makes {', '.join(MAPS)}")
    vertices, normals = body.deform(transforms)
    axes = camera.axes
    out = {"joints2d": camera.project(joints, height, width)[0].astype(np.float32), "joints3d": joints}
    shapes = {"rgb": (3,), "normal": (3,), "depth": (), "parts": (), "semantic": ()}
    kinds = {"normal": np.float32, "depth": np.float32}
    for name in maps:
        out[name] = np.zeros((height, width, *shapes[name]), kinds.get(name, np.uint8))
    if "rgb" in maps:
        if background is None:
            out["rgb"][:] = _studio(camera, height, width, look.background or (222, 222, 226))
        else:
            out["rgb"][:] = background
        if shadow:
            shade_floor(out["rgb"], joints[list(SHADING)], camera)

    flat, depth = camera.project(vertices, height, width)
    if depth.min() < 0.05:  # something is beside or behind the eye: its projection bounds nothing
        rows, columns = slice(0, height), slice(0, width)
    else:
        rows, columns = _window(flat.min(0), flat.max(0), height, width)
    rays = _rays(axes.tobytes(), camera.fov, height, width)[rows, columns]
    shape = rays.shape[:2]
    if 0 in shape:
        return out
    rays = rays.reshape(-1, 3)
    # relative to the eye, so that float32 keeps its digits
    struck, traced = _trace(vertices - np.float32(camera.position), body.faces, rays)
    hit = np.flatnonzero(struck >= 0)
    if not len(hit):
        return out
    face, u, v = struck[hit], traced["u"][hit, None], traced["v"][hit, None]
    one, two, three = body.faces[face].T

    # which pixels the body fills at least half, and the ray that speaks for each in the maps
    covered = (struck >= 0).reshape(-1, _SIDE * _SIDE)
    count = covered.sum(1)
    owner = hit // (_SIDE * _SIDE)
    first = np.flatnonzero(np.r_[True, owner[1:] != owner[:-1]])
    kept = first[count[owner[first]] * 2 >= _SIDE * _SIDE]
    place = np.unravel_index(owner[kept], shape)

    def blend(corners: np.ndarray) -> np.ndarray:
        return (1 - u - v) * corners[one] + u * corners[two] + v * corners[three]

    def put(name: str, values: np.ndarray) -> None:
        out[name][rows, columns][place] = values

    if "depth" in maps:
        put("depth", traced["tfar"][hit[kept]])
    if "rgb" in maps or "normal" in maps:
        normal = blend(normals)
        normal /= np.maximum(_length(normal), 1e-9)[:, None]
        if "normal" in maps:
            put("normal", normal[kept] @ axes.T)
    if {"rgb", "parts", "semantic"} & set(maps):
        point = blend(body.vertices)
        limb = body.limbs_at(face, point)
        if "parts" in maps:
            put("parts", body.parts_at(limb[kept], point[kept]))
        if {"rgb", "semantic"} & set(maps):
            semantic, colour = shade(look, body, face, point, limb)
        if "semantic" in maps:
            put("semantic", semantic[kept])
    if "rgb" in maps:
        lambert = np.maximum(normal @ LAMP, 0)
        sky = 0.5 + 0.5 * normal[:, 2]
        facing = np.abs(np.einsum("nc,nc->n", normal, rays[hit])) / _length(rays[hit])
        light = 0.34 + 0.2 * sky + 0.42 * lambert + 0.12 * facing
        shaded = np.minimum(colour * light[:, None], 255)
        window = out["rgb"][rows, columns].reshape(-1, 3)
        summed = np.stack([np.bincount(owner, shaded[:, c], len(count)) for c in range(3)], 1)
        mixed = (summed + window * (_SIDE * _SIDE - count)[:, None]) / (_SIDE * _SIDE)
        out["rgb"][rows, columns] = np.round(mixed).astype(np.uint8).reshape(*shape, 3)
    return out
