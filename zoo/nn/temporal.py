"""What looks along time in a video U-Net: AnimateDiff's motion module, and modules that listen to a song.

Video is (N, C, H, W) with N = B F, frames innermost. Every pixel attends along its own time. Positions are sines of the
frame's number, which any number of frames has; public files list them as `pos_encoder.pe`, see `without_positions`.
"""

import math
from collections.abc import Mapping

import torch
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from zoo.nn.attention import CrossAttention, KeysValues

SHARP = 8.0  # how well a fresh module tells one moment from the next: most of what it hears is within a frame
REACH, DIRECTIONS = 24, 10  # frames that it tells apart, and directions in which their positions differ


def positions(at: Tensor, dim: int) -> Tensor:
    """Sines and cosines, interleaved, of places `at` (T,), in frames -> (T, dim)"""
    rates = torch.exp(torch.arange(0, dim, 2, device=at.device) * (-math.log(10_000) / dim))
    angles = at[:, None].float() * rates
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)[:, :dim]


def apart(dim: int) -> Tensor:
    """The directions (DIRECTIONS, dim), of length 1, in which `positions` of REACH frames differ most."""
    at = torch.arange(REACH, device="cpu")  # a network may be planned on the meta device
    return torch.linalg.svd(_centred(positions(at, dim)), full_matrices=False).Vh[:DIRECTIONS]


def _centred(x: Tensor) -> Tensor:
    return x - x.mean(0)


def without_positions(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A public state dict without its tables of positions. Raises ValueError when one of them is not ours."""
    found = {}
    for name, value in state.items():
        if not name.endswith("pos_encoder.pe"):
            found[name] = value
        elif (positions(torch.arange(value.shape[1]), value.shape[2]) - value[0].float()).abs().max() > 1e-2:
            raise ValueError(f"{name} holds other positions than sines of the frame's number")
    return found


class TemporalAttention(CrossAttention):
    """Attention of (B, T, dim) to itself, in time."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> the same"""
        x = x + positions(torch.arange(x.shape[1], device=x.device), x.shape[2]).to(x.dtype)
        return super().forward(x, self.keys_values(x))


class TemporalBlock(nn.Module):
    """Twice attention along time, then a feed-forward layer, each beside the identity."""

    def __init__(self, dim: int, heads: int, dropout: float):
        super().__init__()
        self.attention_blocks = nn.ModuleList(TemporalAttention(dim, heads, dropout=dropout) for _ in range(2))
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2))
        self.ff = FeedForward(dim, dropout=dropout)
        self.ff_norm = nn.LayerNorm(dim)

    def forward(self, y: Tensor) -> Tensor:
        """(B, T, dim) -> the same"""
        for attention, norm in zip(self.attention_blocks, self.norms, strict=True):
            y = y + attention(norm(y))
        return y + self.ff(self.ff_norm(y))


class TemporalTransformer(nn.Module):
    """Norm and projections about a block; the last one begins at 0, so that a new module changes nothing."""

    def __init__(self, dim: int, heads: int, groups: int, dropout: float):
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(dim, heads, dropout)])
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    def forward(self, x: Tensor, frames: int, past: Tensor | None) -> Tensor:
        """See `MotionModule`."""
        height, width = x.shape[2:]
        y = self.proj_in(rearrange(self.norm(x), "(b f) c h w -> (b h w) f c", f=frames))
        if past is not None:
            # a reference's features are normalised already
            before = self.proj_in(rearrange(past.to(y.dtype), "b m p c -> (b p) m c"))
            y = torch.cat([before, y], 1)
        y = self.proj_out(self.transformer_blocks[0](y)[:, -frames:])
        return x + rearrange(y, "(b h w) f c -> (b f) c h w", h=height, w=width)


class MotionModule(nn.Module):
    """AnimateDiff's motion module, v1 to v3; MuseDance's motion alignment module when it is given a past (sec. 3.3)."""

    def __init__(self, dim: int, heads: int = 8, groups: int = 32, dropout: float = 0.0):
        super().__init__()
        self.temporal_transformer = TemporalTransformer(dim, heads, groups, dropout)

    def forward(self, x: Tensor, frames: int, past: Tensor | None = None) -> Tensor:
        """x (B F, C, H, W); past (B, M, H W, C): hidden states of the frames before, joined in time -> like x"""
        return self.temporal_transformer(x, frames, past)


class SongModule(nn.Module):
    """MuseDance's music and beat modules (sec. 3.3): frames listen to tokens of a song, then look at one another.

    The paper gives no layers. Here both attentions and a feed-forward layer stand between a norm and a projection that
    begins at 0, as in AnimateDiff; frames carry their positions to the tokens, which carry theirs.
    """

    fsdp_forward_methods = ("prepare",)  # from outside, beside forward

    def __init__(self, dim: int, heads: int, groups: int, token_dim: int, dropout: float = 0.0):
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(3))
        self.listen = CrossAttention(dim, heads, token_dim, dropout)
        self.look = TemporalAttention(dim, heads, dropout=dropout)
        self.ff = FeedForward(dim, dropout=dropout)
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)

    @torch.no_grad()
    def begin(self) -> None:
        """Begin by listening to each frame's own moment, which would else have to be found out first.

        Queries and keys keep the few directions in which positions differ most, in the same way, and nothing else; what
        is heard there is passed on as it is.
        """
        listen = self.listen
        keys, queries = listen.to_k.weight, listen.to_q.weight
        kept = apart(keys.shape[1])
        at = torch.arange(REACH, device="cpu")
        own, heard = (_centred(positions(at, width)) for width in (queries.shape[1], keys.shape[1]))
        turned = torch.linalg.lstsq(own, heard @ kept.mT, driver="gelsd").solution.mT  # the same of frames' positions
        size = len(keys) // listen.heads
        for head in range(listen.heads):
            rows, mixed = slice(head * size, (head + 1) * size), torch.empty(size, len(kept), device="cpu")
            nn.init.orthogonal_(mixed)
            keys[rows], queries[rows] = (mixed @ kept).to(keys), (SHARP * mixed @ turned).to(queries)
        nn.init.orthogonal_(listen.to_v.weight)
        nn.init.orthogonal_(listen.to_out[0].weight)

    def prepare(self, tokens: Tensor) -> KeysValues:
        """What is heard of tokens (B, L, token_dim), which carry their positions, once a request."""
        return self.listen.keys_values(tokens)

    def forward(self, x: Tensor, frames: int, song: KeysValues) -> Tensor:
        """x (B F, C, H, W); song: of `prepare` -> like x"""
        batch, height = len(x) // frames, x.shape[2]
        y = self.proj_in(rearrange(self.norm(x), "(b f) c h w -> b f (h w) c", f=frames))
        at = positions(torch.arange(frames, device=x.device), y.shape[3]).to(y.dtype)
        asked = (self.norms[0](y) + at[:, None]).flatten(1, 2)  # (B, F H W, C): a song is of no pixel
        y = y + self.listen(asked, song).unflatten(1, (frames, -1))
        y = rearrange(y, "b f p c -> (b p) f c")
        y = y + self.look(self.norms[1](y))
        y = self.proj_out(y + self.ff(self.norms[2](y)))
        return x + rearrange(y, "(b h w) f c -> (b f) c h w", b=batch, h=height)
