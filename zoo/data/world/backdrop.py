"""Backdrops: plain ones (a colour, a gradient, a studio sweep) and cluttered rooms, ray-traced once a clip.

A room is a box around the dance floor, with textures on its faces, posters on its walls, and boxes and balls on the
floor. No object is nearer to the camera than the dancer, who is drawn over the backdrop.
"""

import colorsys

import numpy as np

PLAIN_KINDS = ("colour", "gradient", "studio")
LIGHT_DIRECTION = np.array([0.35, -0.45, 0.82])  # towards the lamp


def make_backdrop(kind: str, rng: np.random.Generator, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """The image of a backdrop behind the world's origin, without the dancer's shadow: (h / 2, w / 2, 3) uint8.

    kind: one of PLAIN_KINDS or 'room'; origin (3,): the camera, metres; rays (h, w, 3): of 2 x 2 points in each pixel.
    """
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    samples = _room(rng, origin, rays) if kind == "room" else _plain(kind, rng, origin, rays)
    pixels = samples.reshape(samples.shape[0] // 2, 2, samples.shape[1] // 2, 2, 3).mean((1, 3))
    return (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _random_color(rng: np.random.Generator, saturation: tuple, value: tuple) -> np.ndarray:
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value)))


def _plain(kind: str, rng: np.random.Generator, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    color = _random_color(rng, (0, 0.5), (0.45, 0.95))
    height = np.linspace(0, 1, rays.shape[0])[:, None, None]
    if kind == "colour":
        return np.broadcast_to(color, rays.shape).copy()
    if kind == "gradient":
        bottom_color = np.clip(color * rng.uniform(0.4, 0.8) + rng.uniform(0, 0.15, 3), 0, 1)
        return np.broadcast_to(color * (1 - height) + bottom_color * height, rays.shape).copy()
    # a studio sweep: the floor rises smoothly into the wall, darker at the bend, with a bright spot on the floor
    elevation = rays[..., 2] / np.linalg.norm(rays[..., :2], axis=-1)
    horizon = -origin[2] / (np.linalg.norm(origin[:2]) + 3.0)
    bend = np.exp(-np.square((elevation - horizon) / 0.09))
    is_floor = rays[..., 2] < -1e-4
    depth = origin[2] / np.where(is_floor, -rays[..., 2], 1)
    floor_distance = np.where(is_floor, np.linalg.norm(origin[:2] + depth[..., None] * rays[..., :2], axis=-1), 9.0)
    spot = np.exp(-np.square(floor_distance / 2.5))
    light = np.where(elevation < horizon, 0.86 + 0.12 * spot, 0.93 + 0.1 * (elevation - horizon)) - 0.10 * bend
    return color * light[..., None]


def _noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Smooth noise in [-1, 1] at the points (u, v) metres, with features about `size` metres wide."""
    grid = rng.uniform(-1, 1, (64, 64))
    u, v = u / size, v / size
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    a, b = u - i, v - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    corner = [grid[(i + di) % 64, (j + dj) % 64] for di in (0, 1) for dj in (0, 1)]
    return (corner[0] * (1 - b) + corner[1] * b) * (1 - a) + (corner[2] * (1 - b) + corner[3] * b) * a


def _texture(kind: str, rng: np.random.Generator, u: np.ndarray, v: np.ndarray, color: np.ndarray) -> np.ndarray:
    """(n, 3) colours of a surface at (u, v) metres."""
    if kind == "planks":
        board = np.floor(u / 0.14)
        tone = 1 + 0.16 * np.sin(board * 12.9898 + np.floor(v / 1.3 + 0.37 * board) * 78.233)
        tone += 0.05 * _noise(rng, u * 7, v, 0.3) - 0.25 * (np.abs(u / 0.14 - np.round(u / 0.14)) < 0.03)
    elif kind == "tiles":
        side = rng.uniform(0.3, 0.7)
        tone = 1 - rng.uniform(0.15, 0.45) * ((np.floor(u / side) + np.floor(v / side)) % 2)
    elif kind == "bricks":
        row = np.floor(v / 0.11)
        column = u / 0.26 + 0.5 * (row % 2)
        seam = (np.abs(column - np.round(column)) < 0.03) | (np.abs(v / 0.11 - np.round(v / 0.11)) < 0.06)
        tone = 1 + 0.12 * np.sin(np.floor(column) * 12.9898 + row * 78.233) - 0.25 * seam
    elif kind == "stripes":
        tone = 1 - 0.18 * (np.floor(u / rng.uniform(0.15, 0.6)) % 2)
    else:  # plaster, concrete, carpet
        tone = 1 + 0.08 * _noise(rng, u, v, 0.5) + 0.05 * _noise(rng, u, v, 0.06)
    return color * tone[:, None]


def _poster(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(n, 3) colours of a poster at (u, v) in [0, 1]."""
    first, second, third = (_random_color(rng, (0.3, 0.9), (0.25, 0.95)) for _ in range(3))
    kind = rng.integers(4)
    x, y = rng.uniform(0.3, 0.7, 2)
    if kind == 0:
        mask = np.hypot(u - x, v - y) < rng.uniform(0.15, 0.35)
    elif kind == 1:
        mask = np.floor((u + v * rng.uniform(-1, 1)) * rng.integers(3, 7)) % 2 == 0
    elif kind == 2:
        mask = v < 0.4 + 0.2 * np.sin(6 * u + 9 * x) + 0.1 * np.sin(15 * u + 9 * y)
    else:
        mask = (np.floor(u * 4) * 7 + np.floor(v * 5) * 13 + rng.integers(9)) % 3 == 0
    pattern = np.where(mask[:, None], first, second)
    edge = (np.minimum(u, 1 - u) < 0.04) | (np.minimum(v, 1 - v) < 0.04)
    return np.where(edge[:, None], third * 0.4, pattern)


def _room(rng: np.random.Generator, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) in [0, 1] of a room seen from inside."""
    half_size = np.maximum(np.abs(origin[:2]) + 0.5, rng.uniform(3.0, 5.0, 2))
    low, high = (
        np.array([-half_size[0], -half_size[1], 0.0]),
        np.array([half_size[0], half_size[1], max(rng.uniform(2.8, 4.0), origin[2] + 0.5)]),
    )
    flat = rays.reshape(-1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        exits = np.where(flat > 0, (high - origin) / flat, (low - origin) / flat)
    exits = np.where(np.abs(flat) < 1e-9, np.inf, exits)
    axis, depth = exits.argmin(1), exits.min(1)
    hit = origin + depth[:, None] * flat
    rgb = np.zeros((len(flat), 3))
    side = flat[np.arange(len(flat)), axis] > 0
    wall_kind = rng.choice(["plaster", "bricks", "stripes", "plaster"])
    wall_colour = _random_color(rng, (0.05, 0.5), (0.45, 0.95))
    for face in range(6):
        mask = (axis == face // 2) & (side == bool(face % 2))
        axes = [index for index in range(3) if index != face // 2]
        u, v = hit[mask, axes[0]], hit[mask, axes[1]]
        if face == 4:
            kind, color = rng.choice(["planks", "tiles", "carpet"]), _random_color(rng, (0.05, 0.45), (0.35, 0.8))
            if kind == "planks":
                color = np.array(
                    colorsys.hsv_to_rgb(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.6), rng.uniform(0.35, 0.8))
                )
        else:
            kind, color = ("plaster", np.full(3, 0.85)) if face == 5 else (wall_kind, wall_colour)
        shade = 0.80 + 0.20 * abs(LIGHT_DIRECTION[face // 2])
        rgb[mask] = _texture(kind, rng, u, v, color) * shade
        if face < 4:
            _add_posters(rng, rgb, mask, u, v, (low[axes[0]], high[axes[0]]), shade)
    corner = np.sort(np.minimum(hit - low, high - hit), axis=1)[:, 1]  # distance to the nearest edge of the box
    rgb *= (1 - 0.30 * np.exp(-corner / 0.25))[:, None]
    for _ in range(rng.integers(4, 12)):
        _add_object(rng, origin, flat, rgb, depth, low, high)
    return rgb.reshape(rays.shape)


def _add_posters(
    rng: np.random.Generator,
    rgb: np.ndarray,
    mask: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    span: tuple,
    shade: float,
) -> None:
    """Draw one to three posters on a wall, the rays of `mask`; span: of u, metres."""
    indices = np.flatnonzero(mask)
    for _ in range(rng.integers(1, 4)):
        width, height = rng.uniform(0.5, 1.4), rng.uniform(0.5, 1.3)
        left, bottom = rng.uniform(span[0] + 0.2, span[1] - 0.2 - width), rng.uniform(0.8, 1.6)
        a, b = (u - left) / width, (v - bottom) / height
        is_inside = (a >= 0) & (a <= 1) & (b >= 0) & (b <= 1)
        rgb[indices[is_inside]] = _poster(rng, a[is_inside], b[is_inside]) * shade


def _add_object(
    rng: np.random.Generator,
    origin: np.ndarray,
    rays: np.ndarray,
    rgb: np.ndarray,
    depth: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    """Draw a box or a ball by a wall, if it is farther from the camera than the dancer."""
    size = rng.uniform([0.25, 0.25, 0.3], [0.8, 0.8, 1.8])
    middle = rng.uniform(low[:2] + 0.5, high[:2] - 0.5)
    axis = int(rng.integers(2))  # of the wall
    middle[axis] = (low[axis] + size[axis] / 2 + 0.05) if rng.random() < 0.5 else (high[axis] - size[axis] / 2 - 0.05)
    color, is_ball, texture = (
        _random_color(rng, (0.1, 0.8), (0.2, 0.9)),
        rng.random() < 0.3,
        rng.choice(["plaster", "stripes", "tiles"]),
    )
    ahead = -origin[:2] / (np.linalg.norm(origin[:2]) + 1e-9)
    if middle @ ahead < 1.3 + size[:2].max():
        return
    if is_ball:
        radius = min(size[2], 1.0) / 2
        to_centre = np.array([*middle, radius]) - origin
        projection = rays @ to_centre
        discriminant = radius**2 - (to_centre @ to_centre - projection**2)
        hits = np.where(discriminant > 0, projection - np.sqrt(np.maximum(discriminant, 0)), np.inf)
        visible = hits < depth
        normal = (origin + hits[visible, None] * rays[visible] - [*middle, radius]) / radius
        rgb[visible] = color * (0.45 + 0.55 * np.clip(normal @ LIGHT_DIRECTION, 0, 1))[:, None]
    else:
        corners = np.array([[*(middle - size[:2] / 2), 0.0], [*(middle + size[:2] / 2), size[2]]])
        with np.errstate(divide="ignore", invalid="ignore"):
            slabs = (corners[:, None] - origin) / rays
        entry = np.nan_to_num(slabs.min(0), nan=-np.inf)
        hits, exits = entry.max(1), np.nan_to_num(slabs.max(0), nan=np.inf).min(1)
        visible = (hits < exits) & (hits > 0) & (hits < depth)
        face = entry[visible].argmax(1)
        points = origin + hits[visible, None] * rays[visible]
        u, v = np.where(face == 0, points[:, 1], points[:, 0]), np.where(face == 2, points[:, 1], points[:, 2])
        rgb[visible] = _texture(texture, rng, u, v, color) * np.array([0.62, 0.80, 1.0])[face][:, None]
    depth[visible] = hits[visible]
