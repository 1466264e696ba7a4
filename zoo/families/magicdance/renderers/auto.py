"""Choose the renderer by what the image shows: the photographed figure, or a body mesh as the fallback."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from torch import Tensor, nn

from zoo.body.detection.base import PersonDetector, PersonNumberError, PoseDetector
from zoo.body.detection.synthetic_detector import SyntheticPoseDetector
from zoo.families.magicdance.renderers.mesh import MeshRenderer
from zoo.families.magicdance.renderers.warp import WarpRenderer, grow_canvas_option
from zoo.families.renderer import Renderer, RenderSession


class AutoRenderer(Renderer):
    """Deforms the figure of the image (`WarpRenderer`) where one is detected, else draws a mesh and says why.

    The paper renders every figure by diffusion (sec. 3.3); this is the zoo's default without a trained renderer.
    """

    def __init__(self, detector: PoseDetector | None, fallback: Renderer, grow_canvas: bool = False):
        """detector: None uses the fallback always. fallback: draws without a whole figure, and without an image.

        grow_canvas: see `make_puppets`.
        """
        self.detector, self.fallback, self.grow_canvas = detector, fallback, grow_canvas

    @classmethod
    def build(
        cls, family: nn.Module, detector: PoseDetector | None, fallback: Renderer | None, options: Mapping[str, Any]
    ) -> "AutoRenderer":
        """See `Renderer`. The fallback is always a mesh."""
        grow_canvas = grow_canvas_option("auto", options)
        return cls(detector, MeshRenderer(family.mesh_height, family.mesh_width), grow_canvas)

    def begin(self, image: Tensor | None, fps: Fraction, seed: int) -> RenderSession:
        """See `Renderer`. Raises ValueError only for a number of a person that the image does not have."""
        if image is None or self.detector is None:
            return self.fallback.begin(image, fps, seed)
        try:
            return WarpRenderer(_detector_for(image, self.detector), grow_canvas=self.grow_canvas).begin(
                image, fps, seed
            )
        except PersonNumberError:
            raise
        except ValueError as error:
            session = self.fallback.begin(image, fps, seed)
            session.note = f"a body mesh dances instead of the pictured figure: {error}"
            return session


def _detector_for(image: Tensor, detector: PoseDetector) -> PoseDetector:
    """The given detector; where it detects people and there are none, the one of drawn and rendered figures."""
    if isinstance(detector, PersonDetector) and detector.person is None:
        if not detector.find_people(image.permute(1, 2, 0).cpu().numpy()):
            return SyntheticPoseDetector()
    return detector
