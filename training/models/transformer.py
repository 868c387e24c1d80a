"""Transformer encoder (Vaswani et al. 2017) over tokens, numeric sequences of any length, or the patches of a picture.

- tokens are embedded; numbers are standardised by the network itself and mapped linearly, per step or, as in the Vision
  Transformer (Dosovitskiy et al. 2021), per square patch of pixels
- blocks of attention and a feed-forward layer, each added to a residual stream; norms lie on the branches (pre-norm, Xiong
  et al. 2020) or on the stream (post-norm, as first published)
- every position looks at every real position or, causal, at those before it; padding is on the right and masked out, so it
  cannot change an answer
- one vector per row, pooled under the mask, gives the answer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange, TensorSpec
from training.data.dataset import DataError, Images, Series, Tokens
from training.models import checks
from training.models.attention import Attention
from training.models.base import Model
from training.models.layers import Activation, Head, Init, Standardize, activation, initialise, norm
from training.models.positions import Learned, Rotary, Sinusoidal
from training.models.sequences import Embedding, pool, sequence_inputs

Norm = Literal["layer", "rms", "none"]  # statistics over a batch would mix padding with what is real
Positions = Literal["sinusoidal", "learned", "rotary"]
Pooling = Literal["last", "mean", "cls"]


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
    """Share of activations zeroed in training: of the embedding, where each branch joins the stream, and before the answer."""
    embedding_std: float | None = None
    """Standard deviation of token vectors at the start. None draws them with 1 / sqrt(dim) and multiplies them by sqrt(dim), which
    fits beside position codes; small ones, say 0.01, start near a bag of words, which suits few texts and rotary positions."""
    activation: Activation = "gelu"
    """Inside the feed-forward layer."""
    norm: Norm = "layer"
    """Normalisation of each position; none suits a block or two."""
    norm_first: bool = True
    """Pre-norm: normalise what enters a branch; otherwise post-norm, the sum that leaves it, which wants a longer warm-up."""
    positions: Positions = "sinusoidal"
    """Codes added to the input, fixed or learned, or queries and keys turned by their position."""
    causal: bool = False
    """Look only at what came before."""
    pooling: Pooling = "last"
    """What is answered from: the last position, the mean of all, or a learned vector put in front."""
    patch: int = 4
    """For pictures: height and width of a patch in pixels."""
    init: Init = "auto"
    """How the weights of linear layers are drawn: auto is xavier."""

    def __post_init__(self) -> None:
        checks.one_of("activation", self.activation, Activation)
        checks.one_of("norm", self.norm, Norm)
        checks.one_of("positions", self.positions, Positions)
        checks.one_of("pooling", self.pooling, Pooling)
        checks.one_of("init", self.init, Init)
        checks.share("dropout", self.dropout)
        if self.embedding_std is not None and not self.embedding_std > 0:
            raise ValueError(f"embedding_std must be above 0, not {self.embedding_std}")
        for field in ("dim", "layers", "heads", "feedforward", "patch"):
            checks.at_least(field, getattr(self, field), 1)
        if self.dim % self.heads:
            raise ValueError(f"heads must divide dim: {self.heads} does not divide {self.dim}")
        if self.positions == "rotary" and self.dim // self.heads % 2:
            raise ValueError(
                f"rotary positions need an even number of features per head, dim / heads, not {self.dim // self.heads}"
            )
        if self.causal and self.pooling == "cls":
            raise ValueError("under causal attention the vector in front (pooling cls) sees nothing: use pooling last or mean")


class Block(nn.Module):
    """One encoder block: [N, T, D] -> [N, T, D]."""

    def __init__(self, config: TransformerConfig, rotate: nn.Module | None) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.norm1 = norm(config.norm, config.dim)
        self.attention = Attention(config.dim, config.heads, causal=config.causal, rotate=rotate)
        self.norm2 = norm(config.norm, config.dim)
        self.feedforward = nn.Sequential(
            nn.Linear(config.dim, config.feedforward),
            activation(config.activation),
            nn.Linear(config.feedforward, config.dim),
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.norm_first:
            x = x + self.dropout(self.attention(self.norm1(x), mask))
            return x + self.dropout(self.feedforward(self.norm2(x)))
        x = self.norm1(x + self.dropout(self.attention(x, mask)))
        return self.norm2(x + self.dropout(self.feedforward(x)))

    def attention_weights(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Where each position of this block's input looks: [N, heads, T, T]."""
        return self.attention.weights(self.norm1(x) if self.norm_first else x, mask)


