"""The CPU rasterizer: one pass of rays gives color, depth, normals, parts and semantic labels of a posed body.

Rays are cast (Embree) only into the rectangle that the body covers, four a pixel. A hit is mapped back to its position
on the resting body, where labels and colors are looked up. The floor beneath gets a soft shadow.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene

from zoo.body.camera import Camera
from zoo.body.render.appearance import Appearance, shade
from zoo.body.render.clothing import add_clothes
from zoo.body.render.mesh import Body

MAPS = ("rgb", "depth", "normal", "parts", "semantic")
KEY_LIGHT = np.array([0.42, -0.62, 0.66]) / np.linalg.norm([0.42, -0.62, 0.66])  # world direction towards it
AMBIENT, SKY, KEY, HEADLIGHT = 0.34, 0.2, 0.42, 0.12  # intensities of the lights
SHADOW_JOINTS = (0, 7, 8, 10, 11, 20, 21)  # pelvis, feet and hands darken the floor
SHADOW_EXTENT = 2.0  # metres: the shadow is drawn up to this far from the pelvis
FLOOR_RADIUS = 4.5  # metres from the origin at which the studio's floor ends and its wall begins
STUDIO_COLOR = (222, 222, 226)
SAMPLES_PER_AXIS = 2  # rays along each side of a pixel


def clothed_body(appearance: Appearance) -> Body:
    """The body with clothes and hair of an appearance: the mesh that `render` draws."""
    return add_clothes(appearance.body, appearance.hair_style, appearance.sleeves, appearance.legwear)


def render(
    appearance: Appearance,
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

    rotations (24, 3, 3) local; root (3,) canonical, metres (see `Body.scale_root`); background (H, W, 3) uint8, or None
    for a studio in the appearance's color; shadow: whether the body's shadow is drawn on the floor. -> the maps of
    `maps`, all (H, W, ...): rgb uint8; depth float32 metres along the viewing axis, 0 background; normal float32 (3) in
    [-1, 1], camera space: x right, y up, z to the viewer, 0 background; parts uint8, DensePose's 1..24; semantic uint8,
    see `zoo.body.labels.SEMANTIC`. All but rgb are the first hit among a pixel's four rays, mostly a quarter
    pixel up and left of its center. Also joints2d (24, 2) float32 pixels, joints3d (24, 3) float32 metres, world, of
    this body.
    Raises ValueError for an unknown map.
    """
    body = clothed_body(appearance)
    transforms, joints = body.transforms(rotations, root)
    return _draw(appearance, body, transforms, joints, camera, height, width, background, shadow, maps)


