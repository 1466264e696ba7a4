"""EDGE's network: a FiLM-conditioned transformer decoder that denoises body motion while it listens to music.

The state dict has the keys and shapes of the public `DanceDecoder`, whose checkpoints load strictly. Unlike the public
code, everything that depends on the music alone can be computed once a request (`condition`), not once a step.

Shape letters: B batch, T motion frames, L music tokens, D values of a music token, C `dim`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.attention import Attention

MAX_FRAMES = 150  # EDGE sec. 4: 5 s at 30 Hz, one learned null token a frame


def rotate(x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding of (B, T, C), over the whole width and *before* the projections, as EDGE does it.

    tables: cos and sin (T, C / 2). Neighbouring values are a pair: (2i, 2i + 1).
    """
    cos, sin = (table.to(x.dtype) for table in tables)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)


class Rotary(nn.Module):
    """Angles of the rotary embedding, theta 10^4. As in public checkpoints, every layer lists the one buffer."""

    def __init__(self, dim: int):
        super().__init__()
        self.register_buffer("freqs", 10_000.0 ** (-torch.arange(0, dim, 2) / dim))

    def forward(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """cos and sin, each (stop - start, C / 2), of positions start .. stop - 1."""
        angles = torch.arange(start, stop, device=self.freqs.device)[:, None] * self.freqs.float()
        return angles.cos(), angles.sin()


class TimeEmbedding(nn.Module):
    """Diffusion step (B,) -> sinusoids (B, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.half = dim // 2

    def forward(self, t: Tensor) -> Tensor:
        rates = torch.exp(torch.arange(self.half, device=t.device) * (-math.log(10_000) / (self.half - 1)))
        angles = t[:, None] * rates
        return torch.cat((angles.sin(), angles.cos()), dim=-1)


class FiLM(nn.Module):
    """Feature-wise linear modulation: x -> (1 + scale) x + shift, both read from the step's embedding (B, C)."""

    def __init__(self, dim: int):
        super().__init__()
        self.block = nn.Sequential(nn.Mish(), nn.Linear(dim, 2 * dim))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        scale, shift = self.block(t)[:, None].chunk(2, dim=-1)
        return (scale + 1) * x + shift


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and feed-forward over music tokens (B, L, C)."""

    def __init__(self, dim: int, heads: int, ff_dim: int, dropout: float):
        super().__init__()
        self.self_attn = Attention(dim, heads, dropout)
        self.linear1 = nn.Linear(dim, ff_dim)
        self.linear2 = nn.Linear(ff_dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)
        self.rotary = Rotary(dim)

    def attend_self(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        """Queries and keys carry positions, values do not."""
        q, k = self.self_attn.queries_keys(rotate(x, tables))
        return self.dropout(self.self_attn(q, k, self.self_attn.values(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C), token by token."""
        return self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x)))))

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attend_self(self.norm1(x), tables)
        return x + self.feed_forward(self.norm2(x))


