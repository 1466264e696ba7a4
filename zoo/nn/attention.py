"""Multi-head attention with the parameter names of `nn.MultiheadAttention`, its projections callable one by one.

Splitting the projections lets a caller compute keys and values once a request and queries once a step.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn


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
        dropout = self.dropout if self.training else 0.0
        if q.device.type == "cpu":
            # bf16 attention is slower than float32's on CPUs, 2.5 times backwards; the projections stay in bf16
            with torch.autocast("cpu", enabled=False):
                y = F.scaled_dot_product_attention(q.float(), k.float(), v.float(), dropout_p=dropout)
        else:
            y = F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)
        return self.out_proj(rearrange(y, "b h t d -> b t (h d)"))
