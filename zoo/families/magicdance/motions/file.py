"""motion=FILE: a motion that the user has, from a file of `zoo.body.motion_io.formats`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zoo.body.motion_io.formats import read_motion
from zoo.families.base import MotionGenerator, SamplingParams
from zoo.music.encoder import MusicFeatures

BLOCK_FRAMES = 150  # yielded together


class FileMotion(MotionGenerator):
    """Performs the motion of a file from its first frame on, whatever the song; then its last pose is held."""

    def __init__(self, file: str | Path):
        """Raises ValueError for a file that cannot be read."""
        self.file = file
        self.motion = read_motion(file)

    @classmethod
    def build(cls, family: nn.Module, options: Mapping[str, Any]) -> "FileMotion":
        """See MotionGenerator. options: file."""
        if not options.get("file"):
            raise ValueError("motion=file needs motion.file=FILE; motion=FILE is shorter")
        return cls(str(options["file"]))

    @property
    def available_frames(self) -> int:
        """See MotionGenerator."""
        return len(self.motion)

    def generate_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams, prompt: str = ""
    ) -> Iterator[Tensor]:
        """See MotionGenerator."""
        yield from self.motion[:num_frames].split(BLOCK_FRAMES)
        for start in range(len(self.motion), num_frames, BLOCK_FRAMES):
            yield self.motion[-1:].repeat(min(BLOCK_FRAMES, num_frames - start), 1)

    def notes(self, music: MusicFeatures, prompt: str) -> list[str]:
        """See MotionGenerator: a file follows no prompt."""
        return [f"motion={self.file} ignores prompt="] if prompt else []
