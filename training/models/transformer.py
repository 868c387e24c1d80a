"""Transformer encoder (Vaswani et al. 2017) over token sequences of any length.

- pre-norm blocks: attention and a GELU feed-forward layer, each added to a residual stream
- sinusoidal positions, which need no training
- every position attends to every real position; padding is masked out of the attention, so it cannot change an answer
- the answer is read at each row's last real position
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from modelrepo.tasks import Task
from modelrepo.tensors import Bounds, ShapeRange, TensorSpec
from training.data.dataset import Tokens
from training.models.base import Model
from training.models.layers import last_real, sinusoids


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Shape of a Transformer encoder."""

    dim: int = 64
    """Width of the residual stream."""
    layers: int = 2
    """Encoder blocks."""
    heads: int = 4
    """Attention heads; must divide the width."""
    feedforward: int = 128
    """Width inside the feed-forward layer."""
    dropout: float = 0.0
    """Share of activations zeroed in training, where each branch joins the stream."""

    def __post_init__(self) -> None:
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.heads} does not divide {self.dim}")


class Attention(nn.Module):
    """Multi-head self-attention: [N, T, D] -> [N, T, D], looking only at positions where `mask` [N, T] is true."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.project = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        n, t, d = x.shape
        q, k, v = self.qkv(x).view(n, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)  # each [N, H, T, D/H]
        y = scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])  # [N, H, T, D/H]
        return self.project(y.transpose(1, 2).reshape(n, t, d))


class Block(nn.Module):
    """One encoder block: [N, T, D] -> [N, T, D]."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention = Attention(config.dim, config.heads)
        self.norm2 = nn.LayerNorm(config.dim)
        self.feedforward = nn.Sequential(
            nn.Linear(config.dim, config.feedforward), nn.GELU(), nn.Linear(config.feedforward, config.dim)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        return x + self.dropout(self.feedforward(self.norm2(x)))


class Transformer(Model):
    """tokens [N, T] and mask [N, T] -> [N, outputs]."""

    family = "transformer"
    kind = Tokens

    def __init__(self, config: TransformerConfig, data: Tokens, task: Task) -> None:
        super().__init__(task)
        self.data = data
        self.embed = nn.Embedding(data.vocabulary, config.dim)
        self.register_buffer("positions", sinusoids(data.length.max, config.dim), persistent=False)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, task.outputs)

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        length, bounds = self.data.length, Bounds(min=0, max=self.data.vocabulary - 1)
        return (
            TensorSpec(name="tokens", dtype="int64", shape=(batch, length), bounds=bounds, description=self.data.description),
            TensorSpec(name="mask", dtype="bool", shape=(batch, length), role="mask", description="true where a token is real"),
        )

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        x = self.embed(tokens) + self.positions[: tokens.shape[1]]  # [N, T, D]
        for block in self.blocks:
            x = block(x, mask)
        return self.head(last_real(self.norm(x), mask))  # [N, D] -> [N, outputs]
