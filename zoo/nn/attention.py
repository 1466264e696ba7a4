"""Multi-head attention with its projections callable one by one: keys and values once a request, queries once a step.

Two of them, for the two ways that published weights name and hold their projections.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

KeysValues = tuple[Tensor, Tensor]  # (B, heads, S, dim / heads) each
FEW = 64  # tokens attended to, up to which float32 is the faster on CPUs


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """Scaled dot product of (B, heads, T, d) queries with (B, heads, S, d) keys, of values -> (B, T, heads d)."""
    if q.device.type == "cpu" and (torch.is_grad_enabled() or k.shape[2] < FEW):
        # bf16 attention is slower than float32's on CPUs, 2.5 times backwards; the projections stay in bf16. Not so
        # without gradients, where it takes half as long, but for a few tokens
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
        """Parts first .. first + count - 1 of (query, key, value): each (B, heads, T, dim / heads)."""
        dim = self.out_proj.in_features
        rows = slice(first * dim, (first + count) * dim)
        y = F.linear(x, self.in_proj_weight[rows], self.in_proj_bias[rows])
        return rearrange(y, "b t (n h d) -> n b h t d", n=count, h=self.heads).unbind(0)

    def queries(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return self._project(x, 0, 1)[0]

    def queries_keys(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both from the same tokens, in one product."""
        return self._project(x, 0, 2)

    def keys(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return self._project(x, 1, 1)[0]

    def values(self, x: Tensor) -> Tensor:
        """(B, T, dim) -> (B, heads, T, dim / heads)."""
        return self._project(x, 2, 1)[0]

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend with projected (B, heads, T, d) queries to (B, heads, S, d) keys and values -> (B, T, dim)."""
        return self.out_proj(attend(q, k, v, self.dropout if self.training else 0.0))


class CrossAttention(nn.Module):
    """Attention of (B, T, dim) to a context (B, S, context_dim), or to itself; diffusers' parameter names.

    to_q, to_k, to_v without bias, to_out.0 with one, as in Stable Diffusion and AnimateDiff.
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

    def _by_heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b t (h d) -> b h t d", h=self.heads)

    def keys_values(self, context: Tensor) -> KeysValues:
        """(B, S, context_dim) -> keys and values"""
        return self._by_heads(self.to_k(context)), self._by_heads(self.to_v(context))

    def forward(self, x: Tensor, known: KeysValues) -> Tensor:
        """x (B, T, dim) attends to known keys and values -> (B, T, dim)"""
        keys, values = known
        alone = keys.shape[2] == 1  # there is nothing to choose: everybody gets the one value
        y = rearrange(values, "b h t d -> b t (h d)") if alone else attend(self._by_heads(self.to_q(x)), keys, values)
        return self.to_out[1](self.to_out[0](y).expand(-1, x.shape[1], -1))
