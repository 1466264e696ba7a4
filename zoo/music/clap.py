"""Music features of CLAP, one token a second, by LAION's checkpoint for music (DabFusion sec. 3.3)."""

import sys
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.files import file_hash
from zoo.music.beats import Beats
from zoo.music.compiled_librosa import librosa
from zoo.music.encoder import MusicEncoder, source_hash, token_count
from zoo.nn import laion_clap as laion_module
from zoo.nn.laion_clap import CHECKPOINT_FILE, EMBED_DIM, SAMPLE_RATE, WINDOW_SECONDS, AudioTower
from zoo.nn.weights.lazy import LazyWeights

WINDOW_SAMPLES = WINDOW_SECONDS * SAMPLE_RATE


class Clap(LazyWeights, MusicEncoder):
    """One embedding a second, of length 1, of the ten seconds around it.

    A window near an end of the sound is moved inwards until it lies within the sound. So the first five seconds of a
    song share one embedding, and so do the last. A sound of less than ten seconds is repeated as often as it fits
    whole and then padded with silence, as in the public code. A token does not depend on a cut that leaves five seconds
    on either side of it. The public code draws its window at random; here the same sound gives the same tokens.
    """

    dim, rate, sample_rate = EMBED_DIM, 1.0, SAMPLE_RATE
    context_seconds, needs_weights_file = WINDOW_SECONDS / 2, True

    def __init__(self, weights: str | None = None):
        """weights: LAION's file. It is read for the first encoded sound."""
        super().__init__()
        self.weights = weights

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        """Hash of weights and code. Raises ValueError without weights, as `encode` does."""
        return f"clap-{file_hash(self._file())}-{source_hash(sys.modules[__name__], laion_module)}"

    def load(self) -> AudioTower:
        """Read the audio tower."""
        return AudioTower(self._file())

    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """Encode (B, S) float32 to (B, L, 512) float32, L = ceil(S / sample_rate), on the waveform's device."""
        tower = self.loaded.to(waveform.device)
        num_tokens = token_count(Fraction(waveform.shape[1], sample_rate), self.rate)
        if sample_rate != SAMPLE_RATE:
            resampled = librosa.resample(waveform.cpu().numpy(), orig_sr=sample_rate, target_sr=SAMPLE_RATE)
            waveform = torch.from_numpy(resampled).to(waveform.device)
        waveform = _repeat_and_pad(waveform)
        last_start = waveform.shape[1] - WINDOW_SAMPLES
        starts = [min(max(index * SAMPLE_RATE - WINDOW_SAMPLES // 2, 0), last_start) for index in range(num_tokens)]
        unique_starts, window_of_token = np.unique(starts, return_inverse=True)
        with torch.no_grad():  # one by one: in a batch the last bit of a window depends on the others
            embeddings = torch.stack([tower(waveform[:, start : start + WINDOW_SAMPLES]) for start in unique_starts])
        return embeddings[window_of_token].movedim(0, 1)

    def _file(self) -> Path:
        if self.weights is None:
            raise ValueError(
                f"music=clap needs music.weights=FILE, LAION's {CHECKPOINT_FILE}; music=spectral needs no file"
            )
        if not Path(self.weights).is_file():
            raise ValueError(f"music.weights={self.weights} is no file; music=clap needs LAION's {CHECKPOINT_FILE}")
        return Path(self.weights)


def _repeat_and_pad(waveform: Tensor) -> Tensor:
    """Repeat and zero-pad (B, S) to (B, at least WINDOW_SAMPLES)."""
    num_samples = waveform.shape[1]
    if num_samples >= WINDOW_SAMPLES:
        return waveform
    waveform = waveform.repeat(1, WINDOW_SAMPLES // num_samples)
    return F.pad(waveform, (0, WINDOW_SAMPLES - waveform.shape[1]))
