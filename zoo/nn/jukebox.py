"""Jukebox 5b (Dhariwal et al. 2020): tokens of a song, and the hidden states of the prior that predicts them.

Only the parts of OpenAI's two files that EDGE and M2PEnc use are built: the coarsest encoder of the VQ-VAE, and the
first layers of the top prior. Sizes come from the tensors of the files; weights keep their stored precision.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.weights.loading import load_strict, unwrap_state_dict

VQVAE_FILE, PRIOR_FILE = "vqvae.pth.tar", "prior_level_2.pth.tar"  # OpenAI's names, in models/5b
SAMPLE_RATE, TOKEN_SAMPLES = 44100, 128  # Hz; samples from one token to the next
NUM_DOWNSAMPLES = (3, 2, 2)  # halvings of the length in each block of the VQ-VAE's encoders, the coarsest last
DILATION_GROWTH = 3  # factor of the dilation from one residual block to the next
BLOCK_TOKENS, NUM_HEADS = 64, 8  # tokens of a block of the prior's sparse attention
# samples that the song is declared to have, as in jukemirlib: the prior knows none below 60 s
SONG_SAMPLES = 62 * SAMPLE_RATE // TOKEN_SAMPLES * TOKEN_SAMPLES
MAX_SONG_SAMPLES, CONTEXT_SAMPLES = 600 * SAMPLE_RATE, 8192 * TOKEN_SAMPLES  # of a song, and of the prior's context


class TopEncoder(nn.Module):
    """The VQ-VAE's coarsest encoder and its codebook."""

    def __init__(self, path: str | Path):
        """Raises ValueError, which names the difference, for another file than OpenAI's VQVAE_FILE."""
        super().__init__()
        load_strict(self, path, self._build, assign=True)
        self.eval().requires_grad_(False)

    def _build(self, contents: Any) -> Mapping[str, Tensor]:
        state_dict, prefixes = {}, ("encoders.2.", "bottleneck.level_blocks.2.")
        for name, value in _model_weights(contents).items():
            if name.startswith(prefixes):
                state_dict[name.removeprefix(prefixes[0]).removeprefix(prefixes[1])] = value
        try:
            width, channels, _ = state_dict["level_blocks.0.model.0.0.weight"].shape
            hidden = len(state_dict["level_blocks.0.model.0.1.model.0.model.1.weight"])
            depth = len({name for name in state_dict if name.startswith("level_blocks.0.model.0.1.model.")}) // 4
            code_dim = state_dict["level_blocks.1.model.0.0.weight"].shape[1]
            with torch.device("meta"):
                self.level_blocks = nn.ModuleList(
                    _DownsampleBlock(channels if index == 0 else code_dim, width, hidden, code_dim, depth, num_halvings)
                    for index, num_halvings in enumerate(NUM_DOWNSAMPLES)
                )
                self.register_buffer("k", torch.empty_like(state_dict["k"]))  # codebook (codes, code_dim)
        except (KeyError, ValueError):
            raise ValueError(f"it is not Jukebox's {VQVAE_FILE}") from None
        return state_dict

    def forward(self, waveform: Tensor) -> Tensor:
        """(B, S) at 44.1 kHz in [-1, 1] -> tokens (B, about S / 128) int64, indices of the codebook."""
        x = waveform[:, None]
        for block in self.level_blocks:
            x = block(x)
        x = x.mT
        return (x.square().sum(-1, keepdim=True) - 2 * x @ self.k.T + self.k.square().sum(-1)).argmin(-1)


