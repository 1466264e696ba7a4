"""The Audio Spectrogram Transformer's view of a song (MuseDance sec. 3.3): what sounds, ten times a second."""

import sys
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import librosa
import numpy as np
import torch
from torch import Tensor

from zoo.files import file_hash
from zoo.music.beats import Beats
from zoo.music.encoder import MusicEncoder, source_hash, token_count
from zoo.nn.weights.lazy import LazyWeights

RATE = 16000  # Hz; MuseDance sec. 4.2
FRAMES, HOP, FRAME = 1024, 160, 400  # of the spectrogram; samples
WINDOW = FRAME + (FRAMES - 1) * HOP  # samples, 10.26 s
FIRST, STEP = 0.08, 0.1  # s: middle of the first column of patches, and from column to column
FILES = ("config.json", "model.safetensors")


class Ast(LazyWeights, MusicEncoder):
    """The last hidden states of AST, the mean over frequencies of each column of patches: 768 values at 10 Hz.

    Each second of a sound is heard in the middle of a window of ten, moved inwards at the sound's ends; so a token is
    the same wherever a sound is cut, if the cut is at a whole second and leaves five on either side of it.
    """

    dim, rate, sample_rate = 768, 1 / STEP, RATE
    context_seconds, needs_weights_file = 6.0, True

    def __init__(self, weights: str | None = None):
        """weights: a folder with the config.json and model.safetensors of MIT/ast-finetuned-audioset-10-10-0.4593, or
        another AST of this width and patches of 16x16 every 10; read when the first sound is encoded.
        """
        super().__init__()
        self.weights = weights

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        """Raises ValueError where there are no weights, as `encode` does."""
        return f"ast-{file_hash(*(self._folder() / name for name in FILES))}-{source_hash(sys.modules[__name__])}"

    def load(self) -> tuple:
        """Read the spectrogram extractor and the network."""
        from transformers import ASTFeatureExtractor, ASTModel

        folder = self._folder()
        options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        try:
            network, told = ASTModel.from_pretrained(folder, **options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{folder} holds no AST: {str(error).splitlines()[0]}") from None
        sizes = network.config
        shape = sizes.hidden_size, sizes.patch_size, sizes.time_stride, sizes.frequency_stride, sizes.max_length
        if told["missing_keys"] or shape != (self.dim, 16, 10, 10, FRAMES):
            raise ValueError(f"{folder} holds another AST: {len(told['missing_keys'])} weights missing, sizes {shape}")
        return ASTFeatureExtractor(), network.eval()

    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """(B, S) float32 -> (B, L, 768) float32, L = ceil(10 S / sample_rate), on the waveform's device."""
        extractor, network = self.loaded
        network = network.to(waveform.device)
        count = token_count(Fraction(waveform.shape[1], sample_rate), self.rate)
        wave = waveform.cpu().numpy()
        if sample_rate != RATE:
            wave = librosa.resample(wave, orig_sr=sample_rate, target_sr=RATE)
        found = []
        for row in wave:
            tokens, last = [], max(0, len(row) - WINDOW)
            for second in range(-(-count // round(self.rate))):
                # whole tenths of a second, so that a column's place in time is the same in every window
                start = min(max(round((second + 0.5) / STEP) * RATE // 10 - WINDOW // 2 // 1600 * 1600, 0), last)
                heard = extractor(row[start : start + WINDOW], sampling_rate=RATE, return_tensors="pt")
                with torch.no_grad():  # one by one: in a batch the last bit of a window depends on its neighbours
                    states = network(heard["input_values"].to(waveform.device)).last_hidden_state[0]
                columns = states[2:].unflatten(0, (12, -1)).mean(0)  # behind the class and distillation tokens
                moments = np.arange(second * 10, min(second * 10 + 10, count)) * STEP
                places = np.round((moments - start / RATE - FIRST) / STEP).astype(int)
                tokens.append(columns[np.clip(places, 0, len(columns) - 1)])
            found.append(torch.cat(tokens))
        return torch.stack(found).float()

    def _folder(self) -> Path:
        folder = Path(self.weights or "")
        if self.weights is None or not all((folder / name).is_file() for name in FILES):
            raise ValueError(
                f"music=ast needs music.weights=DIR with an AST's {' and '.join(FILES)}, not {self.weights}"
            )
        return folder
