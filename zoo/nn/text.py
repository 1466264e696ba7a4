"""Text encoders: one vector a text, or one vector a token."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn

from zoo.nn.laion_clap import CHECKPOINT_FILE, EMBED_DIM, TextTower
from zoo.nn.weights.lazy import LazyWeights

MAX_TOKENS = 77  # of the texts that CLAP and CLIP were trained with
WORD_PATTERN = re.compile(r"[\w']+")
TOKENIZER_FILES = ("vocab.json", "merges.txt")


class TextEncoder(nn.Module, ABC):
    """Texts -> vectors of length 1, a function of the text alone. It has no trainable weights and no state dict."""

    dim: int  # D

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """Encode B texts -> (B, D) float32 on the CPU."""


class HashedTextEncoder(TextEncoder):
    """Hashed counts of words, word pairs, and letter 3- and 4-grams within words. Needs no weights.

    Texts that share many of these are near each other, whatever they mean.
    """

    def __init__(self, dim: int = EMBED_DIM):
        super().__init__()
        self.dim = dim
        shared_options = {"n_features": dim, "dtype": np.float32}
        self.vectorizers = (
            HashingVectorizer(analyzer="word", ngram_range=(1, 2), **shared_options),
            HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), **shared_options),
        )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See `TextEncoder`; a text without a letter is all zeros."""
        counts = sum(torch.from_numpy(vectorizer.transform(list(texts)).toarray()) for vectorizer in self.vectorizers)
        return F.normalize(counts, dim=-1)


class ClapTextEncoder(LazyWeights, TextEncoder):
    """The text tower of one of LAION's CLAP checkpoints, in the space of its music embeddings."""

    dim = EMBED_DIM

    def __init__(self, weights: str | None = None, tokenizer: str | None = None):
        """weights: LAION's file; tokenizer: a folder with roberta-base's vocab.json and merges.txt.

        Both are read when the first text is encoded; that raises ValueError where they are missing or do not fit.
        """
        super().__init__()
        self.weights, self.tokenizer_folder = weights, tokenizer
        self.cache: dict[str, Tensor] = {}  # text -> vector (D,): a training has few texts, and many batches

    def load(self) -> tuple[Any, TextTower]:
        """Read the tokenizer, from the folder alone, and the tower."""
        from transformers import RobertaTokenizer

        folder = Path(self.tokenizer_folder or "")
        if self.tokenizer_folder is None or not all((folder / name).is_file() for name in TOKENIZER_FILES):
            file_names = " and ".join(TOKENIZER_FILES)
            raise ValueError(
                f"CLAP's text tower needs tokenizer=DIR with roberta-base's {file_names}, not {self.tokenizer_folder}"
            )
        tokenizer = RobertaTokenizer.from_pretrained(folder, local_files_only=True)
        if self.weights is None or not Path(self.weights).is_file():
            raise ValueError(f"CLAP's text tower needs weights=FILE, LAION's {CHECKPOINT_FILE}, not {self.weights}")
        return tokenizer, TextTower(self.weights)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See `TextEncoder`; tokens after the 77th are dropped."""
        new_texts = sorted(set(texts) - self.cache.keys())
        if new_texts:
            tokenizer, tower = self.loaded
            tokens = tokenizer(new_texts, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
            with torch.no_grad():
                vectors = tower(tokens["input_ids"], tokens["attention_mask"])
            self.cache |= dict(zip(new_texts, vectors, strict=True))
        return torch.stack([self.cache[text] for text in texts])


class TokenTextEncoder(nn.Module, ABC):
    """Texts -> one vector a token, for networks with text cross-attention."""

    dim: int  # D

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Tensor:
        """Encode B texts -> (B, L, D), L the same for all texts."""

    @abstractmethod
    def truncated_end(self, text: str) -> str:
        """Return the end of a text that is too long to be encoded, empty where all of it is."""


class HashedTokenEncoder(TokenTextEncoder):
    """A learned vector for each word, at a hashed row of a table, plus one for its position. Trains with the family."""

    def __init__(self, dim: int = 64, vocab_size: int = 1024, max_tokens: int = 24):
        """vocab_size: rows of the table, row 0 for no word; max_tokens: L, words after it are dropped."""
        super().__init__()
        self.dim, self.max_tokens = dim, max_tokens
        self.table = nn.Embedding(vocab_size, dim)
        self.place = nn.Parameter(0.02 * torch.randn(max_tokens, dim))  # learned position embedding

    def forward(self, texts: Sequence[str]) -> Tensor:
        """See `TokenTextEncoder`."""
        num_word_rows = self.table.num_embeddings - 1
        row_indices = [
            [1 + crc32(word.encode()) % num_word_rows for word in WORD_PATTERN.findall(text.lower())] for text in texts
        ]
        row_indices = [row[: self.max_tokens] + [0] * (self.max_tokens - len(row)) for row in row_indices]
        return self.table(torch.tensor(row_indices, device=self.place.device)) + self.place

    def truncated_end(self, text: str) -> str:
        """See `TokenTextEncoder`."""
        dropped_matches = list(WORD_PATTERN.finditer(text))[self.max_tokens :]
        return text[dropped_matches[0].start() :] if dropped_matches else ""


class ClipTokenEncoder(LazyWeights, TokenTextEncoder):
    """Stable Diffusion's text encoder: the last hidden states of CLIP ViT-L/14, 77 of 768 values. Frozen."""

    dim = 768
    device_marker: Tensor

    def __init__(self, weights: str | None = None):
        """weights: a folder of Stable Diffusion 1.5 with `tokenizer` and `text_encoder`, read at the first text."""
        super().__init__()
        self.weights = weights
        # follows the family to its device, as the networks do when they are used
        self.register_buffer("device_marker", torch.empty(0), persistent=False)

    def load(self) -> tuple[Any, nn.Module]:
        """Read the tokenizer and the network, in this order."""
        from transformers import CLIPTextModel, CLIPTokenizer

        folder = Path(self.weights or "")
        if self.weights is None or not all((folder / name).is_dir() for name in ("tokenizer", "text_encoder")):
            raise ValueError(
                "Stable Diffusion's text encoder needs weights=DIR, a folder with its tokenizer/ and "
                f"text_encoder/, not {self.weights}"
            )
        network = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)
        return CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True), network.eval()

    def build_untrained(self) -> tuple[Any, nn.Module]:
        """See `LazyWeights`: CLIP ViT-L/14's text tower, and a tokenizer that gives zeros."""
        from transformers import CLIPTextConfig, CLIPTextModel

        config = CLIPTextConfig(
            hidden_size=self.dim, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
        )

        def tokenize(texts: Sequence[str], **_: Any) -> dict[str, Tensor]:
            return {"input_ids": torch.zeros(len(texts), MAX_TOKENS, dtype=torch.int64)}

        return tokenize, CLIPTextModel(config).eval().requires_grad_(False)

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """See `TokenTextEncoder`; tokens after the 77th are dropped."""
        tokenizer, network = self.loaded
        tokens = tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
        )
        device = self.device_marker.device
        if network.device != device:
            network.to(device)
        return network(tokens["input_ids"].to(device)).last_hidden_state

    def truncated_end(self, text: str) -> str:
        """See `TokenTextEncoder`; two of the 77 tokens mark the beginning and the end."""
        tokenizer = self.loaded[0]
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][MAX_TOKENS - 2 :])
