"""Draw motion as a body mesh in the colours of the image. Needs no weights."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.body.camera import camera
from zoo.body.detection.base import PoseDetector
from zoo.body.render.appearance import Appearance, appearance_from_image, random_appearance
from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import unpack
from zoo.families.renderer import Renderer, RenderSession, check_options

MAX_OFFSET = 0.45  # metres that the dancer may leave the image's centre before the camera follows
FOLLOW_SECONDS = 0.7  # time constant of the camera


class MeshRenderer(Renderer):
    """Draws a body mesh as frames of height x width pixels."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width

    @classmethod
    def build(
        cls, family: nn.Module, detector: PoseDetector | None, fallback: Renderer | None, options: Mapping[str, Any]
    ) -> "MeshRenderer":
        """See `Renderer`: the family gives the resolution."""
        check_options("mesh", options)
        return cls(family.mesh_height, family.mesh_width)

    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> "MeshSession":
        """See `Renderer`. image: gives the appearance; None draws one from the seed."""
        if image is None:
            appearance = random_appearance(np.random.default_rng(seed))
        else:
            appearance = appearance_from_image(image.permute(1, 2, 0).cpu().numpy())
        return MeshSession(appearance, self.height, self.width, 1 - np.exp(-1 / (FOLLOW_SECONDS * float(fps))))


class MeshSession(RenderSession):
    """One video: the camera follows the dancer."""

    def __init__(self, appearance: Appearance, height: int, width: int, follow_rate: float):
        """follow_rate: fraction of the excess offset that the camera makes up for in one frame, 0..1."""
        self.appearance, self.height, self.width, self.follow_rate = appearance, height, width, follow_rate
        self.camera = camera("C09", max_offset=MAX_OFFSET)
        self.center: np.ndarray | None = None  # (2,) metres: the point of the floor that the camera looks at

    def draw(self, motion: Tensor) -> Tensor:
        """See `RenderSession`."""
        _, root, rotations = unpack(motion)
        cameras = []
        for position in root[:, :2].double().numpy():
            previous_center = position if self.center is None else self.center
            offset = position - previous_center
            distance = max(np.linalg.norm(offset), MAX_OFFSET)
            self.center = previous_center + offset * (1 - MAX_OFFSET / distance) * self.follow_rate
            cameras.append(self.camera.translated(*self.center))
        maps = render_motion(
            self.appearance, rotations.numpy(), root.numpy(), cameras, self.height, self.width, maps=("rgb",)
        )
        return torch.from_numpy(maps["rgb"]).permute(0, 3, 1, 2)
