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

    kind: one of PLAIN_KINDS or 'room'; origin (3,): the camera, metres; rays (h, w, 3): the world
    directions through 2 x 2 points of each pixel.
    """
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    samples = _room(rng, origin, rays) if kind == "room" else _plain(kind, rng, origin, rays)
    pixels = samples.reshape(samples.shape[0] // 2, 2, samples.shape[1] // 2, 2, 3).mean((1, 3))
    return (pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _random_color(rng: np.random.Generator, saturation: tuple, value: tuple) -> np.ndarray:
    """RGB in [0, 1] of a random hue, and of saturation and value (HSV) within these ranges."""
    return np.array(colorsys.hsv_to_rgb(rng.uniform(), rng.uniform(*saturation), rng.uniform(*value)))


def _plain(kind: str, rng: np.random.Generator, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) in [0, 1] of a plain backdrop; origin: the camera; rays: unit vectors."""
    color = _random_color(rng, (0, 0.5), (0.45, 0.95))
    row_fraction = np.linspace(0, 1, rays.shape[0])[:, None, None]  # 0 in the top row
    if kind == "colour":
        return np.broadcast_to(color, rays.shape).copy()
    if kind == "gradient":
        bottom_color = np.clip(color * rng.uniform(0.4, 0.8) + rng.uniform(0, 0.15, 3), 0, 1)
        return np.broadcast_to(color * (1 - row_fraction) + bottom_color * row_fraction, rays.shape).copy()
    # a studio sweep: the floor rises smoothly into the wall, darker at the bend, with a bright spot on the floor
    slope = rays[..., 2] / np.linalg.norm(rays[..., :2], axis=-1)  # tangent of the angle above the horizon
    bend_slope = -origin[2] / (np.linalg.norm(origin[:2]) + 3.0)
    bend_darkness = np.exp(-np.square((slope - bend_slope) / 0.09))
    is_floor = rays[..., 2] < -1e-4
    depth = origin[2] / np.where(is_floor, -rays[..., 2], 1)
    floor_distance = np.where(is_floor, np.linalg.norm(origin[:2] + depth[..., None] * rays[..., :2], axis=-1), 9.0)
    spot = np.exp(-np.square(floor_distance / 2.5))
    light = np.where(slope < bend_slope, 0.86 + 0.12 * spot, 0.93 + 0.1 * (slope - bend_slope)) - 0.10 * bend_darkness
    return color * light[..., None]


def _noise(rng: np.random.Generator, u: np.ndarray, v: np.ndarray, size: float) -> np.ndarray:
    """Smooth noise in [-1, 1] at the points (u, v) metres, with features about `size` metres wide."""
    grid = rng.uniform(-1, 1, (64, 64))
    u, v = u / size, v / size
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)  # the cell of each point
    u_weight, v_weight = u - i, v - j
    u_weight, v_weight = u_weight * u_weight * (3 - 2 * u_weight), v_weight * v_weight * (3 - 2 * v_weight)
    corners = [grid[(i + di) % 64, (j + dj) % 64] for di in (0, 1) for dj in (0, 1)]
    return (corners[0] * (1 - v_weight) + corners[1] * v_weight) * (1 - u_weight) + (
        corners[2] * (1 - v_weight) + corners[3] * v_weight
    ) * u_weight


def _texture(kind: str, rng: np.random.Generator, u: np.ndarray, v: np.ndarray, color: np.ndarray) -> np.ndarray:
    """(n, 3) colours of a surface at (u, v) metres."""
    if kind == "planks":
        board_index = np.floor(u / 0.14)
        brightness = 1 + 0.16 * np.sin(board_index * 12.9898 + np.floor(v / 1.3 + 0.37 * board_index) * 78.233)
        brightness += 0.05 * _noise(rng, u * 7, v, 0.3) - 0.25 * (np.abs(u / 0.14 - np.round(u / 0.14)) < 0.03)
    elif kind == "tiles":
        side = rng.uniform(0.3, 0.7)
        brightness = 1 - rng.uniform(0.15, 0.45) * ((np.floor(u / side) + np.floor(v / side)) % 2)
    elif kind == "bricks":
        row = np.floor(v / 0.11)
        column = u / 0.26 + 0.5 * (row % 2)
        is_seam = (np.abs(column - np.round(column)) < 0.03) | (np.abs(v / 0.11 - np.round(v / 0.11)) < 0.06)
        brightness = 1 + 0.12 * np.sin(np.floor(column) * 12.9898 + row * 78.233) - 0.25 * is_seam
    elif kind == "stripes":
        brightness = 1 - 0.18 * (np.floor(u / rng.uniform(0.15, 0.6)) % 2)
    else:  # plaster, concrete, carpet
        brightness = 1 + 0.08 * _noise(rng, u, v, 0.5) + 0.05 * _noise(rng, u, v, 0.06)
    return color * brightness[:, None]


