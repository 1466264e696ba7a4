"""LAION's CLAP checkpoints (Wu et al. 2023) and the two towers in them.

A file holds an audio and a text tower, each with a projection to the shared 512 values. The towers are built when the
file is read, with the sizes of its tensors.
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

from zoo.nn.weights.loading import load_strict, unwrap_state_dict

CHECKPOINT_FILE = "music_audioset_epoch_15_esc_90.14.pt"  # the published checkpoint for music: HTSAT-base, no fusion
EMBED_DIM = 512  # values of an embedding
WINDOW_SECONDS, SAMPLE_RATE = 10, 48000  # s and Hz of the audio tower's input
HTSAT_SIZE_NAMES = {96: "tiny", 128: "base"}  # channels of HTSAT's patch embedding -> its name
MEL_CONFIG = {
    "sample_rate": SAMPLE_RATE,
    "window_size": 1024,
    "hop_size": 480,
    "fmin": 50,
    "fmax": 14000,
    "mel_bins": 64,
}
AUDIO_PREFIXES, TEXT_PREFIXES = ("audio_branch.", "audio_projection."), ("text_branch.", "text_projection.")
LOSS_PREFIXES = ("audio_transform.", "text_transform.", "logit_scale_a", "logit_scale_t")  # of the training loss only
# the optimiser's learning rate, beside the weights, is a numpy number
NUMPY_CLASSES = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar", "numpy.dtype")


class ClapTower(nn.Module, ABC):
    """One tower of a file and its projection."""

    prefixes: tuple[str, ...]  # of the tower's parameters in the file

    def __init__(self, path: str | Path):
        """Raises ValueError, which names the difference, for a file that is not a CLAP checkpoint of LAION."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):  # initial weights draw no global random numbers
            load_strict(self, path, self._convert, NUMPY_CLASSES)
        self.eval().requires_grad_(False)

    def _convert(self, contents: Any) -> Mapping[str, Tensor]:
        """Build the layers that a file's weights fit; return its weights without the other tower and the loss."""
        state_dict = unwrap_state_dict(contents)
        ignored_prefixes = (
            tuple(prefix for prefix in AUDIO_PREFIXES + TEXT_PREFIXES if prefix not in self.prefixes) + LOSS_PREFIXES
        )
        state_dict = {name: value for name, value in state_dict.items() if not name.startswith(ignored_prefixes)}
        try:
            self.build(state_dict)
        except (KeyError, IndexError):
            raise ValueError(f"it is no CLAP checkpoint of LAION's, such as {CHECKPOINT_FILE}") from None
        return state_dict

    @abstractmethod
    def build(self, state_dict: dict[str, Tensor]) -> None:
        """Build the layers; may remove entries of `state_dict` that are not weights."""


class AudioTower(ClapTower):
    """HTSAT of laion-clap, and its projection."""

    prefixes = AUDIO_PREFIXES

    def build(self, state_dict: dict[str, Tensor]) -> None:
        """See `ClapTower`. Raises ValueError for a fusion model."""
        if any(".fusion_model." in name or ".mel_conv" in name for name in state_dict):
            raise ValueError(f"it is a fusion model, which chooses its windows at random; take {CHECKPOINT_FILE}")
        patch_embed_dim = len(state_dict["audio_branch.patch_embed.proj.weight"])
        if patch_embed_dim not in HTSAT_SIZE_NAMES:
            raise ValueError(
                f"its audio tower is {patch_embed_dim} wide: neither HTSAT-tiny nor HTSAT-base, as in {CHECKPOINT_FILE}"
            )
        htsat_config = SimpleNamespace(model_name=HTSAT_SIZE_NAMES[patch_embed_dim], class_num=527, **MEL_CONFIG)
        self.audio_branch = import_clap_module("htsat").create_htsat_model(htsat_config)
        self.audio_projection = _projection(self.audio_branch.num_features)

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, 480000) at 48 kHz -> (B, 512) of length 1. The input is quantised to 16 bits, as in its training."""
        waveform = (waveform.clamp(-1, 1) * 32767).trunc() / 32767
        embedding = self.audio_branch({"waveform": waveform}, device=waveform.device)["embedding"]
        return F.normalize(self.audio_projection(embedding), dim=-1)


class TextTower(ClapTower):
    """RoBERTa, and its projection."""

    prefixes = TEXT_PREFIXES

    def build(self, state_dict: dict[str, Tensor]) -> None:
        """See `ClapTower`."""
        from transformers import RobertaConfig, RobertaModel

        state_dict.pop("text_branch.embeddings.position_ids", None)  # 0, 1, 2, ...: only of older transformers
        word_embeddings = state_dict["text_branch.embeddings.word_embeddings.weight"]
        layer_indices = {name.split(".")[3] for name in state_dict if name.startswith("text_branch.encoder.layer.")}
        config = RobertaConfig(
            vocab_size=len(word_embeddings),
            hidden_size=word_embeddings.shape[1],
            num_hidden_layers=len(layer_indices),
            num_attention_heads=word_embeddings.shape[1] // 64,
            intermediate_size=len(state_dict["text_branch.encoder.layer.0.intermediate.dense.weight"]),
            max_position_embeddings=len(state_dict["text_branch.embeddings.position_embeddings.weight"]),
            type_vocab_size=1,
            layer_norm_eps=1e-5,
        )
        self.text_branch = RobertaModel(config)
        self.text_projection = _projection(word_embeddings.shape[1])

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Two (B, N) int64, mask 1 at tokens and 0 at padding -> (B, 512) of length 1."""
        pooled = self.text_branch(input_ids=tokens, attention_mask=mask).pooler_output
        return F.normalize(self.text_projection(pooled), dim=-1)


def _projection(in_features: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(in_features, EMBED_DIM), nn.ReLU(), nn.Linear(EMBED_DIM, EMBED_DIM))


def import_clap_module(name: str) -> ModuleType:
    """Import a module of laion_clap.clap_module without its package, which downloads files when it is imported."""
    package = ModuleType("laion_clap_parts")
    package.__path__ = [str(Path(find_spec("laion_clap").origin).parent / "clap_module")]
    sys.modules.setdefault(package.__name__, package)
    return import_module(f"{package.__name__}.{name}")
