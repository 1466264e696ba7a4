"""Pinhole cameras: four views of the AIST dance database and a close one.

DabFusion (sec. 4.1) names AIST's views: C01 front, C02 upper right of the dancer, C03 right, C09 front but closer.
"""

from dataclasses import dataclass, replace

import numpy as np


@dataclass(frozen=True)
class Camera:
    """position, target: world metres; fov: degrees across the shorter side of the image.

    Camera axes: x right, y up, z towards the viewer. Pixels: x right, y down, (0, 0) is the image's upper left corner,
    so that the center of the first pixel is (0.5, 0.5).
    """

    position: tuple[float, float, float]
    target: tuple[float, float, float]
    fov: float

    @property
    def axes(self) -> np.ndarray:
        """Rows: right, up, towards the viewer, in the world. (3, 3) float64"""
        backward = np.subtract(self.position, self.target)
        backward = backward / np.linalg.norm(backward)
        right = np.cross([0.0, 0.0, 1.0], backward)
        right = right / np.linalg.norm(right)
        return np.stack([right, np.cross(backward, right), backward])

    def focal(self, height: int, width: int) -> float:
        """Focal length in pixels."""
        return min(height, width) / 2 / np.tan(np.radians(self.fov) / 2)

    def project(self, points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """World points (..., 3) -> pixels (..., 2), depth (...) in metres along the viewing axis."""
        camera_points = (points - np.array(self.position, points.dtype)) @ self.axes.T.astype(points.dtype)
        depth = -camera_points[..., 2]
        centered_pixels = camera_points[..., :2] * np.array([1, -1], points.dtype) * self.focal(height, width)
        center = np.array([width / 2, height / 2], points.dtype)
        return centered_pixels / np.maximum(depth, 1e-6)[..., None] + center, depth

    def rays(self, height: int, width: int) -> np.ndarray:
        """World directions through the pixel centers, of one metre of depth. (H, W, 3) float32"""
        x, y = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
        focal = self.focal(height, width)
        return (np.stack([x / focal, y / focal, -np.ones_like(x)], -1) @ self.axes).astype(np.float32)

    def floor(self, height: int, width: int) -> np.ndarray:
        """World x, y of the floor point at each pixel, inf above the horizon. (H, W, 2) float32"""
        rays = self.rays(height, width)
        is_down = rays[..., 2:] < -1e-4
        depth = np.where(is_down, -self.position[2] / np.where(is_down, rays[..., 2:], -1), np.inf)
        floor_points = np.float32(self.position[:2]) + np.where(is_down, depth, 0) * rays[..., :2]
        return np.where(is_down, floor_points, np.inf)

    def translated(self, x: float, y: float) -> "Camera":
        """The same camera, moved by (x, y) metres, to follow a dancer."""
        translation = np.array([x, y, 0.0])
        return replace(self, position=tuple(self.position + translation), target=tuple(self.target + translation))


@dataclass(frozen=True)
class CameraView:
    """A view of the dancer at the origin, whose field of view depends on the dancer's range.

    azimuth: degrees from the front towards the dancer's right hand (world -X).
    """

    azimuth: float
    distance: float  # metres from the dancer
    height: float  # metres above the floor
    target_height: float  # metres above the floor, of the point in the image's center
    max_offset: float  # metres that the dancer may move away from the origin
    min_half_field: float  # metres from the image's center to its edge, at the dancer's distance

    def camera(self) -> Camera:
        """The camera, with a preliminary field of view."""
        angle = np.radians(self.azimuth)
        position = (-self.distance * float(np.sin(angle)), -self.distance * float(np.cos(angle)), self.height)
        return Camera(position, (0.0, 0.0, self.target_height), 40.0)


# five of AIST's nine views; `close` shows the upper body
CAMERAS = {
    "C01": CameraView(0, 6.2, 1.3, 1.0, 1.0, 1.45),
    "C02": CameraView(45, 6.0, 2.6, 0.95, 1.0, 1.45),
    "C03": CameraView(90, 6.2, 1.3, 1.0, 1.0, 1.45),
    "C09": CameraView(0, 4.6, 1.2, 1.0, 0.6, 1.3),
    "close": CameraView(0, 3.0, 1.45, 1.32, -0.2, 0.0),
}
ARM_REACH = 0.92  # metres that a spread arm extends from the pelvis


def camera(name: str, max_offset: float | None = None) -> Camera:
    """One of CAMERAS, looking at the origin.

    max_offset: metres that a dancer may move from there with both spread arms in the image (by default 1 for C01, C02
    and C03, 0.6 for C09). Smaller values, for a camera that follows the dancer, show the dancer larger. Arms that are
    raised above the head are always visible, except with `close`. Raises ValueError for an unknown name.
    """
    if name not in CAMERAS:
        raise ValueError(f"unknown camera '{name}'; choose one of {', '.join(CAMERAS)}")
    view = CAMERAS[name]
    base_camera = view.camera()
    half_field = max((view.max_offset if max_offset is None else max_offset) + ARM_REACH, view.min_half_field)
    distance = float(np.linalg.norm(np.subtract(base_camera.position, base_camera.target)))
    return replace(base_camera, fov=float(2 * np.degrees(np.arctan(half_field / distance))))
