"""VGG (Simonyan & Zisserman 2015): nothing but 3x3 convolutions, several in a row, then max pooling by 2.

Scaled to small pictures by fewer stages. Windows of the pooling are 3 wide rather than 2, so that odd sizes lose no edge, and
global average pooling takes the place of the dense layers.
"""

from __future__ import annotations

from torch import nn

from training.models.cnn.parts import GlobalAverage, Parts


def vgg(parts: Parts, channels: int) -> tuple[nn.Module, int]:
    """Maps to features [N, channels of the last stage]."""
    layers: list[nn.Module] = []
    for out in parts.config.widths:
        for _ in range(parts.config.depth):
            layers.append(parts.unit(channels, out, 3))
            channels = out
        layers.append(parts.pool("max"))
    return nn.Sequential(*layers, GlobalAverage()), channels
