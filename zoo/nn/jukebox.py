"""Jukebox 5b (Dhariwal et al. 2020): a song's sound as tokens, and the states of the network that foretells them.

Of OpenAI's two files only what EDGE and M2PEnc listen to is built: the coarsest of the VQ-VAE's encoders, and the first
layers of the top prior. The shapes in the files say how large they are; weights stay as exact as they are stored.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.weights.loading import load_foreign, plain

VQVAE, PRIOR = "vqvae.pth.tar", "prior_level_2.pth.tar"  # OpenAI's names, in models/5b
RATE, HOP = 44100, 128  # samples a second; samples a token
DOWNS, DILATION = (3, 2, 2), 3  # halvings of the sound block by block; growth from convolution to convolution
BLOCK, HEADS = 64, 8  # tokens that attention looks at together
# samples that the song is said to have, as in jukemirlib: the prior knows none below 60 s
LENGTH = 62 * RATE // HOP * HOP
LONGEST, SPAN = 600 * RATE, 8192 * HOP  # samples: of a song, and of what the prior hears at once


class TopEncoder(nn.Module):
    """The VQ-VAE's coarsest encoder and its codebook."""

    def __init__(self, path: str | Path):
        """Raises ValueError, naming what does not fit, for another file than OpenAI's VQVAE."""
        super().__init__()
        load_foreign(self, path, self._build, assign=True)
        self.eval().requires_grad_(False)

    def _build(self, found: Any) -> Mapping[str, Tensor]:
        state, own = {}, ("encoders.2.", "bottleneck.level_blocks.2.")
        for name, value in _model(found).items():
            if name.startswith(own):
                state[name.removeprefix(own[0]).removeprefix(own[1])] = value
        try:
            width, channels, _ = state["level_blocks.0.model.0.0.weight"].shape
            inner = len(state["level_blocks.0.model.0.1.model.0.model.1.weight"])
            depth = len({name for name in state if name.startswith("level_blocks.0.model.0.1.model.")}) // 4
            size = state["level_blocks.1.model.0.0.weight"].shape[1]
            with torch.device("meta"):
                self.level_blocks = nn.ModuleList(
                    _Halving(channels if index == 0 else size, width, inner, size, depth, count)
                    for index, count in enumerate(DOWNS)
                )
                self.register_buffer("k", torch.empty_like(state["k"]))
        except (KeyError, ValueError):
            raise ValueError(f"it is not Jukebox's {VQVAE}") from None
        return state

    def forward(self, sound: Tensor) -> Tensor:
        """(B, S) at 44.1 kHz, in [-1, 1] -> tokens (B, about S / 128) int64, of the codebook's"""
        x = sound[:, None]
        for block in self.level_blocks:
            x = block(x)
        x = x.mT
        return (x.square().sum(-1, keepdim=True) - 2 * x @ self.k.T + self.k.square().sum(-1)).argmin(-1)


