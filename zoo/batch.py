"""The batch contract: every key of a training batch, with its shape, type, range and unit.

Shape letters, the same everywhere in the zoo:

====== =====================================================================
letter meaning
====== =====================================================================
B      batch
F      video frames, at the clip's `fps`
C H W  channels, height, width in pixels (row 0 is the top)
T      motion frames, always at `MOTION_FPS`
J      joints, 24 in SMPL's order
L      music tokens, at `music_rate` a second
D      features of one music token
S      samples of a waveform
====== =====================================================================

World coordinates are metres, Z up, the floor is z = 0; a dancer at rest looks along -Y and has its left hand at +X.
"""

from collections.abc import Iterable
from typing import TypedDict

from torch import Tensor

MOTION_FPS = 30  # Hz; EDGE sec. 4: AIST++ is brought from 60 to 30 fps, every network here works at that rate
MOTION_DIM = 151  # 4 foot contacts, 3 root position, 24 joints x 6D rotation (EDGE sec. 3)


class Batch(TypedDict, total=False):
    """One training batch. A data set fills the keys that a stage requires, and no others."""

    key: list[str]  # B unique window names, stable between runs
    fps: float  # video frames a second of `frames` and of every other (B, F, ...) value

    reference: Tensor  # (B, 3, H, W) float32 in [-1, 1]: the dancer, from outside the window where the clip has that
    frames: Tensor  # (B, F, 3, H, W) float32 in [-1, 1]
    frame_indices: Tensor  # (B, F) int64, of each frame in its stored clip: a cache key for per-frame values

    music: Tensor  # (B, L, D) float32: features of the configured music encoder, over exactly the time of the frames
    music_rate: float  # Hz, tokens a second of `music`
    beats: Tensor  # (B, F) int64, 1 on the frame that a beat falls on (round to nearest), else 0
    beat_phase: Tensor  # (B, F, 2) float32: cosine and sine of the phase of the exact beats, (1, 0) on a beat

    caption: list[str]  # B lines of text that describe the motion, never the appearance
    motion: Tensor  # (B, T, 151) float32, not normalised: contacts, root in metres, rotations (zoo.body.skeleton)

    parts: Tensor  # (B, F, H, W) uint8, 0 background, 1..24 DensePose part
    semantic: Tensor  # (B, F, H, W) uint8, 0 background, 1.. clothing/body label (zoo.body.labels.SEMANTIC)
    depth: Tensor  # (B, F, H, W) float32 in [0, 1], 0 background, 1 nearest (affine inverse of metric depth, per clip)
    normal: Tensor  # (B, F, 3, H, W) float32 in [-1, 1], camera space, x right, y up, z to the viewer; 0 background
    skeleton: Tensor  # (B, F, 3, H, W) float32 in [-1, 1]: limbs drawn on black
    heatmaps: Tensor  # (B, F, J, H/4, W/4) float32 in [0, 1]: one Gaussian a joint
    joints2d: Tensor  # (B, F, J, 2) float32, pixels (x right, y down)
    joints3d: Tensor  # (B, F, J, 3) float32, metres, world

    song: list[str]  # labels: which song, dancer, camera, style, and the move at the clip's middle
    dancer: list[str]
    camera: list[str]
    style: list[str]
    move: list[str]


def check_required_keys(required: Iterable[str], available: Iterable[str], stage: str, source: str, hint: str) -> None:
    """Refuse a data set that lacks keys that a stage requires, before anything starts.

    Raises ValueError with the stage, the data set, the missing keys and `hint` (where these keys can be had).
    """
    required = set(required)
    unknown = sorted(required - set(Batch.__annotations__))
    assert not unknown, f"{stage} requires keys that are not in the batch contract: {unknown}"
    missing = sorted(required - set(available))
    if missing:
        raise ValueError(f"stage '{stage}' needs {', '.join(missing)}, which data '{source}' does not have; {hint}")