def _poster(rng: np.random.Generator, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """(n, 3) colours of a poster at (u, v) in [0, 1]."""
    foreground, background, border_color = (_random_color(rng, (0.3, 0.9), (0.25, 0.95)) for _ in range(3))
    kind = rng.integers(4)
    center_u, center_v = rng.uniform(0.3, 0.7, 2)
    if kind == 0:
        mask = np.hypot(u - center_u, v - center_v) < rng.uniform(0.15, 0.35)
    elif kind == 1:
        mask = np.floor((u + v * rng.uniform(-1, 1)) * rng.integers(3, 7)) % 2 == 0
    elif kind == 2:
        mask = v < 0.4 + 0.2 * np.sin(6 * u + 9 * center_u) + 0.1 * np.sin(15 * u + 9 * center_v)
    else:
        mask = (np.floor(u * 4) * 7 + np.floor(v * 5) * 13 + rng.integers(9)) % 3 == 0
    colors = np.where(mask[:, None], foreground, background)
    is_border = (np.minimum(u, 1 - u) < 0.04) | (np.minimum(v, 1 - v) < 0.04)
    return np.where(is_border[:, None], border_color * 0.4, colors)


def _room(rng: np.random.Generator, origin: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Colours (h, w, 3) in [0, 1] of a room seen from inside."""
    half_size_xy = np.maximum(np.abs(origin[:2]) + 0.5, rng.uniform(3.0, 5.0, 2))
    low_corner, high_corner = (
        np.array([-half_size_xy[0], -half_size_xy[1], 0.0]),
        np.array([half_size_xy[0], half_size_xy[1], max(rng.uniform(2.8, 4.0), origin[2] + 0.5)]),
    )
    flat_rays = rays.reshape(-1, 3)
    with np.errstate(divide="ignore", invalid="ignore"):
        exit_depths = np.where(flat_rays > 0, (high_corner - origin) / flat_rays, (low_corner - origin) / flat_rays)
    exit_depths = np.where(np.abs(flat_rays) < 1e-9, np.inf, exit_depths)
    exit_axis, ray_depths = exit_depths.argmin(1), exit_depths.min(1)
    hit_points = origin + ray_depths[:, None] * flat_rays
    rgb = np.zeros((len(flat_rays), 3))
    is_high_side = flat_rays[np.arange(len(flat_rays)), exit_axis] > 0
    wall_kind = rng.choice(["plaster", "bricks", "stripes", "plaster"])
    wall_color = _random_color(rng, (0.05, 0.5), (0.45, 0.95))
    for face in range(6):  # 2 * axis, + 1 on the side of larger coordinates: 0 to 3 are walls, 4 floor, 5 ceiling
        is_on_face = (exit_axis == face // 2) & (is_high_side == bool(face % 2))
        face_axes = [index for index in range(3) if index != face // 2]
        u, v = hit_points[is_on_face, face_axes[0]], hit_points[is_on_face, face_axes[1]]
        if face == 4:
            kind, color = rng.choice(["planks", "tiles", "carpet"]), _random_color(rng, (0.05, 0.45), (0.35, 0.8))
            if kind == "planks":
                color = np.array(
                    colorsys.hsv_to_rgb(rng.uniform(0.05, 0.11), rng.uniform(0.2, 0.6), rng.uniform(0.35, 0.8))
                )
        else:
            kind, color = ("plaster", np.full(3, 0.85)) if face == 5 else (wall_kind, wall_color)
        shading = 0.80 + 0.20 * abs(LIGHT_DIRECTION[face // 2])
        rgb[is_on_face] = _texture(kind, rng, u, v, color) * shading
        if face < 4:
            _add_posters(rng, rgb, is_on_face, u, v, (low_corner[face_axes[0]], high_corner[face_axes[0]]), shading)
    # distance to the nearest edge of the box
    edge_distance = np.sort(np.minimum(hit_points - low_corner, high_corner - hit_points), axis=1)[:, 1]
    rgb *= (1 - 0.30 * np.exp(-edge_distance / 0.25))[:, None]
    for _ in range(rng.integers(4, 12)):
        _add_object(rng, origin, flat_rays, rgb, ray_depths, low_corner, high_corner)
    return rgb.reshape(rays.shape)


def _add_posters(
    rng: np.random.Generator,
    rgb: np.ndarray,
    is_on_wall: np.ndarray,
    u: np.ndarray,
    v: np.ndarray,
    u_range: tuple,
    shading: float,
) -> None:
    """Draw one to three posters on a wall into `rgb`, in place.

    is_on_wall (n,): the rays that hit it; u along it and v up, metres, of these rays; u_range: of the wall.
    """
    indices = np.flatnonzero(is_on_wall)
    for _ in range(rng.integers(1, 4)):
        width, height = rng.uniform(0.5, 1.4), rng.uniform(0.5, 1.3)
        left, bottom = rng.uniform(u_range[0] + 0.2, u_range[1] - 0.2 - width), rng.uniform(0.8, 1.6)
        poster_u, poster_v = (u - left) / width, (v - bottom) / height
        is_inside = (poster_u >= 0) & (poster_u <= 1) & (poster_v >= 0) & (poster_v <= 1)
        rgb[indices[is_inside]] = _poster(rng, poster_u[is_inside], poster_v[is_inside]) * shading


def _add_object(
    rng: np.random.Generator,
    origin: np.ndarray,
    rays: np.ndarray,
    rgb: np.ndarray,
    ray_depths: np.ndarray,
    low_corner: np.ndarray,
    high_corner: np.ndarray,
) -> None:
    """Draw a box or a ball by a wall, if it is farther from the camera than the dancer.

    Changes rgb (n, 3) and ray_depths (n,), metres along the rays, in place. low_corner, high_corner (3,): of the room.
    """
    size = rng.uniform([0.25, 0.25, 0.3], [0.8, 0.8, 1.8])
    # x and y of the object's center
    floor_center = rng.uniform(low_corner[:2] + 0.5, high_corner[:2] - 0.5)
    wall_normal_axis = int(rng.integers(2))
    floor_center[wall_normal_axis] = (
        (low_corner[wall_normal_axis] + size[wall_normal_axis] / 2 + 0.05)
        if rng.random() < 0.5
        else (high_corner[wall_normal_axis] - size[wall_normal_axis] / 2 - 0.05)
    )
    color, is_ball, texture_kind = (
        _random_color(rng, (0.1, 0.8), (0.2, 0.9)),
        rng.random() < 0.3,
        rng.choice(["plaster", "stripes", "tiles"]),
    )
    view_direction = -origin[:2] / (np.linalg.norm(origin[:2]) + 1e-9)
    if floor_center @ view_direction < 1.3 + size[:2].max():
        return
    if is_ball:
        radius = min(size[2], 1.0) / 2
        to_center = np.array([*floor_center, radius]) - origin
        projection = rays @ to_center
        discriminant = radius**2 - (to_center @ to_center - projection**2)
        hit_depths = np.where(discriminant > 0, projection - np.sqrt(np.maximum(discriminant, 0)), np.inf)
        is_visible = hit_depths < ray_depths
        normal = (origin + hit_depths[is_visible, None] * rays[is_visible] - [*floor_center, radius]) / radius
        rgb[is_visible] = color * (0.45 + 0.55 * np.clip(normal @ LIGHT_DIRECTION, 0, 1))[:, None]
    else:
        corners = np.array([[*(floor_center - size[:2] / 2), 0.0], [*(floor_center + size[:2] / 2), size[2]]])
        with np.errstate(divide="ignore", invalid="ignore"):
            plane_depths = (corners[:, None] - origin) / rays
        entry_depths = np.nan_to_num(plane_depths.min(0), nan=-np.inf)
        hit_depths, exit_depths = entry_depths.max(1), np.nan_to_num(plane_depths.max(0), nan=np.inf).min(1)
        is_visible = (hit_depths < exit_depths) & (hit_depths > 0) & (hit_depths < ray_depths)
        face_axis = entry_depths[is_visible].argmax(1)
        points = origin + hit_depths[is_visible, None] * rays[is_visible]
        u, v = (
            np.where(face_axis == 0, points[:, 1], points[:, 0]),
            np.where(face_axis == 2, points[:, 1], points[:, 2]),
        )
        rgb[is_visible] = _texture(texture_kind, rng, u, v, color) * np.array([0.62, 0.80, 1.0])[face_axis][:, None]
    ray_depths[is_visible] = hit_depths[is_visible]
