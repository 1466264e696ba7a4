"""What a line of text is to a network: one vector, or one a word."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn

from zoo.nn.laion_clap import FILE, SHARED, TextTower

LONGEST = 77  # tokens that CLAP and CLIP were trained to read
WORD = re.compile(r"[\w']+")
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


class WordEncoder(nn.Module, ABC):
    """Texts -> a vector a word, for networks that attend to words."""

    dim: int  # D

    @abstractmethod
    def forward(self, texts: Sequence[str]) -> Tensor:
        """B texts -> (B, L, D), L the same for all texts"""

    @abstractmethod
    def unread(self, text: str) -> str:
        """The end of a text that is too long to be read, empty where all of it is."""


class HashedWords(WordEncoder):
    """A learned vector for each word, at a hashed place of a table, with its position; learns with what reads it."""

    def __init__(self, dim: int = 64, words: int = 1024, longest: int = 24):
        """words: places of the table, 0 for no word; longest: L, words beyond it are not read."""
        super().__init__()
        self.dim, self.longest = dim, longest
        self.table = nn.Embedding(words, dim)
        self.place = nn.Parameter(0.02 * torch.randn(longest, dim))

    def forward(self, texts: Sequence[str]) -> Tensor:
        """See `WordEncoder`."""
        count = self.table.num_embeddings - 1
        rows = [[1 + crc32(word.encode()) % count for word in WORD.findall(text.lower())] for text in texts]
        rows = [row[: self.longest] + [0] * (self.longest - len(row)) for row in rows]
        return self.table(torch.tensor(rows, device=self.place.device)) + self.place

    def unread(self, text: str) -> str:
        """See `WordEncoder`."""
        beyond = list(WORD.finditer(text))[self.longest :]
        return text[beyond[0].start() :] if beyond else ""


class ClipWords(WordEncoder):
    """Stable Diffusion's text encoder: CLIP ViT-L/14's last hidden states, 77 of 768 values. Frozen."""

    dim = 768

    def __init__(self, weights: str | None = None):
        """weights: a folder of Stable Diffusion 1.5 with its `tokenizer` and `text_encoder`, read at the first text."""
        super().__init__()
        self.weights = weights

    @cached_property
    def parts(self) -> tuple:
        """Tokenizer and network; no submodule: a checkpoint need not hold what never learns."""
        from transformers import CLIPTextModel, CLIPTokenizer

        folder = Path(self.weights or "")
        if self.weights is None or not all((folder / name).is_dir() for name in ("tokenizer", "text_encoder")):
            raise ValueError(
                "Stable Diffusion's text encoder needs model.texts.clip.weights=DIR, a folder with its tokenizer/ and "
                f"text_encoder/, not {self.weights}"
            )
        network = CLIPTextModel.from_pretrained(folder / "text_encoder", local_files_only=True, use_safetensors=True)
        return CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True), network.eval()

    @torch.no_grad()
    def forward(self, texts: Sequence[str]) -> Tensor:
        """See `WordEncoder`; what is beyond 77 tokens is not read."""
        tokenizer, network = self.parts
        tokens = tokenizer(list(texts), padding="max_length", truncation=True, max_length=LONGEST, return_tensors="pt")
        return network(tokens["input_ids"]).last_hidden_state

    def unread(self, text: str) -> str:
        """See `WordEncoder`; the tokens beyond the 77, of which two are the beginning and the end."""
        tokenizer = self.parts[0]
        return tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"][LONGEST - 2 :])

    def __getstate__(self):
        return {name: value for name, value in self.__dict__.items() if name != "parts"}