class TopPrior(nn.Module):
    """The first layers of the prior of those tokens, for a song of unknown genre and artist."""

    def __init__(self, path: str | Path, num_layers: int):
        """Raises ValueError, which names the difference, for a file that is not OpenAI's or has fewer layers."""
        super().__init__()
        self.depth = num_layers
        load_strict(self, path, self._build, assign=True)
        self.eval().requires_grad_(False)

    def _build(self, contents: Any) -> Mapping[str, Tensor]:
        state_dict = {}
        for name, value in _model_weights(contents).items():
            name = name.removeprefix("prior.").replace("transformer._attn_mods.", "layers.").removeprefix("y_emb.")
            is_unused_layer = name.startswith("layers.") and int(name.split(".")[1]) >= self.depth
            if name != "x_out.weight" and not is_unused_layer:
                state_dict[name.removesuffix(".emb.weight")] = value
        try:
            with torch.device("meta"):
                for name in ("bow_genre_emb", "artist_emb", "total_length_emb", "absolute_pos_emb", "relative_pos_emb"):
                    self.register_parameter(name, _empty_like(state_dict[name]))
                self.x_emb, self.pos_emb = nn.Module(), nn.Module()
                self.x_emb.weight = _empty_like(state_dict["x_emb.weight"])
                self.pos_emb.pos_emb = _empty_like(state_dict["pos_emb.pos_emb"])
                prefixes = [f"layers.{index}." for index in range(self.depth)]
                sizes = [
                    (len(state_dict[f"{prefix}attn.c_proj.w"]), len(state_dict[f"{prefix}mlp.c_proj.w"]))
                    for prefix in prefixes
                ]
                self.layers = nn.ModuleList(
                    _Layer(index, self.width, attention_dim, hidden)
                    for index, (attention_dim, hidden) in enumerate(sizes)
                )
        except KeyError as error:
            raise ValueError(f"it is not Jukebox's {PRIOR_FILE} of {self.depth} layers or more: no {error}") from None
        return state_dict

    @property
    def width(self) -> int:
        """Values of a hidden state."""
        return self.x_emb.weight.shape[1]

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, T) int64, T <= 8192 -> hidden states (B, T, width) float32 after the last layer, without its norm.

        A state depends on the tokens before its own only.
        """
        num_tokens = tokens.shape[1]
        start_embedding = (self.bow_genre_emb[0] + self.artist_emb[0]).float().expand(len(tokens), 1, -1)
        x = torch.cat([start_embedding, self.x_emb.weight[tokens[:, :-1]].float()], 1)
        x = x + self.pos_emb.pos_emb[:num_tokens].float() + self._time_embedding(num_tokens)
        x = F.pad(x, (0, 0, 0, -num_tokens % BLOCK_TOKENS))
        for layer in self.layers:
            x = layer(x)
        return x[:, :num_tokens]

    def _time_embedding(self, num_tokens: int) -> Tensor:
        """Embed the time of each token in its song, absolute and relative to its length: (T, width)."""
        context_fraction = torch.arange(num_tokens, device=self.x_emb.weight.device) / (
            CONTEXT_SAMPLES // TOKEN_SAMPLES
        )
        length_embedding = self.total_length_emb[
            int(len(self.total_length_emb) * (SONG_SAMPLES / SAMPLE_RATE - 60) / 540)
        ]
        absolute_bins = (
            (len(self.absolute_pos_emb) * (CONTEXT_SAMPLES * context_fraction / MAX_SONG_SAMPLES)).floor().long()
        )
        # float32 as in the public code: rounding decides the bin
        contexts_per_song = (torch.tensor(CONTEXT_SAMPLES).float() / SONG_SAMPLES).to(context_fraction)
        relative_bins = (len(self.relative_pos_emb) * contexts_per_song * context_fraction).floor().long()
        return (
            length_embedding.float()
            + self.absolute_pos_emb[absolute_bins].float()
            + self.relative_pos_emb[relative_bins].float()
        )


class _DownsampleBlock(nn.Module):
    """`num_halvings` strided convolutions, each with `depth` residual blocks of growing dilation behind it."""

    def __init__(self, channels: int, width: int, hidden: int, out_channels: int, depth: int, num_halvings: int):
        super().__init__()
        halvings = [
            nn.Sequential(
                nn.Conv1d(width if index else channels, width, 4, 2, 1),
                _Sequence(*(_ResBlock(width, hidden, DILATION_GROWTH**level) for level in range(depth))),
            )
            for index in range(num_halvings)
        ]
        self.model = nn.Sequential(*halvings, nn.Conv1d(width, out_channels, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _Sequence(nn.Module):
    """`nn.Sequential` under the name `model`."""

    def __init__(self, *modules: nn.Module):
        super().__init__()
        self.model = nn.Sequential(*modules)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _ResBlock(_Sequence):
    def __init__(self, width: int, hidden: int, dilation: int):
        dilated = nn.Conv1d(width, hidden, 3, 1, dilation, dilation)
        super().__init__(nn.ReLU(), dilated, nn.ReLU(), nn.Conv1d(hidden, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


class _TransposedLinear(nn.Module):
    """A linear layer whose matrix is stored transposed, as in OpenAI's files."""

    def __init__(self, in_features: int, out_features: int):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.empty(in_features, out_features)), nn.Parameter(torch.empty(out_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.b.to(x), x.flatten(0, -2), self.w.to(x)).unflatten(0, x.shape[:-1])


class _Layer(nn.Module):
    """Sparse causal attention and a feed-forward network.

    Layers attend in turn to the token's own block of 64, to its position in all blocks, and to the previous block.
    """

    def __init__(self, index: int, width: int, attention_dim: int, hidden: int):
        super().__init__()
        # 0: to the own block, 1: to the same position in all blocks, 2: to the previous block
        self.attention_pattern = index % 3
        self.ln_0, self.ln_1 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.ModuleDict(
            {"c_attn": _TransposedLinear(width, 3 * attention_dim), "c_proj": _TransposedLinear(attention_dim, width)}
        )
        self.mlp = nn.ModuleDict({"c_fc": _TransposedLinear(width, hidden), "c_proj": _TransposedLinear(hidden, width)})

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, width), T a multiple of BLOCK_TOKENS -> the same shape."""
        attention = self.attn["c_proj"](self._attend(*self.attn["c_attn"](_norm(x, self.ln_0)).chunk(3, -1)))
        hidden = self.mlp["c_fc"](_norm(x + attention, self.ln_1))
        return x + attention + self.mlp["c_proj"](hidden * torch.sigmoid(1.702 * hidden))

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Three (B, T, attention_dim) -> (B, T, attention_dim)."""
        einops_pattern = "b (n p) (h d) -> b p h n d" if self.attention_pattern == 1 else "b (n p) (h d) -> b n h p d"
        query, key, value = (rearrange(x, einops_pattern, p=BLOCK_TOKENS, h=NUM_HEADS) for x in (query, key, value))
        if self.attention_pattern == 2:  # the first block has no previous one: it attends to zeros
            key, value = (F.pad(x[:, :-1], (0, 0, 0, 0, 0, 0, 1, 0)) for x in (key, value))
        y = F.scaled_dot_product_attention(query, key, value, is_causal=self.attention_pattern != 2)
        token_axes, block_axes = einops_pattern.split(" -> ")
        return rearrange(y, f"{block_axes} -> {token_axes}")


def _norm(x: Tensor, layer: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x, layer.normalized_shape, layer.weight.to(x), layer.bias.to(x))


def _empty_like(template: Tensor) -> nn.Parameter:
    return nn.Parameter(torch.empty(template.shape))


def _model_weights(contents: Any) -> Mapping[str, Tensor]:
    """Return the weights in a file of OpenAI's training."""
    has_model = isinstance(contents, Mapping) and "model" in contents
    return unwrap_state_dict(contents["model"] if has_model else contents)
