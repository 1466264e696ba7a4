"""Pinhole cameras, and the ones a dance is filmed by: four of AIST's and a close one.

DabFusion (sec. 4.1) names AIST's views: C01 front, C02 upper right of the dancer, C03 right, C09 front but closer.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Camera:
    """position, target: world metres; fov: degrees across the shorter side of the image.

    Camera axes: x right, y up, z towards the viewer. Pixels: x right, y down, (0, 0) is the image's upper left corner,
    so that the centre of the first pixel is (0.5, 0.5).
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float

    @property
    def axes(self) -> np.ndarray:
        """Rows: right, up, towards the viewer, in the world. (3, 3) float64"""
        back = np.subtract(self.position, self.target)
        back = back / np.linalg.norm(back)
        right = np.cross([0.0, 0.0, 1.0], back)
        right = right / np.linalg.norm(right)
        return np.stack([right, np.cross(back, right), back])

    def focal(self, height: int, width: int) -> float:
        """Focal length in pixels."""
        return min(height, width) / 2 / np.tan(np.radians(self.fov) / 2)

    def project(self, points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) -> pixels (..., 2), depth (...) in metres along the viewing axis."""
        local = (points - np.array(self.position, points.dtype)) @ self.axes.T.astype(points.dtype)
        depth = -local[..., 2]
        flat = local[..., :2] * np.array([1, -1], points.dtype) * self.focal(height, width)
        return flat / np.maximum(depth, 1e-6)[..., None] + np.array([width / 2, height / 2], points.dtype), depth

    def rays(self, height: int, width: int) -> np.ndarray:
        """World directions through the pixel centres; a step along one is a metre of depth. (H, W, 3) float32"""
        x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
        focal = self.focal(height, width)
        return (np.stack([x / focal, y / focal, -np.ones_like(x)], -1) @ self.axes).astype(np.float32)

    def floor(self, height: int, width: int) -> np.ndarray:
        """World x, y of the floor that each pixel sees, inf above the horizon. (H, W, 2) float32"""
        rays = self.rays(height, width)
        down = rays[..., 2:] < -1e-4
        reach = np.where(down, -self.position[2] / np.where(down, rays[..., 2:], -1), np.inf)
        return np.where(down, np.float32(self.position[:2]) + np.where(down, reach, 0) * rays[..., :2], np.inf)

    def moved(self, x: float, y: float) -> "Camera":
        """The same camera, carried along by (x, y) metres, to follow a dancer."""
        shift = np.array([x, y, 0.0])
        return replace(self, position=tuple(self.position + shift), target=tuple(self.target + shift))


def _around(
    azimuth: float, distance: float, height: float, target: float, reach: float, least: float
) -> tuple[Camera, float, float]:
    """A camera, its field still to be set, how far a dancer may stray in its picture, and its least half field, metres.

    azimuth: degrees from the front towards the dancer's right hand (world -X).
    """
    angle = np.radians(azimuth)
    position = (-distance * float(np.sin(angle)), -distance * float(np.cos(angle)), height)
    return Camera(position, (0.0, 0.0, target), 40.0), reach, least


# AIST's five of its nine that are used here; `close` shows the upper body
CAMERAS = {
    "C01": _around(0, 6.2, 1.3, 1.0, 1.0, 1.45),
    "C02": _around(45, 6.0, 2.6, 0.95, 1.0, 1.45),
    "C03": _around(90, 6.2, 1.3, 1.0, 1.0, 1.45),
    "C09": _around(0, 4.6, 1.2, 1.0, 0.6, 1.3),
    "close": _around(0, 3.0, 1.45, 1.32, -0.2, 0.0),
}


def camera(name: str, reach: float | None = None) -> Camera:
    """One of `CAMERAS`, looking at the origin.

    reach: how many metres from there a dancer may go and still have both spread arms in the picture (by default 1 for
    C01, C02 and C03, 0.6 for C09). Less of it, for a camera that follows the dancer, shows the dancer larger; arms
    raised above the head always stay in, but not with `close`. Raises ValueError for an unknown name.
    """
    if name not in CAMERAS:
        raise ValueError(f"unknown camera '{name}'; there are {', '.join(CAMERAS)}")
    base, own, least = CAMERAS[name]
    half = max((own if reach is None else reach) + 0.92, least)
    distance = float(np.linalg.norm(np.subtract(base.position, base.target)))
    return replace(base, fov=float(2 * np.degrees(np.arctan(half / distance))))


def follow(root: np.ndarray, fps: float, seconds: float = 1.0) -> np.ndarray:
    """Where a camera operator would walk: the dancer's floor path, smoothed. root (F, 3) metres -> (F, 2)"""
    radius = max(1, round(fps * seconds))
    window = np.hanning(2 * radius + 3)[1:-1]
    padded = np.pad(np.asarray(root)[:, :2], ((radius, radius), (0, 0)), mode="edge")
    return np.stack([np.convolve(axis, window / window.sum(), mode="valid") for axis in padded.T], 1)
