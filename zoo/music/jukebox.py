"""Music features of Jukebox: hidden states of its prior (EDGE sec. 3; M2PEnc sec. 3.2)."""

import sys
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from zoo.files import file_hash
from zoo.music.beats import Beats
from zoo.music.compiled_librosa import librosa
from zoo.music.encoder import MusicEncoder, source_hash, token_count
from zoo.nn import jukebox as jukebox_module
from zoo.nn.jukebox import PRIOR_FILE, SAMPLE_RATE, TOKEN_SAMPLES, VQVAE_FILE, TopEncoder, TopPrior
from zoo.nn.weights.lazy import LazyWeights

WINDOW_SAMPLES, STRIDE_SAMPLES = 5 * SAMPLE_RATE, 5 * SAMPLE_RATE // 2  # EDGE's window and its stride
LAYER, WIDTH = 66, 4800  # of 72; values of a state


class Jukebox(LazyWeights, MusicEncoder):
    """The states after layer 66 of the 5b model's top prior, resampled from 344.5 to 30 Hz: 4,800 values.

    For five seconds they equal those of jukemirlib, which EDGE was trained with. Longer sounds are encoded in windows
    of five seconds, every 2.5 seconds. Of all windows but the first only the second half is used, because a state
    depends only on the past within its window. Cutting the sound at a multiple of 2.5 s does not change the features
    that are at least five seconds away from the cut. M2PEnc uses 4,800 values a frame and gives no details.
    """

    dim, rate, sample_rate = WIDTH, 30.0, SAMPLE_RATE
    context_seconds, needs_weights_file = WINDOW_SAMPLES / SAMPLE_RATE, True

    def __init__(self, weights: str | None = None, layer: int = LAYER, dim: int = WIDTH):
        """weights: a folder with 5b's VQVAE_FILE and PRIOR_FILE, read for the first encoded sound, in
        their stored precision (10 GB). layer: whose output is used; dim: the prior's width.
        """
        super().__init__()
        self.weights, self.layer, self.dim = weights, layer, dim

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        """Hash of layer, weights and code. Raises ValueError without weights, as `encode` does."""
        code = source_hash(sys.modules[__name__], jukebox_module)
        return f"jukebox-{self.layer}-{file_hash(*self._files())}-{code}"

    def load(self) -> tuple[TopEncoder, TopPrior]:
        """Read the encoder and the prior."""
        vqvae_file, prior_file = self._files()
        prior = TopPrior(prior_file, self.layer)
        if prior.width != self.dim:
            raise ValueError(
                f"{prior_file} holds a prior of width {prior.width}, not {self.dim}: it belongs to another model"
            )
        return TopEncoder(vqvae_file), prior

    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """Encode (B, S) float32 to (B, L, 4800) float32, L = ceil(30 S / sample_rate), on the waveform's device.

        Uses a GPU where there is one: each window takes 16 TFLOP.
        """
        device = torch.device("cuda") if torch.cuda.is_available() else waveform.device
        modules = [network.to(device) for network in self.loaded]
        num_feature_frames = token_count(Fraction(waveform.shape[1], sample_rate), self.rate)
        if sample_rate != SAMPLE_RATE:
            resampled = librosa.resample(waveform.cpu().numpy(), orig_sr=sample_rate, target_sr=SAMPLE_RATE)
            waveform = torch.from_numpy(resampled).to(waveform.device)
        starts = range(0, max(waveform.shape[1] - WINDOW_SAMPLES + STRIDE_SAMPLES, 1), STRIDE_SAMPLES)
        jobs = [(row, start) for row in range(len(waveform)) for start in starts]
        features_per_row: list[list[Tensor]] = [[] for _ in waveform]
        for row, start in tqdm(jobs, desc="jukebox", disable=None if len(jobs) > 1 else True, leave=False):
            features = self._encode_window(waveform[row, start : start + WINDOW_SAMPLES].to(device), *modules)
            features_per_row[row].append(
                features[round(self.rate * STRIDE_SAMPLES / SAMPLE_RATE) :] if start else features
            )
        features = torch.stack([torch.cat(windows)[:num_feature_frames] for windows in features_per_row])
        return features.to(waveform.device)

    @torch.no_grad()
    def _encode_window(self, sound: Tensor, encoder: TopEncoder, prior: TopPrior) -> Tensor:
        """Encode one window (S,) at 44.1 kHz, scaled to peak 1, to features (L, dim) at 30 Hz."""
        num_feature_frames = token_count(Fraction(len(sound), SAMPLE_RATE), self.rate)
        peak = sound.abs().max()
        sound = F.pad(sound / peak if peak > 0 else sound, (0, max(0, TOKEN_SAMPLES - len(sound))))
        states = prior(encoder(sound[None]))[0].T.cpu().numpy()  # (dim, Jukebox's tokens)
        resampled = librosa.resample(
            np.asfortranarray(states), orig_sr=SAMPLE_RATE / TOKEN_SAMPLES, target_sr=self.rate, res_type="fft"
        )
        features = torch.from_numpy(resampled.T)
        num_missing = max(0, num_feature_frames - len(features))
        return torch.cat([features, features[-1:].expand(num_missing, -1)])[:num_feature_frames]

    def _files(self) -> tuple[Path, Path]:
        folder = Path(self.weights or "")
        if self.weights is None or not all((folder / name).is_file() for name in (VQVAE_FILE, PRIOR_FILE)):
            raise ValueError(
                f"music=jukebox needs music.weights=DIR with Jukebox 5b's {VQVAE_FILE} and {PRIOR_FILE}, "
                f"not {self.weights}"
            )
        return folder / VQVAE_FILE, folder / PRIOR_FILE
