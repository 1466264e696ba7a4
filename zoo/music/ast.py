"""Music features of the Audio Spectrogram Transformer (MuseDance sec. 3.3), ten tokens a second."""

import sys
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from zoo.files import file_hash
from zoo.music.beats import Beats
from zoo.music.compiled_librosa import librosa
from zoo.music.encoder import MusicEncoder, source_hash, token_count
from zoo.nn.weights.lazy import LazyWeights

SAMPLE_RATE = 16000  # Hz; MuseDance sec. 4.2
NUM_FRAMES, HOP, FRAME_LENGTH = 1024, 160, 400  # of the spectrogram; samples
WINDOW_SAMPLES = FRAME_LENGTH + (NUM_FRAMES - 1) * HOP  # samples, 10.26 s
FIRST_COLUMN_SECONDS, COLUMN_STEP_SECONDS = 0.08, 0.1  # s: middle of the first column of patches; distance of columns
FILES = ("config.json", "model.safetensors")


class Ast(LazyWeights, MusicEncoder):
    """The last hidden states of AST, averaged over the frequencies of each column of patches: 768 values at 10 Hz.

    Each second lies in the middle of a window of ten seconds, which is moved inwards at the ends of the sound. Cutting
    the sound at whole seconds does not change the tokens that are at least five seconds away from a cut.
    """

    dim, rate, sample_rate = 768, 1 / COLUMN_STEP_SECONDS, SAMPLE_RATE
    context_seconds = 6.0  # half a window and the second that lies in its middle
    needs_weights_file = True

    def __init__(self, weights: str | None = None):
        """weights: a folder with the config.json and model.safetensors of MIT/ast-finetuned-audioset-10-10-0.4593, or
        another AST of this width with patches of 16x16 with stride 10. It is read for the first encoded sound.
        """
        super().__init__()
        self.weights = weights

    @cached_property
    def cache_key(self) -> str:  # type: ignore[override]
        """Hash of weights and code. Raises ValueError without weights, as `encode` does."""
        return f"ast-{file_hash(*(self._folder() / name for name in FILES))}-{source_hash(sys.modules[__name__])}"

    def load(self) -> tuple:
        """Read the spectrogram extractor and the network."""
        from transformers import ASTFeatureExtractor, ASTModel

        folder = self._folder()
        load_options = {"local_files_only": True, "use_safetensors": True, "output_loading_info": True}
        try:
            network, report = ASTModel.from_pretrained(folder, **load_options)
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{folder} holds no AST: {str(error).splitlines()[0]}") from None
        config = network.config
        architecture = (
            config.hidden_size,
            config.patch_size,
            config.time_stride,
            config.frequency_stride,
            config.max_length,
        )
        if report["missing_keys"] or architecture != (self.dim, 16, 10, 10, NUM_FRAMES):
            raise ValueError(
                f"{folder} holds another AST: {len(report['missing_keys'])} weights missing, sizes {architecture}"
            )
        return ASTFeatureExtractor(), network.eval()

    def encode(self, waveform: Tensor, sample_rate: int, beats: list[Beats] | None = None) -> Tensor:
        """Encode (B, S) float32 to (B, L, 768) float32, L = ceil(10 S / sample_rate), on the waveform's device."""
        extractor, network = self.loaded
        network = network.to(waveform.device)
        count = token_count(Fraction(waveform.shape[1], sample_rate), self.rate)
        wave = waveform.cpu().numpy()
        if sample_rate != SAMPLE_RATE:
            wave = librosa.resample(wave, orig_sr=sample_rate, target_sr=SAMPLE_RATE)
        features = []
        for row in wave:
            tokens, last_start = [], max(0, len(row) - WINDOW_SAMPLES)
            for second in range(-(-count // round(self.rate))):
                # whole tenths of a second, so that columns of all windows but the last have common times
                start = min(
                    max(
                        round((second + 0.5) / COLUMN_STEP_SECONDS) * SAMPLE_RATE // 10
                        - WINDOW_SAMPLES // 2 // 1600 * 1600,
                        0,
                    ),
                    last_start,
                )
                inputs = extractor(row[start : start + WINDOW_SAMPLES], sampling_rate=SAMPLE_RATE, return_tensors="pt")
                with torch.no_grad():  # one by one: in a batch the last bit of a window depends on the others
                    states = network(inputs["input_values"].to(waveform.device)).last_hidden_state[0]
                columns = states[2:].unflatten(0, (12, -1)).mean(0)  # behind the class and distillation tokens
                times = np.arange(second * 10, min(second * 10 + 10, count)) * COLUMN_STEP_SECONDS
                indices = np.round((times - start / SAMPLE_RATE - FIRST_COLUMN_SECONDS) / COLUMN_STEP_SECONDS).astype(
                    int
                )
                tokens.append(columns[np.clip(indices, 0, len(columns) - 1)])
            features.append(torch.cat(tokens))
        return torch.stack(features).float()

    def _folder(self) -> Path:
        folder = Path(self.weights or "")
        if self.weights is None or not all((folder / name).is_file() for name in FILES):
            raise ValueError(
                f"music=ast needs music.weights=DIR with an AST's {' and '.join(FILES)}, not {self.weights}"
            )
        return folder
