"""Motion made into frames: by a mesh body in the picture's looks, the pictured person as a puppet, or by diffusion."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from zoo.body.camera import camera
from zoo.body.detection.base import PoseDetector
from zoo.body.image.alignment import AlignedMotion, Alignment, align
from zoo.body.image.puppet import Puppet, PuppetAnimator, make_puppet
from zoo.body.render.appearance import Appearance, appearance_from_image, random_appearance
from zoo.body.render.rasterizer import render_motion
from zoo.body.skeleton import unpack
from zoo.families.magicdance.renderers.animator import Animator, Faces
from zoo.nn.square_image import pad_to_square

ROOM = 0.45  # metres the dancer may be off the middle of the picture before the camera follows
LEAST_FIT = 0.75
DETECTED = 512  # pixels a side of the picture that a figure is looked for in
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
            look = random_appearance(np.random.default_rng(seed))
        else:
            look = appearance_from_image(image.permute(1, 2, 0).cpu().numpy())
        return Shot(look, self.height, self.width, 1 - np.exp(-1 / (SECONDS * float(fps))))


class Shot:
    """One take: what the camera does next depends on where it is."""

    def __init__(self, look: Appearance, height: int, width: int, pull: float):
        """pull: share of what the dancer is out of bounds that the camera makes up for in a frame, 0..1."""
        self.look, self.height, self.width, self.pull = look, height, width, pull
        self.camera, self.at = camera("C09", max_offset=ROOM), None

    def __call__(self, motion: Tensor) -> Tensor:
        """(F, 151) -> (F, 3, H, W) uint8"""
        _, root, rotations = unpack(motion)
        views = []
        for place in root[:, :2].double().numpy():
            self.at = place if self.at is None else self.at
            away = place - self.at
            distance = max(np.linalg.norm(away), ROOM)
            self.at = self.at + away * (1 - ROOM / distance) * self.pull
            views.append(self.camera.translated(*self.at))
        drawn = render_motion(self.look, rotations.numpy(), root.numpy(), views, self.height, self.width, maps=("rgb",))
        return torch.from_numpy(drawn["rgb"]).permute(0, 3, 1, 2)


class WarpRenderer:
    """Bends the pictured figure (`zoo.body.image.puppet`): no weights but the detector's."""

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
        check_fit(puppet.quality)
        self.fit = puppet.quality
        return puppet


def check_fit(fit: float) -> None:
    """Raises ValueError where a figure fits too badly to be moved."""
    if fit < LEAST_FIT:
        raise ValueError(
            f"the figure in it is hard to make out (it fits by {fit:.2f}, {LEAST_FIT} is needed); use one "
            "that shows arms and legs apart from each other"
        )


class PuppetShot:
    """One take of a puppet."""

    def __init__(self, puppet: Puppet, fps: Fraction):
        self.stage = PuppetAnimator(puppet, float(fps))

    def __call__(self, motion: Tensor) -> Tensor:
        """(F, 151) -> (F, 3, H, W) uint8"""
        _, root, rotations = unpack(motion.cpu())
        return torch.from_numpy(self.stage.draw(*self.stage.joints(rotations, root))).permute(0, 3, 1, 2)


class DiffusionRenderer:
    """Denoises the pictured figure's frames, by `Animator`, from the dance that is aligned with the picture."""

    def __init__(
        self,
        animator: Animator,
        detector: PoseDetector,
        instead: MeshRenderer | None = None,
        face: Tensor | None = None,
    ):
        """instead: what draws where a picture does not do; None raises. face: (3, H, W) uint8 of one whole figure that
        lends the dancer its face (sec. 4's test). Raises ValueError where no face encoder was trained.
        """
        self.animator, self.detector, self.instead = animator, detector, instead
        self.fit: float | None = None  # of the last picture that did, in [0, 1]
        self.face: Faces | None = None
        if face is not None:
            if animator.face is None:
                raise ValueError("face=: this checkpoint has no face encoder")
            self.face = self._faces(*self._aligned(face))

    def start(self, image: Tensor | None, fps: Fraction, seed: int) -> Callable[[Tensor], Tensor]:
        """As `MeshRenderer.start`. Raises ValueError without a picture, and for one of not one whole figure."""
        try:
            if image is None:
                raise ValueError("renderer=diffusion moves the figure of a picture: give image=FILE")
            picture, alignment = self._aligned(image)
        except ValueError:
            if self.instead is None:
                raise
            return self.instead.start(image, fps, seed)
        self.fit = alignment.quality
        face = self._faces(picture, alignment) if self.face is None else self.face
        return DiffusionShot(self.animator, picture, alignment, face, seed, lent=self.face is not None)

    def _aligned(self, image: Tensor) -> tuple[Tensor, Alignment]:
        """A picture (3, H, W) uint8 as (1, 3, S, S) in [-1, 1], and what is to be seen in it."""
        size = self.animator.size
        large = pad_to_square(image.cpu(), max(size, min(DETECTED, max(image.shape[1:]))))
        alignment = align(large.permute(1, 2, 0).numpy(), self.detector, size)
        check_fit(alignment.quality)
        return pad_to_square(large, size)[None].to(self.animator.device).float() / 127.5 - 1, alignment

    @torch.no_grad()
    def _faces(self, picture: Tensor, alignment: Alignment) -> Faces | None:
        return self.animator.faces(picture, torch.from_numpy(alignment.face)[None].to(picture.device))


class DiffusionShot:
    """One take, window after window: each sees the last frames of the one before."""

    @torch.no_grad()
    def __init__(
        self,
        animator: Animator,
        picture: Tensor,
        alignment: Alignment,
        face: Faces | None,
        seed: int,
        lent: bool = False,
    ):
        """picture (1, 3, S, S) in [-1, 1]; face: of `Animator.faces`; lent: it is another's, and the picture's head is
        hidden from a network that has learned without."""
        self.animator, self.dance, self.face = animator, AlignedMotion(alignment), face
        self.draw = torch.Generator("cpu").manual_seed(seed)
        reference = animator.detailed(animator.pictured(animator.encode(picture)), picture)
        if lent and animator.headless:
            box = torch.from_numpy(alignment.face)[None].to(picture.device)
            reference = animator.without_head(reference, box, face, torch.ones(1, dtype=torch.bool, device=box.device))
        self.reference = reference
        self.before: tuple[Tensor, Tensor] | None = None  # parts and latents of the last frames

    def __call__(self, motion: Tensor) -> Tensor:
        """(F, 151) -> (F, 3, S, S) uint8"""
        return self.posed(self.dance.parts(motion))

    def posed(self, parts: Tensor) -> Tensor:
        """The next frames (F, 3, S, S) uint8, with the body where DensePose's parts (F, S, S) 0..24 are."""
        made, animator = [], self.animator
        left = parts.to(animator.device)
        while len(left):
            known = 0 if self.before is None else len(self.before[0])
            parts, left = left[: animator.frames - known], left[animator.frames - known :]
            fresh = len(parts)
            latents = None
            if self.before is not None:
                parts, latents = torch.cat([self.before[0], parts]), self.before[1]
            found = animator.window(self.reference, self.face, parts, latents, self.draw)
            made.append(animator.decode(found[-fresh:], self.reference).cpu())
            if animator.overlap:
                self.before = parts[-animator.overlap :], found[-animator.overlap :]
        return torch.cat(made)
