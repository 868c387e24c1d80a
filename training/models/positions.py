"""How a Transformer tells positions apart: codes added to its input, or a rotation of queries and keys."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sinusoids(length: int, dim: int) -> Tensor:
    """Position codes [length, dim]: sines and cosines of falling frequency (Vaswani et al. 2017, section 3.5)."""
    position = torch.arange(length).unsqueeze(1)
    frequency = torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    codes = torch.zeros(length, dim)
    codes[:, 0::2] = torch.sin(position * frequency)
    codes[:, 1::2] = torch.cos(position * frequency)[:, : dim // 2]
    return codes


class Sinusoidal(nn.Module):
    """Adds sinusoids, which need no training: [N, T, D] -> [N, T, D] for T up to `length`."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("codes", sinusoids(length, dim), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.codes[: x.shape[1]]


class Learned(nn.Module):
    """Adds a trained vector per position, small at first: [N, T, D] -> [N, T, D] for T up to `length`."""

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        self.codes = nn.Parameter(torch.randn(length, dim) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.codes[: x.shape[1]]


class Rotary(nn.Module):
    """Turns each head's features by angles that grow with the position: [N, heads, T, D] -> the same, T up to `length`, D even.

    Feature i turns together with feature i + D/2, by position / 10,000^(2i/D). The product of a query and a key turned so
    depends on their distance alone (Su et al. 2021, section 3.2).
    """

    def __init__(self, length: int, dim: int) -> None:
        super().__init__()
        angle = torch.arange(length).unsqueeze(1) * torch.exp(torch.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
        self.register_buffer("cos", angle.cos(), persistent=False)  # [length, D/2]
        self.register_buffer("sin", angle.sin(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        cos, sin = self.cos[: x.shape[2]], self.sin[: x.shape[2]]
        first, second = x.chunk(2, dim=3)
        return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=3)
