"""Draw motion by deforming the photographed figure as rigidly as possible (`zoo.body.image.puppet`)."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor, nn

from zoo.body.detection.base import PersonNumberError, PoseDetector
from zoo.body.image.puppet import Puppet, PuppetAnimator, make_puppet
from zoo.body.skeleton import unpack
from zoo.families.renderer import Renderer, RenderSession, check_options, check_quality


class WarpRenderer(Renderer):
    """Deforms the figure of the image. Needs no weights but the detector's."""

    def __init__(self, detector: PoseDetector, fallback: Renderer | None = None):
        """fallback: draws where no figure is found; None raises."""
        self.detector, self.fallback = detector, fallback

    @classmethod
    def build(
        cls, family: nn.Module, detector: PoseDetector | None, fallback: Renderer | None, options: Mapping[str, Any]
    ) -> "WarpRenderer":
        """See `Renderer`."""
        check_options("warp", options)
        assert detector is not None, "its configuration says needs_detector"
        return cls(detector, fallback)

    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> RenderSession:
        """See `Renderer`; frames have the image's proportions. Raises ValueError unless it shows one whole figure."""
        try:
            return WarpSession(self._puppet(image), fps)
        except ValueError as error:
            if self.fallback is None or isinstance(error, PersonNumberError):
                raise
            return self.fallback.begin(image, fps, seed)

    def _puppet(self, image: Tensor | None) -> Puppet:
        if image is None:
            raise ValueError("renderer=warp moves the figure of an image: give image=FILE")
        puppet = make_puppet(image.permute(1, 2, 0).cpu().numpy(), self.detector)
        check_quality(puppet.quality, puppet.note)
        return puppet


class WarpSession(RenderSession):
    """One video of a deformed figure."""

    def __init__(self, puppet: Puppet, fps: Fraction):
        self.quality, self.note = puppet.quality, puppet.note
        self.animator = PuppetAnimator(puppet, float(fps))

    def draw(self, motion: Tensor) -> Tensor:
        """See `RenderSession`."""
        _, root, rotations = unpack(motion.cpu())
        return torch.from_numpy(self.animator.draw(*self.animator.joints(rotations, root))).permute(0, 3, 1, 2)
