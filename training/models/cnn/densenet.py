"""DenseNet (Huang et al. 2017): each layer sees the maps of all layers before it in its stage, and adds a few of its own.

Norm and activation come before each convolution. Between stages, a 1x1 convolution brings the channels down to those the next
stage begins with, and average pooling halves the size. With `bottleneck`, a 1x1 convolution to four times the growth comes
before each 3x3 (DenseNet-B).
"""

from __future__ import annotations

import torch
from torch import nn

from training.models.cnn.parts import GlobalAverage, Maps, Parts


class Dense(nn.Module):
    """One layer: [N, C, ...] -> [N, C + growth, ...]."""

    def __init__(self, parts: Parts, channels: int) -> None:
        super().__init__()
        growth, narrow = parts.config.growth, 4 * parts.config.growth
        if parts.config.bottleneck:
            self.layer = nn.Sequential(
                parts.norm_activate(channels),
                parts.convolve(channels, narrow, 1),
                parts.norm_activate(narrow),
                parts.convolve(narrow, growth, 3),
            )
        else:
            self.layer = nn.Sequential(parts.norm_activate(channels), parts.convolve(channels, growth, 3))

    def forward(self, maps: Maps) -> Maps:
        return Maps(torch.cat([maps.values, self.layer(maps).values], dim=1), maps.mask)


def densenet(parts: Parts, channels: int) -> tuple[nn.Module, int]:
    """Maps to features [N, channels of the last stage and all that it added]."""
    first, *later = parts.config.widths
    layers: list[nn.Module] = [parts.convolve(channels, first, 3)]
    channels = first
    for out in (None, *later):
        if out is not None:
            layers += [parts.norm_activate(channels), parts.convolve(channels, out, 1), parts.pool("average")]
            channels = out
        for _ in range(parts.config.depth):
            layers.append(Dense(parts, channels))
            channels += parts.config.growth
    return nn.Sequential(*layers, parts.norm_activate(channels), GlobalAverage()), channels
