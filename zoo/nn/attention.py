"""Multi-head attention with separate projections: keys and values once a request, queries once a step.

There are two classes, for the two layouts of the projections in published weights.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # (B, heads, S, dim / heads) each
MIN_BF16_TOKENS = 64  # keys; with fewer, float32 attention is faster on CPUs


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Scaled dot-product attention: q (B, heads, T, d), k and v (B, heads, S, d) -> (B, T, heads d)."""
    if q.device.type == "cpu" and (torch.is_grad_enabled() or k.shape[2] < MIN_BF16_TOKENS):
        # On CPUs bf16 attention is slower than float32, 2.5 times in the backward pass; the projections stay in bf16.
        # Without gradients and with enough keys bf16 takes half the time.
        with torch.autocast("cpu", enabled=False):
            y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), dropout_p=dropout)
    else:
        y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), dropout_p=dropout)
    return rearrange(y, "b h t d -> b t (h d)")


class Attention(nn.Module):
    """Scaled dot-product attention over (B, T, dim) with `heads` heads of dim / heads values.

    The state dict is that of `nn.MultiheadAttention(dim, heads)`: in_proj_weight, in_proj_bias, out_proj.*, so that
    published weights load unchanged.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention: dim {dim} is not a multiple of heads {heads}")
        self.heads, self.dropout = heads, dropout
        self.in_proj_weight = nn.Parameter(torch.empty(3 * dim, dim))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * dim))
        self.out_proj = nn.Linear(dim, dim)
        nn.init.xavier_uniform_(self.in_proj_weight)
        nn.init.zeros_(self.out_proj.bias)

    def _project(self, x: Tensor, first: int, count: int) -> tuple[Tensor, ...]:
        """Project to entries first .. first + count - 1 of (query, key, value): each (B, heads, T, dim / heads)."""
        dim = self.out_proj.in_features
        rows = slice(first * dim, (first + count) * dim)
        y = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return rearrange(y, "b t (n h d) -> n b h t d", n=count, h=self.heads).unbind(0)

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return self._project(x, 0, 1)[0]

    def queries_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project the same tokens to queries and keys in one product."""
        return self._project(x, 0, 2)

    def keys(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return self._project(x, 1, 1)[0]

    def values(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return self._project(x, 2, 1)[0]

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with projected queries (B, heads, T, d) to keys and values (B, heads, S, d) -> (B, T, dim)."""
        return self.out_proj(attend(q, k, v, self.dropout if self.training else 0.0))


class CrossAttention(nn.Module):
    """Attention of (B, T, dim) to a context (B, S, context_dim), or to itself, with diffusers' parameter names.

    to_q, to_k and to_v have no bias, to_out.0 has one, as in Stable Diffusion and AnimateDiff.
    """

    def __init__(self, dim: int, heads: int, context_dim: int | None = None, dropout: float = 0.0):
        super().__init__()
        if dim % heads:
            raise ValueError(f"attention: dim {dim} is not a multiple of heads {heads}")
        self.heads, context_dim = heads, context_dim or dim
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(context_dim, dim, bias=False)
        self.to_v = nn.Linear(context_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Dropout(dropout)])

    def _split_heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (h d) -> b h t d", h=self.heads)

    def keys_values(self, context: Tensor) -> KeysValues:
        """Project a context (B, S, context_dim) to keys and values."""
        return self._split_heads(self.to_k(context)), self._split_heads(self.to_v(context))

    def forward(self, x: Tensor, kv: KeysValues) -> Tensor:
        """Attend from x (B, T, dim) to keys and values of `keys_values` -> (B, T, dim)."""
        keys, values = kv
        if keys.shape[2] == 1:  # softmax over one key is 1: every query gets the only value
            y = rearrange(values, "b h t d -> b t (h d)")
        else:
            y = attend(self._split_heads(self.to_q(x)), keys, values)
        return self.to_out[1](self.to_out[0](y).expand(-1, x.shape[1], -1))
