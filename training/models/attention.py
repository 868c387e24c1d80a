"""Multi-head self-attention (Vaswani et al. 2017, section 3.2)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention


class Attention(nn.Module):
    """[N, T, D] -> [N, T, D], each position looking at those where `mask` [N, T] is true; without a mask, at all.

    A causal one looks only at positions up to its own. `rotate` is applied to queries and keys, [N, heads, T, D/heads].
    """

    def __init__(self, dim: int, heads: int, *, causal: bool = False, rotate: nn.Module | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.rotate = rotate or nn.Identity()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        q, k, v = self._split(x)
        if self.causal:  # padding comes after all that is real, which therefore never looks at it
            y = scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            y = scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None, None, :])
        return self.project(y.transpose(1, 2).flatten(2))  # [N, H, T, D/H] -> [N, T, H, D/H] -> [N, T, D]

    def weights(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """softmax(Q K^T / sqrt(D/heads)), which `forward` never holds: [N, heads, T, T], each row summing to 1.

        Row i says where position i looks; rows of padding mean nothing.
        """
        q, k, _ = self._split(x)
        scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])  # [N, H, T, T]
        if self.causal:
            ahead = torch.ones(scores.shape[2:], dtype=torch.bool, device=x.device).triu(diagonal=1)
            scores = scores.masked_fill(ahead, -torch.inf)
        elif mask is not None:
            scores = scores.masked_fill(~mask[:, None, None, :], -torch.inf)
        return scores.softmax(dim=3)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each [N, H, T, D/H]."""
        q, k, v = (each.unflatten(2, (self.heads, -1)).transpose(1, 2) for each in self.qkv(x).chunk(3, dim=2))
        return self.rotate(q), self.rotate(k), v
