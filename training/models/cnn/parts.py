"""What convolutional networks are made of, over pictures (2-D) and over sequences of several lengths (1-D) alike.

Padding may not change an answer, so two things hold throughout: values at padded positions are zero wherever a convolution
or an average reads them, and a row of length T that is halved keeps ceil(T / 2) positions, whatever it is padded to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.models.cnn.config import CNNConfig
from training.models.layers import activation, norm


class Maps(NamedTuple):
    """Feature maps: values [N, C, H, W] without a mask, or [N, C, T] and a mask [N, 1, T] bool, true where a step is real."""

    values: Tensor
    mask: Tensor | None = None

    def filled(self, value: float) -> Tensor:
        """The values, with `value` in the padding."""
        return self.values if self.mask is None else self.values.masked_fill(~self.mask, value)


class Convolve(nn.Module):
    """A convolution of odd width that keeps the size, or halves it, rounding up. Reads zeros in the padding, leaves any value."""

    def __init__(self, convolution: nn.Conv1d | nn.Conv2d) -> None:
        super().__init__()
        self.convolution = convolution

    def forward(self, maps: Maps) -> Maps:
        return Maps(self.convolution(maps.values), shrunk(maps.mask, self.convolution.stride[0]))


class NormActivate(nn.Module):
    """Normalise and activate, and zero the padding."""

    def __init__(self, norm: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.activation = activation

    def forward(self, maps: Maps) -> Maps:
        x, mask = maps
        if mask is not None and self.training and isinstance(self.norm, nn.BatchNorm1d):
            real = mask.squeeze(1)  # [N, T]
            steps = self.norm(x.transpose(1, 2)[real])  # [real steps, C]: padding is no part of mean and variance
            x = torch.zeros_like(x).transpose(1, 2).index_put((real,), steps).transpose(1, 2)  # [N, C, T]
        else:
            x = self.norm(x)
        maps = Maps(self.activation(x), mask)
        return Maps(maps.filled(0.0), mask)


class Pool(nn.Module):
    """Maximum or average over windows of 3: same size with stride 1, half of it, rounded up, with stride 2."""

    def __init__(self, kind: Literal["max", "average"], dims: Literal[1, 2], stride: int = 2) -> None:
        super().__init__()
        self.kind, self.stride = kind, stride
        self.max = (F.max_pool1d, F.max_pool2d)[dims - 1]
        self.average = (F.avg_pool1d, F.avg_pool2d)[dims - 1]

    def forward(self, maps: Maps) -> Maps:
        if self.kind == "average":  # zeros beyond the edge count, as zeros in the padding do
            x = self.average(maps.filled(0.0), 3, self.stride, padding=1)
        else:
            x = self.max(maps.filled(-torch.inf), 3, self.stride, padding=1)
        maps = Maps(x, shrunk(maps.mask, self.stride))
        return Maps(maps.filled(0.0), maps.mask)  # a window may reach from the padding to the last real step


class GlobalAverage(nn.Module):
    """The mean of each map over its real positions: [N, C, ...] -> [N, C] (Lin et al. 2014), so that any size will do."""

    def forward(self, maps: Maps) -> Tensor:
        if maps.mask is None:
            return maps.values.flatten(2).mean(dim=2)
        return maps.filled(0.0).sum(dim=2) / maps.mask.sum(dim=2)


def shrunk(mask: Tensor | None, stride: int) -> Tensor | None:
    """The mask [N, 1, T] of what a convolution or pool of that stride makes of its maps: [N, 1, ceil(T / stride)]."""
    return mask if mask is None or stride == 1 else mask[:, :, ::stride]


@dataclass(frozen=True)
class Parts:
    """Makes the parts in the kind the config asks for; `dims` is 1 for sequences and 2 for pictures."""

    config: CNNConfig
    dims: Literal[1, 2]

    def convolve(self, channels: int, out: int, width: int, stride: int = 1, padding: int | None = None) -> Convolve:
        """A bare convolution, with as much padding as keeps the size where none is given.

        It has a bias unless norms are batch norms, which would subtract it again.
        """
        kind = nn.Conv1d if self.dims == 1 else nn.Conv2d
        padding = width // 2 if padding is None else padding
        return Convolve(kind(channels, out, width, stride, padding, bias=self.config.norm != "batch"))

    def norm_activate(self, channels: int) -> NormActivate:
        """Norm, then activation."""
        return NormActivate(norm(self.config.norm, channels, dims=self.dims), activation(self.config.activation))

    def norm(self, channels: int) -> NormActivate:
        """Norm alone."""
        return NormActivate(norm(self.config.norm, channels, dims=self.dims), nn.Identity())

    def activate(self) -> NormActivate:
        """Activation alone."""
        return NormActivate(nn.Identity(), activation(self.config.activation))

    def unit(self, channels: int, out: int, width: int, stride: int = 1, padding: int | None = None) -> nn.Sequential:
        """Convolution, norm, activation."""
        return nn.Sequential(self.convolve(channels, out, width, stride, padding), self.norm_activate(out))

    def pool(self, kind: Literal["max", "average"], stride: int = 2) -> Pool:
        """A window of 3."""
        return Pool(kind, self.dims, stride)