class DecoderLayer(EncoderLayer):
    """An encoder layer with cross-attention to the music in its middle; each sublayer is modulated by the step."""

    def __init__(self, dim: int, heads: int, ff_dim: int, dropout: float):
        super().__init__(dim, heads, ff_dim, dropout)
        self.multihead_attn = Attention(dim, heads, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.film1, self.film2, self.film3 = FiLM(dim), FiLM(dim), FiLM(dim)

    def keys_values(self, memory: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """What cross-attention needs of memory tokens (B, L, C) at the positions of `tables`."""
        return self.multihead_attn.keys(rotate(memory, tables)), self.multihead_attn.values(memory)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        memory: Tensor,
        tables: tuple[Tensor, Tensor],
        memory_tables: tuple[Tensor, Tensor],
        known: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """x (B, T, C); memory: tokens to listen to, after those whose keys and values are already `known`."""
        x = x + self.film1(self.attend_self(self.norm1(x), tables), t)
        k, v = self.keys_values(memory, memory_tables)
        if known is not None:
            k, v = torch.cat((known[0], k), dim=-2), torch.cat((known[1], v), dim=-2)
        q = self.multihead_attn.queries(rotate(self.norm2(x), tables))
        x = x + self.film2(self.dropout(self.multihead_attn(q, k, v)), t)
        return x + self.film3(self.feed_forward(self.norm3(x)), t)


@dataclass(frozen=True)
class Condition:
    """What the network needs of the music, for a batch of B."""

    tokens: Tensor  # (B, L, C) after the final norm
    hidden: Tensor  # (B, C) added to the step's embedding
    pulse: Tensor | None = None  # (B, L, C) added to the motion tokens of the same times, with `pulse` networks
    known: tuple[tuple[Tensor, Tensor], ...] | None = None  # keys and values of `tokens`, one pair a decoder layer

    def rows(self, index: slice | Tensor) -> "Condition":
        """The same for some rows of the batch."""
        known = None if self.known is None else tuple((k[index], v[index]) for k, v in self.known)
        pulse = None if self.pulse is None else self.pulse[index]
        return Condition(self.tokens[index], self.hidden[index], pulse, known)


class DanceDecoder(nn.Module):
    """x0 of a noisy motion, heard through music (EDGE sec. 3, fig. 2).

    values: values of a motion frame; music_dim: D; dim: C; heads of at least 32 values are what CPUs are fast at.
    """

    def __init__(
        self,
        music_dim: int,
        values: int = 151,
        dim: int = 512,
        ff_dim: int = 1024,
        layers: int = 8,
        heads: int = 8,
        dropout: float = 0.1,
        max_frames: int = MAX_FRAMES,
        pulse: int = 0,
    ):
        """pulse: how many of the music's last values also go to the motion token of the same time (EDGE has none)."""
        super().__init__()
        self.pulse = pulse
        # names and order of the attributes are the public checkpoint's
        self.null_cond_embed = nn.Parameter(torch.randn(1, max_frames, dim))
        self.null_cond_hidden = nn.Parameter(torch.randn(1, dim))
        self.rotary = Rotary(dim)
        self.time_mlp = nn.Sequential(TimeEmbedding(dim), nn.Linear(dim, 4 * dim), nn.Mish())
        self.to_time_cond = nn.Sequential(nn.Linear(4 * dim, dim))
        self.to_time_tokens = nn.Sequential(nn.Linear(4 * dim, 2 * dim), nn.Unflatten(1, (2, dim)))
        self.norm_cond = nn.LayerNorm(dim)
        self.input_projection = nn.Linear(values, dim)
        self.cond_encoder = nn.ModuleList(EncoderLayer(dim, heads, ff_dim, dropout) for _ in range(2))
        self.cond_projection = nn.Linear(music_dim, dim)
        self.non_attn_cond_projection = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim)
        )
        stack = nn.ModuleList(DecoderLayer(dim, heads, ff_dim, dropout) for _ in range(layers))
        self.seqTransDecoder = nn.ModuleDict({"stack": stack})
        self.final_layer = nn.Linear(dim, values)
        if pulse:
            self.pulse_projection = nn.Linear(pulse, dim, bias=False)

    def condition(self, music: Tensor, keep: Tensor | None = None, remember: bool = False) -> Condition:
        """Listen: music (B, L, D) -> Condition. Depends on neither step nor motion.

        keep: (B,) bool, False replaces a row's music by the learned null condition (None keeps all). remember: also
        compute every layer's keys and values, which pays when the condition serves more than one step.
        """
        length, longest = music.shape[1], self.null_cond_embed.shape[1]
        if length > longest:
            raise ValueError(f"{length} music tokens in one window; this network was made for at most {longest}")
        tables = self.rotary(0, length)
        tokens = self.cond_projection(music)
        for layer in self.cond_encoder:
            tokens = layer(tokens, tables)
        # EDGE pools *after* the swap, and then swaps the pooled vector too: a dropped row is all null
        hidden = self.non_attn_cond_projection(tokens.mean(dim=1))
        if keep is not None:
            tokens = torch.where(keep[:, None, None], tokens, self.null_cond_embed[:, :length].to(tokens.dtype))
            hidden = torch.where(keep[:, None], hidden, self.null_cond_hidden.to(hidden.dtype))
        pulse = self.pulse_projection(music[..., -self.pulse :]) if self.pulse else None
        if keep is not None and pulse is not None:
            pulse = pulse * keep[:, None, None]
        tokens = self.norm_cond(tokens)
        known = tuple(layer.keys_values(tokens, tables) for layer in self.stack) if remember else None
        return Condition(tokens, hidden, pulse, known)

    def guided_condition(self, music: Tensor) -> Condition:
        """Condition of 2B rows for `ClassifierFreeGuidance`: B that hear the music, then B that hear nothing."""
        keep = torch.arange(2 * len(music), device=music.device) < len(music)
        return self.condition(music.repeat(2, 1, 1), keep, remember=True)

    @property
    def stack(self) -> nn.ModuleList:
        """The decoder layers."""
        return self.seqTransDecoder["stack"]

    def forward(self, x: Tensor, music: Tensor | Condition, t: Tensor, keep: Tensor | None = None) -> Tensor:
        """x (B, T, values) noised to step t (B,) -> x0 (B, T, values).

        music: features (B, L, D), with `keep` as in `condition` (training: one pass), or a Condition (sampling).
        """
        heard = music if isinstance(music, Condition) else self.condition(music, keep)
        length = heard.tokens.shape[1]
        step = self.time_mlp(t)
        shared = self.to_time_cond(step) + heard.hidden
        # norm_cond works token by token, so the two tokens of the step join the music's after it
        memory, tables = self.norm_cond(self.to_time_tokens(step)), self.rotary(length, length + 2)
        if heard.known is None:
            memory, tables = torch.cat((heard.tokens, memory), dim=1), self.rotary(0, length + 2)
        positions = self.rotary(0, x.shape[1])
        x = self.input_projection(x)
        if heard.pulse is not None:
            x = x + heard.pulse
        for i, layer in enumerate(self.stack):
            x = layer(x, shared, memory, positions, tables, heard.known[i] if heard.known else None)
        return self.final_layer(x)
