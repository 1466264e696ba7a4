"""What a line of text is to a network: one vector."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn

from zoo.nn.laion import FILE, SHARED, TextTower

LONGEST = 77  # tokens that CLAP was trained to read
TOKENIZER = ("vocab.json", "merges.txt")


class TextEncoder(nn.Module, ABC):
    """Texts -> vectors of length 1, always the same for the same text. Nothing of it learns, or is in a state dict."""

    dim: int  # D

    @abstractmethod
    def encode(self, texts: Sequence[str]) -> Tensor:
        """B texts -> (B, D) float32 on the CPU"""


class HashedText(TextEncoder):
    """Which words, pairs of words, and letters (3 and 4 in a row, within a word) a text has, each at a hashed place.

    Texts are near each other as far as they share these, whatever they mean. Needs no weights; the same everywhere.
    """

    def __init__(self, dim: int = SHARED):
        super().__init__()
        self.dim = dim
        common = {"n_features": dim, "dtype": np.float32}
        self.views = (
            HashingVectorizer(analyzer="word", ngram_range=(1, 2), **common),
            HashingVectorizer(analyzer="char_wb", ngram_range=(3, 4), **common),
        )

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See `TextEncoder`; a text without a letter is all zeros."""
        counted = sum(torch.from_numpy(view.transform(list(texts)).toarray()) for view in self.views)
        return F.normalize(counted, dim=-1)


class ClapText(TextEncoder):
    """The text tower of one of LAION's CLAP checkpoints: near music that the text is said of."""

    dim = SHARED

    def __init__(self, weights: str | None = None, tokenizer: str | None = None):
        """weights: LAION's file; tokenizer: a folder with roberta-base's vocab.json and merges.txt.

        Both are read when the first text is encoded, which raises ValueError where they are not there or do not fit.
        """
        super().__init__()
        self.weights, self.folder = weights, tokenizer
        self.known: dict[str, Tensor] = {}  # a training has few texts, and many batches

    @cached_property
    def tower(self) -> TextTower:
        """Not a submodule: a checkpoint of what is trained with it need not hold RoBERTa."""
        if self.weights is None or not Path(self.weights).is_file():
            raise ValueError(f"CLAP's text tower needs weights=FILE, LAION's {FILE}, not {self.weights}")
        return TextTower(self.weights)

    @cached_property
    def tokenizer(self):
        """RoBERTa's, from the folder alone."""
        from transformers import RobertaTokenizer

        folder = Path(self.folder or "")
        missing = [name for name in TOKENIZER if self.folder is None or not (folder / name).is_file()]
        if missing:
            wanted = " and ".join(TOKENIZER)
            raise ValueError(f"CLAP's text tower needs tokenizer=DIR with roberta-base's {wanted}, not {self.folder}")
        return RobertaTokenizer.from_pretrained(folder, local_files_only=True)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """See `TextEncoder`; what is beyond 77 tokens is not read."""
        new = sorted(set(texts) - self.known.keys())
        if new:
            tokens = self.tokenizer(new, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt")
            with torch.no_grad():
                read = self.tower(tokens["input_ids"], tokens["attention_mask"])
            self.known |= {text: vector for text, vector in zip(new, read, strict=True)}
        return torch.stack([self.known[text] for text in texts])
