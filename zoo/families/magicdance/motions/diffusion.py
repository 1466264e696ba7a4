"""motion=diffusion: EDGE's motion diffuser, whose weights are the family's."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from zoo.families.base import MotionGenerator, SamplingParams
from zoo.music.encoder import MusicFeatures


class DiffusionMotion(MotionGenerator):
    """Samples motion with the family's own diffuser."""

    def __init__(self, family: Any):
        self.sample_motion = family.sample_motion

    @classmethod
    def build(cls, family: nn.Module, options: Mapping[str, Any]) -> "DiffusionMotion":
        """See MotionGenerator. It has no options."""
        return cls(family)

    def generate_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams, prompt: str = ""
    ) -> Iterator[Tensor]:
        """See MotionGenerator."""
        return self.sample_motion(music, num_frames, seed, sampling)

    def notes(self, music: MusicFeatures, prompt: str) -> list[str]:
        """See MotionGenerator: the diffuser knows no prompt."""
        return ["motion=diffusion ignores prompt="] if prompt else []
