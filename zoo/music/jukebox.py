"""Jukebox's view of a song (EDGE sec. 3; M2PEnc sec. 3.2): what the network that foretells its sound thinks of it."""

import sys
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import librosa
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from zoo.files import file_hash
from zoo.music.beats import Beats
from zoo.music.encoder import MusicEncoder, source_hash, token_count
from zoo.nn import jukebox as jukebox_module
from zoo.nn.jukebox import HOP, PRIOR, RATE, VQVAE, TopEncoder, TopPrior
from zoo.nn.weights.lazy import LazyWeights

WINDOW, STEP = 5 * RATE, 5 * RATE // 2  # samples: what EDGE listens to at once, and from window to window
LAYER, WIDTH = 66, 4800  # of 72; values of a state


class Jukebox(LazyWeights, MusicEncoder):
    """The states after layer 66 of the 5b model's top prior, brought from 344.5 to 30 Hz: 4,800 values.

    Of five seconds they are what jukemirlib, which EDGE was trained with, makes of them. Longer sounds are heard in
    windows of five seconds, every two and a half; of all but the first the second half is taken, for a state knows
    nothing but what was before it in its window. So a token is the same wherever a sound is cut, if the cut is at a
    multiple of 2.5 s and leaves five on either side. M2PEnc takes 4,800 values a frame and says no more.
    """

    dim, rate, sample_rate = WIDTH, 30.0, RATE
    context_seconds, needs_weights_file = WINDOW / RATE, True

    def __init__(self, weights: str | None = None, layer: int = LAYER, dim: int = WIDTH):
        """weights: a folder with OpenAI's VQVAE and PRIOR of the 5b model, read when the first sound is encoded, and
        kept as they are stored (10 GB). layer: after which the states are taken; dim: the prior's width.
        """
        super().__init__()
        self.weights, self.layer, self.dim = weights, layer, dim

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        """Raises ValueError where there are no weights, as `encode` does."""
        code = source_hash(sys.modules[__name__], jukebox_module)
        return f"jukebox-{self.layer}-{file_hash(*self._files())}-{code}"

    def load(self) -> tuple[TopEncoder, TopPrior]:
        """Read the encoder and the prior."""
        first, second = self._files()
        prior = TopPrior(second, self.layer)
        if prior.width != self.dim:
            raise ValueError(f"{second} holds a prior of width {prior.width}, not {self.dim}: it is another model's")
        return TopEncoder(first), prior

    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """(B, S) float32 -> (B, L, 4800) float32, L = ceil(30 S / sample_rate), on the waveform's device.

        A GPU computes, where there is one: each window takes 16 TFLOP.
        """
        device = torch.device("cuda") if torch.cuda.is_available() else waveform.device
        parts = [network.to(device) for network in self.loaded]
        count = token_count(Fraction(waveform.shape[1], sample_rate), self.rate)
        if sample_rate != RATE:
            wave = librosa.resample(waveform.cpu().numpy(), orig_sr=sample_rate, target_sr=RATE)
            waveform = torch.from_numpy(wave).to(waveform.device)
        starts = range(0, max(waveform.shape[1] - WINDOW + STEP, 1), STEP)
        jobs = [(row, start) for row in range(len(waveform)) for start in starts]
        found: list[list[Tensor]] = [[] for _ in waveform]
        for row, start in tqdm(jobs, desc="jukebox", disable=None if len(jobs) > 1 else True, leave=False):
            states = self._hear(waveform[row, start : start + WINDOW].to(device), *parts)
            found[row].append(states[round(self.rate * STEP / RATE) :] if start else states)
        return torch.stack([torch.cat(one)[:count] for one in found]).to(waveform.device)

    @torch.no_grad()
    def _hear(self, sound: Tensor, encoder: TopEncoder, prior: TopPrior) -> Tensor:
        """One window (S,) at 44.1 kHz, made as loud as can be -> its tokens (L, dim)"""
        count = token_count(Fraction(len(sound), RATE), self.rate)
        loudest = sound.abs().max()
        sound = F.pad(sound / loudest if loudest > 0 else sound, (0, max(0, HOP - len(sound))))
        states = prior(encoder(sound[None]))[0].T.cpu().numpy()
        slow = librosa.resample(np.asfortranarray(states), orig_sr=RATE / HOP, target_sr=self.rate, res_type="fft")
        slow = torch.from_numpy(slow.T)
        return torch.cat([slow, slow[-1:].expand(max(0, count - len(slow)), -1)])[:count]

    def _files(self) -> tuple[Path, Path]:
        folder = Path(self.weights or "")
        if self.weights is None or not all((folder / name).is_file() for name in (VQVAE, PRIOR)):
            raise ValueError(
                f"music=jukebox needs music.weights=DIR with Jukebox 5b's {VQVAE} and {PRIOR}, not {self.weights}"
            )
        return folder / VQVAE, folder / PRIOR
