"""Temporal modules of a video U-Net: AnimateDiff's motion module, and attention to the tokens of a song.

Videos are (N, C, H, W) with N = B F, frames innermost. Every pixel attends along its own time. Positions are sinusoids
of the frame index, defined for any number of frames; published files store them as tables, see `drop_position_tables`.
"""

import math
from collections.abc import Mapping

import torch
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.attention import CrossAttention, KeysValues

INIT_LOGIT_SCALE = 8.0  # sharpness of the initial attention to the same time: most of it within one frame
NUM_POSITIONS = 24  # frames that the initial attention tells apart
NUM_DIRECTIONS = 10  # directions in which the encodings of these positions vary


def sinusoidal_positions(positions: Tensor, dim: int) -> Tensor:
    """Encode positions (T,), in frames, by interleaved sines and cosines -> (T, dim)."""
    frequencies = torch.exp(torch.arange(0, dim, 2, device=positions.device) * (-math.log(10_000) / dim))
    angles = positions[:, None].float() * frequencies
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim]


def position_directions(dim: int) -> Tensor:
    """Unit vectors (NUM_DIRECTIONS, dim) along which `sinusoidal_positions` of NUM_POSITIONS frames vary most."""
    positions = torch.arange(NUM_POSITIONS, device="cpu")  # a network may be built on the meta device
    encodings = sinusoidal_positions(positions, dim)
    return torch.linalg.svd(_subtract_mean(encodings), full_matrices=False).Vh[:NUM_DIRECTIONS]


def _subtract_mean(x: Tensor) -> Tensor:
    return x - x.mean(0)