class Patches(nn.Module):
    """Raw pixels [N, C, H, W] to a sequence of patch vectors [N, H/patch * W/patch, D], row by row."""

    def __init__(self, data: Images, dim: int, patch: int) -> None:
        super().__init__()
        if data.height % patch or data.width % patch:
            raise DataError(
                f"pictures of {data.height}x{data.width} pixels do not divide into patches of {patch}x{patch}: "
                "set --model.patch to a number that divides both"
            )
        self.count = (data.height // patch) * (data.width // patch)
        self.standardize = Standardize(data, axis=-3)
        self.project = nn.Conv2d(len(data.mean), dim, patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        return self.project(self.standardize(image)).flatten(2).transpose(1, 2)  # [N, D, h, w] -> [N, D, h * w] -> [N, h * w, D]


class Transformer(Model):
    """tokens [N, T] or sequence [N, T, C] with mask [N, T], or image [N, C, H, W] -> [N, outputs]."""

    family = "transformer"
    kinds = (Tokens, Series, Images)

    def __init__(self, config: TransformerConfig, data: Tokens | Series | Images, task: Task) -> None:
        super().__init__(task)
        self.config = config
        self.data = data
        match data:
            case Tokens():
                self.embed = Embedding(data.vocabulary, config.dim, config.embedding_std)
                length = data.length.max
            case Series():
                self.embed = nn.Sequential(Standardize(data), nn.Linear(len(data.mean), config.dim))
                length = data.length.max
            case Images():
                self.embed = Patches(data, config.dim, config.patch)
                length = self.embed.count
        self.front = None
        if config.pooling == "cls":
            self.front = nn.Parameter(torch.randn(config.dim) * 0.02)
            length += 1
        rotate = None
        self.positions: nn.Module = nn.Identity()
        match config.positions:
            case "sinusoidal":
                self.positions = Sinusoidal(length, config.dim)
            case "learned":
                self.positions = Learned(length, config.dim)
            case "rotary":
                rotate = Rotary(length, config.dim // config.heads)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config, rotate) for _ in range(config.layers))
        self.norm = norm(config.norm, config.dim) if config.norm_first else nn.Identity()
        self.head = Head(config.dim, task, config.dropout)
        initialise(self, "xavier" if config.init == "auto" else config.init, config.activation)

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        if isinstance(self.data, Images):
            shape = (batch, len(self.data.mean), self.data.height, self.data.width)
            return (TensorSpec(name="image", dtype="float32", shape=shape, description="raw pixels, channels first"),)
        return sequence_inputs(self.data, batch)

    def forward(
        self,
        *,
        tokens: Tensor | None = None,
        sequence: Tensor | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        x, mask = self._embedded(tokens, sequence, image, mask)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self._pooled(self.norm(x), mask))  # [N, D] -> [N, outputs]

    def attention_weights(self, **inputs: Tensor) -> list[Tensor]:
        """Where each position looks, one [N, heads, T, T] per block; with pooling cls, the vector in front is position 0.

        Takes the inputs of `forward`, at the cost of one more attention per block. Rows of padding mean nothing.
        """
        x, mask = self._embedded(**inputs)
        weights = []
        for block in self.blocks:
            weights.append(block.attention_weights(x, mask))
            x = block(x, mask)
        return weights

    def _embedded(
        self,
        tokens: Tensor | None = None,
        sequence: Tensor | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The stream as it enters the first block [N, T, D], and its mask [N, T], None for pictures."""
        x = self.embed(next(given for given in (tokens, sequence, image) if given is not None))  # [N, T, D]
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(2), 0)  # whatever lies in the padding
        if self.front is not None:  # in front, so that padding stays on the right
            x = torch.cat([self.front.expand(x.shape[0], 1, -1), x], dim=1)  # [N, 1 + T, D]
            mask = None if mask is None else torch.cat([torch.ones_like(mask[:, :1]), mask], dim=1)
        return self.dropout(self.positions(x)), mask

    def _pooled(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """One vector per row: [N, T, D] -> [N, D]."""
        if self.config.pooling == "cls":
            return x[:, 0]
        if mask is None:
            return x[:, -1] if self.config.pooling == "last" else x.mean(dim=1)
        return pool(x, mask, self.config.pooling)
