"""motion=choreographer: moves that are chosen by the song and placed on its beats (zoo.choreography)."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from torch import Tensor, nn

from zoo.choreography.choreographer import Choreographer, match_prompt
from zoo.choreography.moves import MOVES
from zoo.choreography.styles import style_probabilities
from zoo.families.base import MotionGenerator, SamplingParams
from zoo.music.beats import RATE
from zoo.music.encoder import MusicFeatures
from zoo.music.structure import SongStructure, analyze_structure

BLOCK_FRAMES = 150  # yielded together
MIN_FRAMES = 3  # of a dance: its joints have speeds


class ChoreographerMotion(MotionGenerator):
    """Dances to the beats, sections and loudness of the song. The same song and seed give the same dance."""

    def __init__(self, style: str | None = None):
        Choreographer(0, style)  # refuses an unknown style
        self.style = style
        self._structure: tuple[np.ndarray, SongStructure] | None = None

    @classmethod
    def build(cls, family: nn.Module, options: Mapping[str, Any]) -> "ChoreographerMotion":
        """See MotionGenerator. options: style. Raises ValueError for an unknown style."""
        return cls(**options)

    def generate_motion(
        self, music: MusicFeatures, num_frames: int, seed: int, sampling: SamplingParams, prompt: str = ""
    ) -> Iterator[Tensor]:
        """See MotionGenerator. Raises ValueError for music without its waveform."""
        length = max(num_frames, MIN_FRAMES)
        motion = Choreographer(seed, self.style, prompt).dance(self._analyze(music), length).motion[:num_frames]
        yield from motion.split(BLOCK_FRAMES)

    def notes(self, music: MusicFeatures, prompt: str) -> list[str]:
        """See MotionGenerator: the style, and a prompt that names no move."""
        probabilities = style_probabilities(self._analyze(music), self.style)
        style = max(probabilities, key=lambda name: probabilities[name])
        lines = [] if self.style else [f"style: {style}, chosen from the song (motion.style=NAME chooses another)"]
        match = match_prompt(prompt)
        if prompt and not match.moves and not match.arms:
            names = ", ".join(name.replace("_", " ") for name in list(MOVES)[::5])
            lines.append(f"prompt names no move and is ignored; moves are {names} ...")
        return lines

    def _analyze(self, music: MusicFeatures) -> SongStructure:
        if music.waveform is None:
            raise ValueError("motion=choreographer needs the song's waveform")
        if self._structure is None or self._structure[0] is not music.waveform:
            self._structure = (music.waveform, analyze_structure(music.waveform, RATE, music.beats))
        return self._structure[1]
