"""What families that read sequences share: their inputs, reversal, and one vector for a whole row, all under the mask."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from modelrepo.tensors import Bounds, ShapeRange, TensorSpec
from training.data.dataset import Series, Tokens

Pooling = Literal["last", "mean", "max"]


def sequence_inputs(kind: Series | Tokens, batch: ShapeRange) -> tuple[TensorSpec, TensorSpec]:
    """The specs of a sequence and of its mask."""
    if isinstance(kind, Tokens):
        bounds = Bounds(min=0, max=kind.vocabulary - 1)
        value = TensorSpec(name="tokens", dtype="int64", shape=(batch, kind.length), bounds=bounds, description=kind.description)
        real = "true where a token is real"
    else:
        value = TensorSpec(name="sequence", dtype="float32", shape=(batch, kind.length, len(kind.mean)), description="raw steps")
        real = "true where a step is real"
    return value, TensorSpec(name="mask", dtype="bool", shape=(batch, kind.length), role="mask", description=real)


class Embedding(nn.Embedding):
    """A trained vector per token, [N, T] int64 -> [N, T, D].

    Drawn with variance 1/D and multiplied by sqrt(D) (Vaswani et al. 2017, section 3.4): of order 1, as position codes are, and
    yet a step of Adam takes it far. With `std` drawn with that, and taken as it is.
    """

    def __init__(self, vocabulary: int, dim: int, std: float | None = None) -> None:
        super().__init__(vocabulary, dim)
        nn.init.normal_(self.weight, std=dim**-0.5 if std is None else std)
        self.scale = math.sqrt(dim) if std is None else 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens) * self.scale


def last_real(x: Tensor, mask: Tensor) -> Tensor:
    """The features of each row's last real position: x [N, T, D], mask [N, T] with the padding at the end, gives [N, D]."""
    last = mask.sum(dim=1, keepdim=True) - 1  # [N, 1]
    return x.gather(1, last.unsqueeze(2).expand(-1, -1, x.shape[2])).squeeze(1)


def pool(x: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """Last, mean or maximum over each row's real positions: x [N, T, D], mask [N, T] with the padding at the end, gives [N, D]."""
    padding = ~mask.unsqueeze(2)  # [N, T, 1]
    match pooling:
        case "last":
            return last_real(x, mask)
        case "mean":
            return x.masked_fill(padding, 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
        case "max":
            return x.masked_fill(padding, -torch.inf).amax(dim=1)


def reverse(x: Tensor, mask: Tensor) -> Tensor:
    """The real positions of each row in the opposite order, the padding left where it is: x [N, T, D], mask [N, T]."""
    # The length is read off the mask: the exporter loses sight of that of a recurrence's states (torch 2.13).
    position = torch.arange(mask.shape[1], device=mask.device)  # [T]
    mirrored = mask.sum(dim=1, keepdim=True) - 1 - position  # [N, T], negative in the padding
    index = torch.where(mask, mirrored, position)
    return x.gather(1, index.unsqueeze(2).expand(-1, -1, x.shape[2]))