def drop_position_tables(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a published state dict without `pos_encoder.pe`. Raises ValueError if one holds other values than ours."""
    remaining = {}
    for name, tensor in state_dict.items():
        if not name.endswith("pos_encoder.pe"):
            remaining[name] = tensor
            continue
        encodings = sinusoidal_positions(torch.arange(tensor.shape[1]), tensor.shape[2])
        if (encodings - tensor[0].float()).abs().max() > 1e-2:
            raise ValueError(f"{name} is not a table of sinusoidal positions")
    return remaining


class TemporalAttention(CrossAttention):
    """Self-attention along time, with sinusoidal positions."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)"""
        x = x + sinusoidal_positions(torch.arange(x.shape[1], device=x.device), x.shape[2]).to(x.dtype)
        return super().forward(x, self.keys_values(x))


class TemporalBlock(nn.Module):
    """Two temporal attentions and a feed-forward layer, each with a residual connection."""

    def __init__(self, dim: int, num_heads: int, dropout: float):
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(dim, num_heads, dropout=dropout) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.ff = FeedForward(dim, dropout=dropout)
        self.ff_norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, T, dim)"""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            x = x + attention(norm(x))
        return x + self.ff(self.ff_norm(x))


class TemporalTransformer(nn.Module):
    """Norm, projections and a temporal block. The output projection is 0 at first: a new module changes nothing."""

    def __init__(self, dim: int, num_heads: int, num_groups: int, dropout: float):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(dim, num_heads, dropout)])
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, num_frames: int, context: Tensor | None) -> Tensor:
        """See `MotionModule.forward`."""
        height, width = x.shape[2:]
        y = self.proj_in(rearrange(self.norm(x), "(b f) c h w -> (b h w) f c", f=num_frames))
        if context is not None:
            # context features come from a ReferenceNet, which has normalised them
            projected_context = self.proj_in(rearrange(context.to(y.dtype), "b m p c -> (b p) m c"))
            y = torch.cat([projected_context, y], 1)
        y = self.proj_out(self.transformer_blocks[0](y)[:, -num_frames:])
        return x + rearrange(y, "(b h w) f c -> (b f) c h w", h=height, w=width)


class MotionModule(nn.Module):
    """AnimateDiff's motion module (v1 to v3); with context frames MuseDance's motion alignment module (sec. 3.3)."""

    def __init__(self, dim: int, num_heads: int = 8, num_groups: int = 32, dropout: float = 0.0):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(dim, num_heads, num_groups, dropout)

    def forward(self, x: Tensor, num_frames: int, context: Tensor | None = None) -> Tensor:
        """x (B F, C, H, W) -> the same shape. context (B, M, H W, C): features of the M frames before, prepended."""
        return self.temporal_transformer(x, num_frames, context)


class MusicAttentionModule(nn.Module):
    """MuseDance's music understanding and beat alignment modules (sec. 3.3).

    Frames attend to the tokens of a song, then to one another. The paper gives no layers. Here a norm and a projection
    come first, then both attentions and a feed-forward layer, then a projection that is 0 at first, as in AnimateDiff.
    Queries and tokens carry their positions in time.
    """

    fsdp_forward_methods = ("precompute_kv",)

    def __init__(self, dim: int, num_heads: int, num_groups: int, token_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.GroupNorm(num_groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.cross_attention = CrossAttention(dim, num_heads, token_dim, dropout)
        self.temporal_attention = TemporalAttention(dim, num_heads, dropout=dropout)
        self.ff = FeedForward(dim, dropout=dropout)
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @torch.no_grad()
    def init_to_identity(self) -> None:
        """Initialise the cross-attention so that each frame attends to the tokens of its own time.

        Queries and keys keep only the directions in which positions vary most, rotated alike; values and output are
        orthogonal.
        """
        attention = self.cross_attention
        key_weight, query_weight = attention.to_k.weight, attention.to_q.weight
        directions = position_directions(key_weight.shape[1])
        positions = torch.arange(NUM_POSITIONS, device="cpu")
        frame_encodings, token_encodings = (
            _subtract_mean(sinusoidal_positions(positions, dim)) for dim in (query_weight.shape[1], key_weight.shape[1])
        )
        # maps the encodings of frames to the token encodings' coordinates along `directions`
        frame_directions = torch.linalg.lstsq(
            frame_encodings, token_encodings @ directions.mT, driver="gelsd"
        ).solution.mT
        head_dim = len(key_weight) // attention.heads
        for head in range(attention.heads):
            head_rows = slice(head * head_dim, (head + 1) * head_dim)
            rotation = torch.empty(head_dim, len(directions), device="cpu")
            nn.init.orthogonal_(rotation)
            key_weight[head_rows] = (rotation @ directions).to(key_weight)
            query_weight[head_rows] = (INIT_LOGIT_SCALE * rotation @ frame_directions).to(query_weight)
        nn.init.orthogonal_(attention.to_v.weight)
        nn.init.orthogonal_(attention.to_out[0].weight)

    def precompute_kv(self, tokens: Tensor) -> KeysValues:
        """Keys and values of tokens (B, L, token_dim), which carry their positions; once per request."""
        return self.cross_attention.keys_values(tokens)

    def forward(self, x: Tensor, num_frames: int, music_kv: KeysValues) -> Tensor:
        """x (B F, C, H, W) -> the same shape. music_kv: result of `precompute_kv`."""
        batch_size, height = len(x) // num_frames, x.shape[2]
        y = self.proj_in(rearrange(self.norm(x), "(b f) c h w -> b f (h w) c", f=num_frames))
        positions = sinusoidal_positions(torch.arange(num_frames, device=x.device), y.shape[3]).to(y.dtype)
        queries = (self.norms[0](y) + positions[:, None]).flatten(1, 2)  # (B, F H W, C): all pixels share the tokens
        y = y + self.cross_attention(queries, music_kv).unflatten(1, (num_frames, -1))
        y = rearrange(y, "b f p c -> (b p) f c")
        y = y + self.temporal_attention(self.norms[1](y))
        y = self.proj_out(y + self.ff(self.norms[2](y)))
        return x + rearrange(y, "(b h w) f c -> (b f) c h w", b=batch_size, h=height)
