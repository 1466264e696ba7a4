"""EDGE's network: a FiLM-conditioned transformer decoder that denoises body motion, with cross-attention to music.

The state dict has the keys and shapes of the public `DanceDecoder`, whose checkpoints load strictly. Unlike the public
code, it can compute everything that depends on the music alone once per request (`condition`), not once per step.

Shape letters: B batch, T motion frames, L music tokens, D values of a music token, C `dim`.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn.attention import Attention
from zoo.nn.rotary import Rotary, rotate

MAX_FRAMES = 150  # EDGE sec. 4: 5 s at 30 Hz, one learned null token per frame


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
    """Feature-wise linear modulation: x -> (1 + scale) x + shift, both projected from the timestep embedding (B, C)."""

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
        """Queries and keys carry positions, values do not. As in EDGE, `rotate` stands before the projections."""
        q, k = self.self_attn.queries_keys(rotate(x, tables))
        return self.dropout(self.self_attn(q, k, self.self_attn.values(x)))

    def feed_forward(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, C), token by token."""
        return self.dropout(self.linear2(self.dropout(F.gelu(self.linear1(x)))))

    def forward(self, x: Tensor, tables: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attend_self(self.norm1(x), tables)
        return x + self.feed_forward(self.norm2(x))


class DecoderLayer(EncoderLayer):
    """An encoder layer with cross-attention to music in its middle. The timestep modulates each sublayer by FiLM."""

    def __init__(self, dim: int, heads: int, ff_dim: int, dropout: float):
        super().__init__(dim, heads, ff_dim, dropout)
        self.multihead_attn = Attention(dim, heads, dropout)
        self.norm3 = nn.LayerNorm(dim)
        self.film1, self.film2, self.film3 = FiLM(dim), FiLM(dim), FiLM(dim)

    def keys_values(self, memory: Tensor, tables: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of memory tokens (B, L, C) at the positions of `tables`."""
        return self.multihead_attn.keys(rotate(memory, tables)), self.multihead_attn.values(memory)

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        memory: Tensor,
        tables: tuple[Tensor, Tensor],
        memory_tables: tuple[Tensor, Tensor],
        cached_kv: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """x (B, T, C); memory: tokens to attend to, after those of the precomputed keys and values `cached_kv`."""
        x = x + self.film1(self.attend_self(self.norm1(x), tables), t)
        k, v = self.keys_values(memory, memory_tables)
        if cached_kv is not None:
            k, v = torch.cat((cached_kv[0], k), dim=-2), torch.cat((cached_kv[1], v), dim=-2)
        q = self.multihead_attn.queries(rotate(self.norm2(x), tables))
        x = x + self.film2(self.dropout(self.multihead_attn(q, k, v)), t)
        return x + self.film3(self.feed_forward(self.norm3(x)), t)


@dataclass(frozen=True)
class MusicConditioning:
    """The music as the network needs it, precomputed for a batch of B."""

    tokens: Tensor  # (B, L, C) after the final norm
    hidden: Tensor  # (B, C) added to the timestep embedding
    beat_phase_embedding: Tensor | None = None  # (B, L, C) added to the motion tokens of the same times
    kv: tuple[tuple[Tensor, Tensor], ...] | None = None  # keys and values of `tokens`, one pair per decoder layer

    def rows(self, index: slice | Tensor) -> "MusicConditioning":
        """Some rows of the batch."""
        kv = None if self.kv is None else tuple((k[index], v[index]) for k, v in self.kv)
        beat_phase_embedding = None if self.beat_phase_embedding is None else self.beat_phase_embedding[index]
        return MusicConditioning(self.tokens[index], self.hidden[index], beat_phase_embedding, kv)


class DanceDecoder(nn.Module):
    """Predicts x0 of a noisy motion, conditioned on music (EDGE sec. 3, fig. 2)."""

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
        beat_phase_dim: int = 0,
    ):
        """music_dim: D; values: of a motion frame; dim: C; heads: CPUs are fast at 32 values per head and more.

        beat_phase_dim: number of the music's last values that are also added to the motion token of the same time (not
        in EDGE).
        """
        super().__init__()
        self.beat_phase_dim = beat_phase_dim
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
        if beat_phase_dim:
            self.pulse_projection = nn.Linear(beat_phase_dim, dim, bias=False)

    def condition(self, music: Tensor, keep: Tensor | None = None, precompute_kv: bool = False) -> MusicConditioning:
        """Encode music (B, L, D). The result depends on neither timestep nor motion.

        keep: (B,) bool, False replaces a row's music by the learned null condition (None keeps all). precompute_kv:
        also compute keys and values of every layer, which pays when more than one step uses the result. Raises
        ValueError for too many tokens.
        """
        num_tokens, max_tokens = music.shape[1], self.null_cond_embed.shape[1]
        if num_tokens > max_tokens:
            raise ValueError(f"a window has {num_tokens} music tokens, this network takes at most {max_tokens}")
        tables = self.rotary(0, num_tokens)
        tokens = self.cond_projection(music)
        for layer in self.cond_encoder:
            tokens = layer(tokens, tables)
        # EDGE pools the tokens *before* it replaces dropped ones, and then replaces the pooled vector too
        hidden = self.non_attn_cond_projection(tokens.mean(dim=1))
        if keep is not None:
            tokens = torch.where(keep[:, None, None], tokens, self.null_cond_embed[:, :num_tokens].to(tokens.dtype))
            hidden = torch.where(keep[:, None], hidden, self.null_cond_hidden.to(hidden.dtype))
        beat_phase_embedding = (
            self.pulse_projection(music[..., -self.beat_phase_dim :]) if self.beat_phase_dim else None
        )
        if keep is not None and beat_phase_embedding is not None:
            beat_phase_embedding = beat_phase_embedding * keep[:, None, None]
        tokens = self.norm_cond(tokens)
        kv = tuple(layer.keys_values(tokens, tables) for layer in self.stack) if precompute_kv else None
        return MusicConditioning(tokens, hidden, beat_phase_embedding, kv)

    def guided_condition(self, music: Tensor) -> MusicConditioning:
        """Conditioning of 2B rows for `ClassifierFreeGuidance`: B with the music, then B with the null condition."""
        keep = torch.arange(2 * len(music), device=music.device) < len(music)
        return self.condition(music.repeat(2, 1, 1), keep, precompute_kv=True)

    @property
    def stack(self) -> nn.ModuleList:
        """The decoder layers."""
        return self.seqTransDecoder["stack"]

    def forward(self, x: Tensor, music: Tensor | MusicConditioning, t: Tensor, keep: Tensor | None = None) -> Tensor:
        """Predict x0 (B, T, values) of x (B, T, values), noised to timesteps t (B,).

        music: features (B, L, D), with `keep` as in `condition` (training), or their conditioning (sampling).
        """
        conditioning = music if isinstance(music, MusicConditioning) else self.condition(music, keep)
        num_tokens = conditioning.tokens.shape[1]
        time_embedding = self.time_mlp(t)
        hidden = self.to_time_cond(time_embedding) + conditioning.hidden
        # norm_cond works token by token, so the two tokens of the timestep join the music's after it
        memory = self.norm_cond(self.to_time_tokens(time_embedding))
        memory_tables = self.rotary(num_tokens, num_tokens + 2)
        if conditioning.kv is None:
            memory, memory_tables = torch.cat((conditioning.tokens, memory), dim=1), self.rotary(0, num_tokens + 2)
        positions = self.rotary(0, x.shape[1])
        x = self.input_projection(x)
        if conditioning.beat_phase_embedding is not None:
            x = x + conditioning.beat_phase_embedding
        for i, layer in enumerate(self.stack):
            x = layer(x, hidden, memory, positions, memory_tables, conditioning.kv[i] if conditioning.kv else None)
        return self.final_layer(x)