class TopPrior(nn.Module):
    """The first layers of the prior of those tokens, of a song of no known genre and artist."""

    def __init__(self, path: str | Path, layers: int):
        """Raises ValueError, naming what does not fit, for another file than OpenAI's PRIOR or one of fewer layers."""
        super().__init__()
        self.depth = layers
        load_foreign(self, path, self._build, assign=True)
        self.eval().requires_grad_(False)

    def _build(self, found: Any) -> Mapping[str, Tensor]:
        state = {}
        for name, value in _model(found).items():
            name = name.removeprefix("prior.").replace("transformer._attn_mods.", "layers.").removeprefix("y_emb.")
            of_layer = name.startswith("layers.")
            if name != "x_out.weight" and not (of_layer and int(name.split(".")[1]) >= self.depth):
                state[name.removesuffix(".emb.weight")] = value
        try:
            with torch.device("meta"):
                for name in ("bow_genre_emb", "artist_emb", "total_length_emb", "absolute_pos_emb", "relative_pos_emb"):
                    self.register_parameter(name, _like(state[name]))
                self.x_emb, self.pos_emb = nn.Module(), nn.Module()
                self.x_emb.weight, self.pos_emb.pos_emb = _like(state["x_emb.weight"]), _like(state["pos_emb.pos_emb"])
                names = [f"layers.{index}." for index in range(self.depth)]
                sizes = [(len(state[f"{one}attn.c_proj.w"]), len(state[f"{one}mlp.c_proj.w"])) for one in names]
                self.layers = nn.ModuleList(_Layer(index, self.width, *one) for index, one in enumerate(sizes))
        except KeyError as error:
            raise ValueError(f"it is not Jukebox's {PRIOR} of {self.depth} layers or more: no {error}") from None
        return state

    @property
    def width(self) -> int:
        """Values of a state."""
        return self.x_emb.weight.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) int64, T <= 8192 -> states (B, T, width) float32 after the last of the layers, not normed.

        A state knows the tokens before its own.
        """
        count = tokens.shape[1]
        begin = (self.bow_genre_emb[0] + self.artist_emb[0]).float().expand(len(tokens), 1, -1)
        x = torch.cat([begin, self.x_emb.weight[tokens[:, :-1]].float()], 1)
        x = F.pad(x + self.pos_emb.pos_emb[:count].float() + self._times(count), (0, 0, 0, -count % BLOCK))
        for layer in self.layers:
            x = layer(x)
        return x[:, :count]

    def _times(self, count: int) -> Tensor:
        """When tokens are, from the beginning of a song, in samples and in shares of it: (T, width)"""
        share = torch.arange(count, device=self.x_emb.weight.device) / (SPAN // HOP)
        total = self.total_length_emb[int(len(self.total_length_emb) * (LENGTH / RATE - 60) / 540)]
        absolute = (len(self.absolute_pos_emb) * (SPAN * share / LONGEST)).floor().long()
        # a float32 as in the public code, whose bins it decides
        relative = (len(self.relative_pos_emb) * (torch.tensor(SPAN).float() / LENGTH).to(share) * share).floor().long()
        return total.float() + self.absolute_pos_emb[absolute].float() + self.relative_pos_emb[relative].float()


class _Halving(nn.Module):
    """`count` times half as long: each time a convolution and `depth` residual ones, wider and wider."""

    def __init__(self, channels: int, width: int, inner: int, out: int, depth: int, count: int):
        super().__init__()
        halves = [
            nn.Sequential(
                nn.Conv1d(width if index else channels, width, 4, 2, 1),
                _Chain(*(_Residual(width, inner, DILATION**grown) for grown in range(depth))),
            )
            for index in range(count)
        ]
        self.model = nn.Sequential(*halves, nn.Conv1d(width, out, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Chain(nn.Module):
    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Residual(_Chain):
    def __init__(self, width: int, inner: int, dilation: int):
        wide = nn.Conv1d(width, inner, 3, 1, dilation, dilation)
        super().__init__(nn.ReLU(), wide, nn.ReLU(), nn.Conv1d(inner, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


class _Product(nn.Module):
    """A linear layer, its matrix the other way round, as OpenAI stores it."""

    def __init__(self, inner: int, out: int):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.empty(inner, out)), nn.Parameter(torch.empty(out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.b.to(x), x.flatten(0, -2), self.w.to(x)).unflatten(0, x.shape[:-1])


class _Layer(nn.Module):
    """Attention, and a network for each token. Layers look in turn at the block of 64 tokens that a token is in, at its
    place in all blocks, and at the block before; none at what comes later.
    """

    def __init__(self, index: int, width: int, state: int, hidden: int):
        super().__init__()
        self.kind = index % 3
        self.ln_0, self.ln_1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict({"c_attn": _Product(width, 3 * state), "c_proj": _Product(state, width)})
        self.mlp = nn.ModuleDict({"c_fc": _Product(width, hidden), "c_proj": _Product(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width), T a multiple of BLOCK -> the same"""
        attended = self.attn["c_proj"](self._attend(*self.attn["c_attn"](_norm(x, self.ln_0)).chunk(3, -1)))
        inner = self.mlp["c_fc"](_norm(x + attended, self.ln_1))
        return x + attended + self.mlp["c_proj"](inner * torch.sigmoid(1.702 * inner))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three (B, T, state) -> (B, T, state)"""
        groups = "b (n p) (h d) -> b p h n d" if self.kind == 1 else "b (n p) (h d) -> b n h p d"
        query, key, value = (rearrange(one, groups, p=BLOCK, h=HEADS) for one in (query, key, value))
        if self.kind == 2:  # of the first block there is none before: it looks at zeros
            key, value = (F.pad(one[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)) for one in (key, value))
        found = F.scaled_dot_product_attention(query, key, value, is_causal=self.kind != 2)
        left, right = groups.split(" -> ")
        return rearrange(found, f"{right} -> {left}")


def _norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight.to(x), layer.bias.to(x))


def _like(value: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(value.shape))


def _model(found: Any) -> Mapping[str, Tensor]:
    """The weights in what OpenAI's training wrote."""
    return plain(found["model"] if isinstance(found, Mapping) and "model" in found else found)
