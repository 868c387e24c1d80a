"""GoogLeNet (Szegedy et al. 2015): inception blocks, which look at several scales side by side and let the weights choose.

Scaled to small pictures: a 3x3 stem, stages of inception blocks, max pooling between stages; no auxiliary classifiers.
"""

from __future__ import annotations

import torch
from torch import nn

from training.models.cnn.parts import GlobalAverage, Maps, Parts


class Inception(nn.Module):
    """1x1, 3x3 and 5x5 convolutions and max pooling beside one another; 1x1 convolutions keep the wide ones cheap.

    The branches share the channels as in the paper's first block: 1/4, 1/2, 1/8 and 1/8.
    """

    def __init__(self, parts: Parts, channels: int, out: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList(
            [
                parts.unit(channels, out // 4, 1),
                nn.Sequential(parts.unit(channels, out * 3 // 8, 1), parts.unit(out * 3 // 8, out // 2, 3)),
                nn.Sequential(parts.unit(channels, out // 16, 1), parts.unit(out // 16, out // 8, 5)),
                nn.Sequential(parts.pool("max", stride=1), parts.unit(channels, out // 8, 1)),
            ]
        )

    def forward(self, maps: Maps) -> Maps:
        return Maps(torch.cat([branch(maps).values for branch in self.branches], dim=1), maps.mask)


def googlenet(parts: Parts, channels: int) -> tuple[nn.Module, int]:
    """Maps to features [N, channels of the last stage]."""
    first = parts.config.widths[0]
    layers: list[nn.Module] = [parts.unit(channels, first, 3)]
    channels = first
    for stage, out in enumerate(parts.config.widths):
        if stage:
            layers.append(parts.pool("max"))
        for _ in range(parts.config.depth):
            layers.append(Inception(parts, channels, out))
            channels = out
    return nn.Sequential(*layers, GlobalAverage()), channels
