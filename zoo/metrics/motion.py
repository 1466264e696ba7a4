"""Motion: is the dance physically plausible, and does it differ from the next one?

Joints are (T, 24, 3) metres in world coordinates (Z up), SMPL's order, at `fps` (see zoo.body.skeleton).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

LEFT_FOOT, RIGHT_FOOT = (7, 10), (8, 11)  # ankle and toe joint


def physical_foot_contact(joints: np.ndarray, fps: float = 30) -> float:
    """PFC (EDGE sec. 5.1, eq. 8-9, as its public scorer computes it), lower is better.

    Mean over frames of |root acceleration| (upward part only, over its maximum) x left x right foot's horizontal step,
    each foot's the smaller of ankle and toe in metres a frame, x 1e4. 0 for a body that never accelerates.
    """
    acceleration = np.diff(joints[:, 0], n=2, axis=0) * fps**2  # (T - 2, 3)
    acceleration[:, 2] = np.maximum(acceleration[:, 2], 0)
    force = np.linalg.norm(acceleration, axis=-1)
    if force.max(initial=0) == 0:
        return 0.0
    step = np.linalg.norm(np.diff(joints[1:, :, :2], axis=0), axis=-1)  # (T - 2, J), metres a frame
    feet = [step[:, foot].min(1) for foot in (LEFT_FOOT, RIGHT_FOOT)]
    return float((force / force.max() * feet[0] * feet[1]).mean() * 1e4)


def foot_sliding(joints: np.ndarray, fps: float = 30, height: float = 0.05) -> float:
    """Mean horizontal speed (m/s) of toe joints while they are within `height` metres of their lowest in the clip."""
    toes = joints[:, [10, 11]]
    down = (toes[1:, :, 2] - toes[..., 2].min() < height) & (toes[:-1, :, 2] - toes[..., 2].min() < height)
    step = np.linalg.norm(np.diff(toes[..., :2], axis=0), axis=-1) * fps
    return float(step[down].mean()) if down.any() else 0.0


def jitter(joints: np.ndarray, fps: float = 30) -> float:
    """Mean size of the third derivative of joint positions, in 1e3 m/s^3."""
    return float(np.linalg.norm(np.diff(joints, n=3, axis=0), axis=-1).mean() * fps**3 / 1e3)


def dance_distance(first: np.ndarray, second: np.ndarray) -> float:
    """How far apart two dances of one length are: mean distance of joints about the pelvis, in metres.

    The pelvis is taken out so that standing elsewhere does not count as dancing otherwise.
    """
    relative = [joints - joints[:, :1] for joints in (first, second)]
    return float(np.linalg.norm(relative[0] - relative[1], axis=-1).mean())


def diversity(dances: Sequence[np.ndarray]) -> float:
    """Mean `dance_distance` over all pairs: of seeds on one song, its multimodality; of songs, the diversity."""
    pairs = [dance_distance(a, b) for a, b in combinations(dances, 2)]
    if not pairs:
        raise ValueError("diversity needs at least two dances")
    return float(np.mean(pairs))
