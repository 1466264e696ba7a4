"""Motion made into frames: by a mesh body in the looks of the picture, or by the pictured person as a puppet."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from zoo.body.camera import camera
from zoo.body.look import Look, look_from_picture, random_look
from zoo.body.people import PoseDetector
from zoo.body.puppet import Puppet, Stage2D, make_puppet
from zoo.body.render import render_motion
from zoo.body.skeleton import unpack

ROOM = 0.45  # metres the dancer may be off the middle of the picture before the camera follows
LEAST_FIT = 0.5
SECONDS = 0.7  # in which the camera makes up for most of what is more


class MeshRenderer:
    """Draws motion as frames of height x width pixels. A renderer of any family has this `start`."""

    def __init__(self, height: int, width: int):
        self.height, self.width = height, width

    def start(self, image: Tensor | None, fps: Fraction, seed: int) -> Callable[[Tensor], Tensor]:
        """A shot of one dancer: a function from consecutive motion (F, 151) at `fps` to frames (F, 3, H, W) uint8.

        image: (3, H, W) uint8 that gives the looks, or None for looks drawn from the seed.
        """
        if image is None:
            look = random_look(np.random.default_rng(seed))
        else:
            look = look_from_picture(image.permute(1, 2, 0).cpu().numpy())
        return Shot(look, self.height, self.width, 1 - np.exp(-1 / (SECONDS * float(fps))))


class Shot:
    """One take: what the camera does next depends on where it is."""

    def __init__(self, look: Look, height: int, width: int, pull: float):
        """pull: share of what the dancer is out of bounds that the camera makes up for in a frame, 0..1."""
        self.look, self.height, self.width, self.pull = look, height, width, pull
        self.camera, self.at = camera("C09", reach=ROOM), None

    def __call__(self, motion: Tensor) -> Tensor:
        """(F, 151) -> (F, 3, H, W) uint8"""
        _, root, rotations = unpack(motion)
        views = []
        for place in root[:, :2].double().numpy():
            self.at = place if self.at is None else self.at
            away = place - self.at
            distance = max(np.linalg.norm(away), ROOM)
            self.at = self.at + away * (1 - ROOM / distance) * self.pull
            views.append(self.camera.moved(*self.at))
        drawn = render_motion(self.look, rotations.numpy(), root.numpy(), views, self.height, self.width, need=("rgb",))
        return torch.from_numpy(drawn["rgb"]).permute(0, 3, 1, 2)


class WarpRenderer:
    """Cuts the pictured figure into limbs and moves these (`zoo.body.puppet`): no weights but the detector's."""

    def __init__(self, detector: PoseDetector, instead: MeshRenderer | None = None):
        """instead: what draws where a picture does not do; None raises."""
        self.detector, self.instead = detector, instead
        self.fit: float | None = None  # of the last picture that did, in [0, 1]

    def start(self, image: Tensor | None, fps: Fraction, seed: int) -> Callable[[Tensor], Tensor]:
        """As `MeshRenderer.start`; frames have the picture's proportions.

        Raises ValueError without a picture, and for one of not one whole figure, saying what is wrong with it.
        """
        try:
            return PuppetShot(self._puppet(image), fps)
        except ValueError:
            if self.instead is None:
                raise
            return self.instead.start(image, fps, seed)

    def _puppet(self, image: Tensor | None) -> Puppet:
        if image is None:
            raise ValueError("renderer=warp moves the figure of a picture: give image=FILE")
        puppet = make_puppet(image.permute(1, 2, 0).cpu().numpy(), self.detector)
        if puppet.fit < LEAST_FIT:
            raise ValueError(
                f"the figure in it is hard to make out (it fits by {puppet.fit:.2f}, {LEAST_FIT} is needed); use one "
                "that shows arms and legs apart from each other"
            )
        self.fit = puppet.fit
        return puppet


class PuppetShot:
    """One take of a puppet."""

    def __init__(self, puppet: Puppet, fps: Fraction):
        self.stage = Stage2D(puppet, float(fps))

    def __call__(self, motion: Tensor) -> Tensor:
        """(F, 151) -> (F, 3, H, W) uint8"""
        _, root, rotations = unpack(motion.cpu())
        return torch.from_numpy(self.stage.draw(*self.stage.joints(rotations, root))).permute(0, 3, 1, 2)
