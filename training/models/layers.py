"""Parts that several families share."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.data.dataset import Standardized


class Standardize(nn.Module):
    """(x - mean) / scale along one axis, inside the network, so that callers always send raw numbers.

    `axis` counts from the end of the input's shape: -1 for columns, -3 for the channels of [N, C, H, W].
    """

    def __init__(self, kind: Standardized, axis: int = -1) -> None:
        super().__init__()
        shape = (len(kind.mean),) + (1,) * (-axis - 1)
        self.register_buffer("mean", torch.tensor(kind.mean).reshape(shape))
        self.register_buffer("scale", torch.tensor(kind.scale).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


def last_real(x: Tensor, mask: Tensor) -> Tensor:
    """The features of each row's last real position: x [N, T, D], mask [N, T] with the padding at the end, gives [N, D]."""
    last = mask.sum(dim=1, keepdim=True) - 1  # [N, 1]
    return x.gather(1, last.unsqueeze(2).expand(-1, -1, x.shape[2])).squeeze(1)


def sinusoids(length: int, dim: int) -> Tensor:
    """Position codes [length, dim]: sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    codes = torch.zeros(length, dim)
    codes[:, 0::2] = torch.sin(position * frequency)
    codes[:, 1::2] = torch.cos(position * frequency)[:, : dim // 2]
    return codes
