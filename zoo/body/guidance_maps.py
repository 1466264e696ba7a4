"""Guidance maps of a body motion: depth, normals, parts, semantic labels, skeleton and joint heat maps.

Champ (arXiv 2403.14781) and M2PEnc (sec. 3.1) condition a latent diffusion model on such maps. All maps of a frame show
the same body before the same camera.
"""

from collections.abc import Sequence

import numpy as np

from zoo.body.camera import Camera
from zoo.body.render.appearance import Appearance
from zoo.body.render.openpose_video import draw_pose, pose_points
from zoo.body.render.pose_maps import draw_skeleton, heatmaps
from zoo.body.render.rasterizer import clothed_body, inverse_depth, render_motion

GUIDANCE_MAPS = ("depth", "normal", "parts", "semantic", "skeleton", "heatmaps", "joints2d", "joints3d")
RASTERIZED = ("depth", "normal", "parts", "semantic")  # those that the rasterizer draws
SKELETON_STYLES = ("smpl", "openpose")
HEATMAP_STRIDE = 4  # pixels of the image in one cell of a heat map


def render_guidance_maps(
    appearance: Appearance,
    rotations: np.ndarray,
    root: np.ndarray,
    camera: Camera | Sequence[Camera],
    height: int,
    width: int,
    *,
    background: np.ndarray | None = None,
    with_frames: bool = False,
    skeleton_style: str = "smpl",
) -> dict[str, np.ndarray]:
    """Draw a clip's maps: GUIDANCE_MAPS as in `zoo.batch`, but channels last, and `frames` if they are asked for.

    rotations (F, 24, 3, 3) local; root (F, 3) canonical, metres; one camera, or F of them. with_frames: draw the
    clothed body in color too, before `background` (H, W, 3) uint8. skeleton_style: 'smpl' draws the 24 joints;
    'openpose' draws OpenPose's 18 points and the toes, which public weights were trained on. -> depth (F, H, W)
    float32 in [0, 1]; normal (F, H, W, 3) float32; parts and semantic (F, H, W) uint8; skeleton (F, H, W, 3) uint8;
    heatmaps (F, 24, H/4, W/4) float32; joints2d (F, 24, 2) and joints3d (F, 24, 3) float32; frames (F, H, W, 3) uint8.
    Raises ValueError for another style, and for 'openpose' in images that are not square or with several cameras.
    """
    check_skeleton_style(skeleton_style, height, width)
    maps = (*RASTERIZED, "rgb") if with_frames else RASTERIZED
    images = render_motion(appearance, rotations, root, camera, height, width, background, maps=maps)
    joints2d = images["joints2d"]
    if skeleton_style == "smpl":
        skeleton = draw_skeleton(joints2d, height, width)
    else:
        if not isinstance(camera, Camera):
            raise ValueError("skeleton_style=openpose needs a still camera")
        points = pose_points(clothed_body(appearance), rotations, root, camera, height)
        skeleton = np.stack([draw_pose(frame, height, width) for frame in points])
    fields = {
        "depth": inverse_depth(images["depth"]),
        "normal": images["normal"],
        "parts": images["parts"],
        "semantic": images["semantic"],
        "skeleton": skeleton,
        "heatmaps": heatmaps(joints2d / HEATMAP_STRIDE, height // HEATMAP_STRIDE, width // HEATMAP_STRIDE),
        "joints2d": joints2d,
        "joints3d": images["joints3d"],
    }
    return fields | ({"frames": images["rgb"]} if with_frames else {})


def check_skeleton_style(style: str, height: int, width: int) -> None:
    """Raise ValueError, one line, for a style that is unknown or cannot be drawn in this resolution."""
    if style not in SKELETON_STYLES:
        raise ValueError(f"skeleton_style={style}: use {' or '.join(SKELETON_STYLES)}")
    if style == "openpose" and height != width:
        raise ValueError(f"skeleton_style=openpose needs square images, not {height}x{width}")
