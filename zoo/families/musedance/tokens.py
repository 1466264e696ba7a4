"""Tokens of the music and of its beats, which the U-Net's music modules attend to (MuseDance sec. 3.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zoo.nn.temporal import position_directions, sinusoidal_positions

MUSIC_CONDITIONS = ("music", "beats")


class MusicTokenEmbedder(nn.Module):
    """Embeds the features of the music and its beats, each with its position in time.

    A beat is one of two learned vectors a frame, as in the paper. Tokens carry sinusoids of their time, in frames of
    the window: the paper leaves open how attention relates tokens and frames.
    """

    def __init__(self, music_dim: int, dim: int, music_conditions: Sequence[str], beat_phase: bool):
        """music_conditions: which of 'music' and 'beats' are embedded. beat_phase: add the phase of the beat to the
        beat tokens (not in the paper). Raises ValueError for another condition.
        """
        super().__init__()
        for name in music_conditions:
            if name not in MUSIC_CONDITIONS:
                raise ValueError(f"music_conditions={list(music_conditions)}: use music, beats, both or none")
        self.music = nn.Linear(music_dim, dim) if "music" in music_conditions else None
        self.beats = nn.Embedding(2, dim) if "beats" in music_conditions else None
        self.beat_phase = nn.Linear(2, dim, bias=False) if beat_phase and self.beats is not None else None
        directions = position_directions(dim)
        with torch.no_grad():  # content is orthogonal to position, by which the attention finds a token
            for layer in (self.music, self.beats, self.beat_phase):
                if layer is not None:
                    weight = layer.weight if isinstance(layer, nn.Embedding) else layer.weight.mT
                    weight -= weight @ (directions.mT @ directions).to(weight)

    def forward(self, music: Tensor, positions: Tensor, beats: Tensor, beat_phase: Tensor) -> dict[str, Tensor]:
        """Return tokens (B, _, dim) by the names of the conditions.

        music (B, L, music_dim) at positions (L,), in frames; beats (B, F), 0 or 1; beat_phase (B, F, 2).
        """
        tokens = {}
        if self.music is not None:
            tokens["music"] = _add_positions(self.music(music), positions)
        if self.beats is not None:
            beat_tokens = self.beats(beats.long())
            if self.beat_phase is not None:
                beat_tokens = beat_tokens + self.beat_phase(beat_phase.to(beat_tokens.dtype))
            tokens["beats"] = _add_positions(beat_tokens, torch.arange(beats.shape[1], device=beats.device))
        return tokens


def _add_positions(tokens: Tensor, positions: Tensor) -> Tensor:
    """Add the sinusoids of positions (L,) to tokens (B, L, dim)."""
    return tokens + sinusoidal_positions(positions, tokens.shape[2]).to(tokens.dtype)