def render_motion(
    appearance: Appearance,
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
    body = clothed_body(appearance)
    transforms, joints = body.transforms(rotations, root)
    cameras = [camera] * len(joints) if isinstance(camera, Camera) else camera
    frames = [
        _draw(appearance, body, *draw_args, height, width, background, shadow, maps)
        for draw_args in zip(transforms, joints, cameras, strict=True)
    ]
    return {key: np.stack([frame[key] for frame in frames]) for key in (*maps, "joints2d", "joints3d")}


def render_parts(
    body: Body, rotations: np.ndarray, root: np.ndarray, camera: Camera, height: int, width: int
) -> np.ndarray:
    """DensePose's parts of a clip, of the bare mesh: `render_motion`'s map `parts`, (F, H, W) uint8."""
    draw_args = zip(*body.transforms(rotations, root), strict=True)
    frames = (_draw(None, body, *pose_args, camera, height, width, None, False, ("parts",)) for pose_args in draw_args)
    return np.stack([frame["parts"] for frame in frames])


def inverse_depth(depth: np.ndarray) -> np.ndarray:
    """A clip's depth in metres (0 background) as batches have it: normalised disparity, 1 nearest, 0 background."""
    is_body = depth > 0
    if not is_body.any():
        return np.zeros_like(depth)
    # half a metre behind the farthest point, so that it does not become 0
    near, far = depth[is_body].min(), depth[is_body].max() + 0.5
    disparity = (1 / np.maximum(depth, near) - 1 / far) / (1 / near - 1 / far)
    return np.where(is_body, disparity, 0).astype(np.float32)


@lru_cache(maxsize=32)
def _rays(axes: bytes, fov: float, height: int, width: int) -> np.ndarray:
    """Subpixel rays of every pixel, (H, W, rays, 3): they depend on a camera's direction, not on its position."""
    level_camera = Camera((0.0, -1.0, 0.0), (0.0, 0.0, 0.0), fov)
    rays = level_camera.rays(height * SAMPLES_PER_AXIS, width * SAMPLES_PER_AXIS) @ (
        level_camera.axes.T @ np.frombuffer(axes).reshape(3, 3)
    )
    blocks = rays.reshape(height, SAMPLES_PER_AXIS, width, SAMPLES_PER_AXIS, 3).swapaxes(1, 2)
    return np.ascontiguousarray(blocks.reshape(height, width, SAMPLES_PER_AXIS * SAMPLES_PER_AXIS, 3), np.float32)


@lru_cache(maxsize=32)
def _studio_background(camera: Camera, height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    """A paper sweep: a lit floor that rises into a wall. (H, W, 3) uint8"""
    floor = camera.floor(height, width)
    is_below_horizon = np.isfinite(floor[..., 0])
    distance = np.linalg.norm(np.where(is_below_horizon[..., None], floor, 0), axis=-1)
    is_floor = is_below_horizon & (distance < FLOOR_RADIUS)
    floor_tone = np.where(is_floor, 0.86 + 0.16 * np.exp(-np.square(distance / 2.2)), 0.86)
    wall_tone = np.linspace(1.0, 0.9, height)[:, None]
    tone = np.where(is_floor, floor_tone, wall_tone)
    return np.round(tone[..., None] * np.array(color)).clip(0, 255).astype(np.uint8)


@lru_cache(maxsize=32)
def _floor_points(camera: Camera, height: int, width: int) -> np.ndarray:
    return camera.floor(height, width)


def _pixel_window(low: np.ndarray, high: np.ndarray, height: int, width: int) -> tuple[slice, slice]:
    """Whole pixels that a rectangle touches, clipped to the image. low, high (2,) pixels x, y -> rows, columns"""
    left, top = np.floor(low).clip(0, [width, height]).astype(int)
    right, bottom = np.ceil(high).clip(0, [width, height]).astype(int)
    return slice(top, bottom), slice(left, right)


def shade_floor(image: np.ndarray, points: np.ndarray, camera: Camera) -> None:
    """Darken the floor in an image (H, W, 3) uint8 under points (N, 3) of a body; points[0] is its center.

    The lower a point, the darker and sharper is its shadow.
    """
    height, width = image.shape[:2]
    offsets = (-SHADOW_EXTENT, SHADOW_EXTENT)
    corners = np.array([[x, y, 0.0] for x in offsets for y in offsets]) + [*points[0, :2], 0]
    pixels, depth = camera.project(corners, height, width)
    if (depth < 0.1).any():
        rows, columns = slice(0, height), slice(0, width)
    else:
        rows, columns = _pixel_window(pixels.min(0), pixels.max(0), height, width)
    x, y = np.moveaxis(_floor_points(camera, height, width)[rows, columns], -1, 0)
    light = np.ones(x.shape, np.float32)
    for point_x, point_y, point_z in points:
        point_z = max(float(point_z), 0.0)
        square_distance = np.square(x - point_x) + np.square(y - point_y)
        light *= 1 - 0.34 / (1 + 3 * point_z) * np.exp(square_distance * (-0.5 / (0.012 + 0.06 * point_z)))
    image[rows, columns] = (image[rows, columns] * light[..., None] + 0.5).astype(np.uint8)


def _length(vectors: np.ndarray) -> np.ndarray:
    return np.sqrt(np.einsum("nc,nc->n", vectors, vectors))


@lru_cache(maxsize=1)
def _device() -> EmbreeDevice:
    return EmbreeDevice()


def _trace(vertices: np.ndarray, faces: np.ndarray, rays: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """First hits of rays (N, 3) from the origin. -> face of each (N,), -1 for none; Embree's u, v, tfar and so on (N,)

    Building the tree takes longer than tracing. Back faces are hidden by front faces and therefore left out.
    """
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (vertices.T[:, corner] for corner in faces.T)
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    front_faces = np.append(np.flatnonzero(volume < 0), -1).astype(np.int32)
    scene = EmbreeScene(_device())
    TriangleMesh(scene, vertices, faces[front_faces[:-1]])
    hits = scene.run(np.zeros_like(rays), rays, output=True)
    return front_faces[hits["primID"]], hits


def _draw(
    appearance: Appearance | None,
    body: Body,
    transforms: np.ndarray,
    joints: np.ndarray,
    camera: Camera,
    height: int,
    width: int,
    background: np.ndarray | None,
    shadow: bool,
    maps: Sequence[str],
) -> dict[str, np.ndarray]:
    """Draw one pose of a clothed body; arguments as `render`, transforms and joints from `Body.transforms`.

    appearance: only None if `maps` has neither rgb nor semantic.
    """
    unknown = sorted(set(maps) - set(MAPS))
    if unknown:
        raise ValueError(f"unknown map '{unknown[0]}'; the renderer makes {', '.join(MAPS)}")
    vertices, normals = body.deform(transforms)
    axes = camera.axes
    out = {"joints2d": camera.project(joints, height, width)[0].astype(np.float32), "joints3d": joints}
    shapes = {"rgb": (3,), "normal": (3,), "depth": (), "parts": (), "semantic": ()}
    dtypes = {"normal": np.float32, "depth": np.float32}
    for name in maps:
        out[name] = np.zeros((height, width, *shapes[name]), dtypes.get(name, np.uint8))
    if "rgb" in maps:
        if background is None:
            out["rgb"][:] = _studio_background(camera, height, width, appearance.background or STUDIO_COLOR)
        else:
            out["rgb"][:] = background
        if shadow:
            shade_floor(out["rgb"], joints[list(SHADOW_JOINTS)], camera)

    pixels, depth = camera.project(vertices, height, width)
    if depth.min() < 0.05:  # a vertex is beside or behind the camera: projections give no bounds
        rows, columns = slice(0, height), slice(0, width)
    else:
        rows, columns = _pixel_window(pixels.min(0), pixels.max(0), height, width)
    rays = _rays(axes.tobytes(), camera.fov, height, width)[rows, columns]
    window_shape = rays.shape[:2]
    if 0 in window_shape:
        return out
    rays = rays.reshape(-1, 3)
    # relative to the camera, so that float32 is precise enough
    ray_faces, hits = _trace(vertices - np.float32(camera.position), body.faces, rays)
    hit = np.flatnonzero(ray_faces >= 0)
    if not len(hit):
        return out
    face, u, v = ray_faces[hit], hits["u"][hit, None], hits["v"][hit, None]
    a, b, c = body.faces[face].T

    # pixels that the body covers by at least half, and the ray that the maps take their values from
    num_rays = SAMPLES_PER_AXIS * SAMPLES_PER_AXIS
    hits_per_pixel = (ray_faces >= 0).reshape(-1, num_rays).sum(1)
    pixel_index = hit // num_rays
    first_hit = np.flatnonzero(np.r_[True, pixel_index[1:] != pixel_index[:-1]])
    map_hits = first_hit[hits_per_pixel[pixel_index[first_hit]] * 2 >= num_rays]
    pixel_position = np.unravel_index(pixel_index[map_hits], window_shape)

    def interpolate(values: np.ndarray) -> np.ndarray:
        return (1 - u - v) * values[a] + u * values[b] + v * values[c]

    def write(name: str, values: np.ndarray) -> None:
        out[name][rows, columns][pixel_position] = values

    if "depth" in maps:
        write("depth", hits["tfar"][hit[map_hits]])
    if "rgb" in maps or "normal" in maps:
        normal = interpolate(normals)
        normal /= np.maximum(_length(normal), 1e-9)[:, None]
        if "normal" in maps:
            write("normal", normal[map_hits] @ axes.T)
    if {"rgb", "parts", "semantic"} & set(maps):
        point = interpolate(body.vertices)
        limb = body.limbs_at(face, point)
        if "parts" in maps:
            write("parts", body.parts_at(limb[map_hits], point[map_hits]))
        if {"rgb", "semantic"} & set(maps):
            semantic, color = shade(appearance, body, face, point, limb)
        if "semantic" in maps:
            write("semantic", semantic[map_hits])
    if "rgb" in maps:
        lambert = np.maximum(normal @ KEY_LIGHT, 0)
        sky_weight = 0.5 + 0.5 * normal[:, 2]
        facing = np.abs(np.einsum("nc,nc->n", normal, rays[hit])) / _length(rays[hit])
        light = AMBIENT + SKY * sky_weight + KEY * lambert + HEADLIGHT * facing
        lit = np.minimum(color * light[:, None], 255)
        background_pixels = out["rgb"][rows, columns].reshape(-1, 3)
        total = np.stack([np.bincount(pixel_index, lit[:, channel], len(hits_per_pixel)) for channel in range(3)], 1)
        blended = (total + background_pixels * (num_rays - hits_per_pixel)[:, None]) / num_rays
        out["rgb"][rows, columns] = np.round(blended).astype(np.uint8).reshape(*window_shape, 3)
    return out
