"""LAION's CLAP checkpoints (Wu et al. 2023): what is in the file, and the towers that its weights fit.

A file holds an audio and a text tower, each with a projection into the 512 values that both share. The towers are built
when the file is read: the shapes in it say how large they are.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.weights.loading import load_foreign, plain

FILE = "music_audioset_epoch_15_esc_90.14.pt"  # the published checkpoint for music: HTSAT-base, no fusion
SHARED = 512  # values of an embedding
SECONDS, RATE = 10, 48000  # of the sound that the audio tower hears at once
SIZES = {96: "tiny", 128: "base"}  # width of HTSAT's first layer -> its name
MELS = {"sample_rate": RATE, "window_size": 1024, "hop_size": 480, "fmin": 50, "fmax": 14000, "mel_bins": 64}
AUDIO, TEXT = ("audio_branch.", "audio_projection."), ("text_branch.", "text_projection.")
OTHERS = ("audio_transform.", "text_transform.", "logit_scale_a", "logit_scale_t")  # of the training loss alone
# the optimiser's learning rate, beside the weights, is a number of numpy's
NUMBERS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


class Tower(nn.Module, ABC):
    """One tower of a file and its projection."""

    kept: tuple[str, ...]  # beginnings of the names in the file that are its own

    def __init__(self, path: str | Path):
        """Raises ValueError, naming what does not fit, for a file that is no CLAP checkpoint of LAION's."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # weights that are overwritten at once are nobody's randomness
            load_foreign(self, path, self._build, NUMBERS)
        self.eval().requires_grad_(False)

    def _build(self, found: Any) -> Mapping[str, Tensor]:
        """Make the layers that a file's weights fit; its weights, without the other tower's and the loss's."""
        state = plain(found)
        dropped = tuple(name for name in AUDIO + TEXT if name not in self.kept) + OTHERS
        state = {name: value for name, value in state.items() if not name.startswith(dropped)}
        try:
            self.build(state)
        except (KeyError, IndexError):
            raise ValueError(f"it is no CLAP checkpoint of LAION's, such as {FILE}") from None
        return state

    @abstractmethod
    def build(self, state: dict[str, Tensor]) -> None:
        """Make the layers; may take out of `state` what is no weight."""


class AudioTower(Tower):
    """HTSAT of laion-clap, and its projection."""

    kept = AUDIO

    def build(self, state: dict[str, Tensor]) -> None:
        """See `Tower`. Raises ValueError for a fusion model."""
        if any(".fusion_model." in name or ".mel_conv" in name for name in state):
            raise ValueError(f"it is a fusion model, which chooses its windows at random; take {FILE}")
        width = len(state["audio_branch.patch_embed.proj.weight"])
        if width not in SIZES:
            raise ValueError(f"its audio tower is {width} wide: neither HTSAT-tiny nor HTSAT-base, as in {FILE}")
        settings = SimpleNamespace(model_name=SIZES[width], class_num=527, **MELS)
        self.audio_branch = _laion("htsat").create_htsat_model(settings)
        self.audio_projection = _projection(self.audio_branch.num_features)

    def forward(self, sound: Tensor) -> Tensor:
        """(B, 480000) at 48 kHz -> (B, 512) of length 1. Quantised to 16 bits, as all that it was trained on."""
        sound = (sound.clamp(-1, 1) * 32767).trunc() / 32767
        heard = self.audio_branch({"waveform": sound}, device=sound.device)["embedding"]
        return F.normalize(self.audio_projection(heard), dim=-1)


class TextTower(Tower):
    """RoBERTa, and its projection."""

    kept = TEXT

    def build(self, state: dict[str, Tensor]) -> None:
        """See `Tower`."""
        from transformers import RobertaConfig, RobertaModel

        state.pop("text_branch.embeddings.position_ids", None)  # 0, 1, 2, ...: weights of older transformers only
        words = state["text_branch.embeddings.word_embeddings.weight"]
        layers = {name.split(".")[3] for name in state if name.startswith("text_branch.encoder.layer.")}
        config = RobertaConfig(
            vocab_size=len(words),
            hidden_size=words.shape[1],
            num_hidden_layers=len(layers),
            num_attention_heads=words.shape[1] // 64,
            intermediate_size=len(state["text_branch.encoder.layer.0.intermediate.dense.weight"]),
            max_position_embeddings=len(state["text_branch.embeddings.position_embeddings.weight"]),
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        )
        self.text_branch = RobertaModel(config)
        self.text_projection = _projection(words.shape[1])

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Two (B, N) int64, mask 1 where there is a word -> (B, 512) of length 1"""
        read = self.text_branch(input_ids=tokens, attention_mask=mask).pooler_output
        return F.normalize(self.text_projection(read), dim=-1)


def _projection(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, SHARED), nn.ReLU(), nn.Linear(SHARED, SHARED))


def _laion(name: str) -> ModuleType:
    """A module of laion_clap.clap_module, without the package around it, which asks the hub for files when imported."""
    package = ModuleType("laion_clap_parts")
    package.__path__ = [str(Path(find_spec("laion_clap").origin).parent / "clap_module")]
    sys.modules.setdefault(package.__name__, package)
    return import_module(f"{package.__name__}.{name}")
