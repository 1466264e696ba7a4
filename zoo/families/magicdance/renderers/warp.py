"""Draw motion by deforming the photographed figure as rigidly as possible (`zoo.body.image.puppet`)."""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.body.detection.base import PersonDetector, PersonNumberError, PoseDetector
from zoo.body.image.puppet import Puppet, PuppetAnimator, make_puppets
from zoo.body.skeleton import JOINTS, unpack
from zoo.families.renderer import Renderer, RenderSession, check_options, check_quality

OPPOSITE_SIDE = {"left": "right", "right": "left"}
OPPOSITE_JOINTS = [  # index of the joint on the other side, or of the joint itself
    JOINTS.index("_".join(OPPOSITE_SIDE.get(word, word) for word in name.split("_"))) for name in JOINTS
]


class WarpRenderer(Renderer):
    """Deforms the figure of the image. Needs no weights but the detector's."""

    def __init__(self, detector: PoseDetector, fallback: Renderer | None = None, grow_canvas: bool = False):
        """fallback: draws where no figure is found; None raises. grow_canvas: see `make_puppets`."""
        self.detector, self.fallback, self.grow_canvas = detector, fallback, grow_canvas

    @classmethod
    def build(
        cls, family: nn.Module, detector: PoseDetector | None, fallback: Renderer | None, options: Mapping[str, Any]
    ) -> "WarpRenderer":
        """See `Renderer`."""
        grow_canvas = grow_canvas_option("warp", options)
        assert detector is not None, "its configuration says needs_detector"
        return cls(detector, fallback, grow_canvas)

    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> RenderSession:
        """See `Renderer`; frames have the image's proportions, or more above and beside it.

        Raises ValueError unless it shows a figure. A detector with several numbers of people gives as many dancers.
        """
        try:
            return WarpSession(self._puppets(image), fps)
        except ValueError as error:
            if self.fallback is None or isinstance(error, PersonNumberError):
                raise
            return self.fallback.begin(image, fps, seed)

    def _puppets(self, image: Tensor | None) -> list[Puppet]:
        if image is None:
            raise ValueError("renderer=warp moves the figure of an image: give image=FILE")
        detectors = self.detector.one_by_one() if isinstance(self.detector, PersonDetector) else [self.detector]
        puppets = make_puppets(image.permute(1, 2, 0).cpu().numpy(), detectors, grow_canvas=self.grow_canvas)
        for puppet in puppets:
            check_quality(puppet.quality, puppet.note)
        return puppets


def grow_canvas_option(name: str, options: Mapping[str, Any]) -> bool:
    """The value of grow_canvas, the one option of the renderer `name`; False without it. Raises ValueError."""
    check_options(name, options, ("grow_canvas",))
    value = options.get("grow_canvas", False)
    if not isinstance(value, bool):
        raise ValueError(f"renderer.grow_canvas={value} is neither true nor false")
    return value


class WarpSession(RenderSession):
    """One video of deformed figures. All dance the same motion; every second one from the left mirrors it."""

    def __init__(self, puppets: Sequence[Puppet], fps: Fraction):
        """puppets: of one image, in the order of drawing."""
        self.quality = min(puppet.quality for puppet in puppets)
        self.note = "; ".join(dict.fromkeys(puppet.note for puppet in puppets if puppet.note)) or None
        self.animators = [
            PuppetAnimator(puppet, float(fps), [other for other in puppets if other is not puppet])
            for puppet in puppets
        ]
        columns = [float(puppet.joints[0, 0]) for puppet in puppets]
        self.is_mirrored = [sorted(columns).index(column) % 2 == 1 for column in columns]

    def draw(self, motion: Tensor) -> Tensor:
        """See `RenderSession`."""
        _, root, rotations = unpack(motion.cpu())
        poses = [
            animator.joints(*(mirror_motion(rotations, root) if is_mirrored else (rotations, root)))
            for animator, is_mirrored in zip(self.animators, self.is_mirrored, strict=True)
        ]
        frames = np.repeat(self.animators[0].puppet.background[None], len(motion), 0)
        for index, frame in enumerate(frames):
            for animator, (joints, depth) in zip(self.animators, poses, strict=True):
                animator.draw_shadow(frame, joints[index], depth[index])
            for animator, (joints, depth) in zip(self.animators, poses, strict=True):
                animator.draw_figure(frame, joints[index], depth[index])
        return torch.from_numpy(frames).permute(0, 3, 1, 2)


def mirror_motion(rotations: Tensor, root: Tensor) -> tuple[Tensor, Tensor]:
    """Exchange left and right of rotations (F, 24, 3, 3) and root (F, 3)."""
    flip = torch.tensor([-1.0, 1.0, 1.0]).to(rotations)
    return rotations[:, OPPOSITE_JOINTS] * flip[:, None] * flip, root * flip.to(root)
