"""What a music encoder is, and how a song is listened to: features and beats, cached on disk."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from torch import Tensor, nn

from zoo.music.beats import Beats


@dataclass(frozen=True)
class Music:
    """A song as the models hear it. features (L, D) float32, token i at time i / rate; rate in Hz; beats of the same span."""

    features: Tensor
    rate: float
    beats: Beats


class Encoder(nn.Module, ABC):
    """Waveform -> features at a fixed rate; the same sound gives the same features wherever it is cut."""

    dim: int  # D, values of one token
    rate: float  # Hz, tokens a second
    sample_rate: int  # Hz, what `encode` wants best; it resamples anything else
    identity: str  # names the encoder, its settings and weights in the cache

    @abstractmethod
    def encode(self, waveform: Tensor, sample_rate: int) -> Tensor:
        """(B, S) float32 -> (B, L, D) float32 with L = ceil(S / sample_rate * rate)."""
