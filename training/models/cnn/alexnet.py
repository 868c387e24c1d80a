"""AlexNet (Krizhevsky et al. 2012): five convolutions, and overlapping max pooling after the first, second and fifth.

Scaled to small pictures: the first convolution is 5x5 without a stride, where the original has 11x11 in steps of 4. Its two
dense layers, which hold most of its 60 million weights, give way to global average pooling; dropout stays.
"""

from __future__ import annotations

from torch import nn

from training.models.cnn.parts import GlobalAverage, Parts

WIDTHS = (5, 5, 3, 3, 3)
POOLED = (0, 1, 4)


def alexnet(parts: Parts, channels: int) -> tuple[nn.Module, int]:
    """Maps to features [N, channels of the last convolution]."""
    layers: list[nn.Module] = []
    for number, (out, width) in enumerate(zip(parts.config.widths, WIDTHS, strict=True)):
        layers.append(parts.unit(channels, out, width))
        if number in POOLED:
            layers.append(parts.pool("max"))
        channels = out
    return nn.Sequential(*layers, GlobalAverage()), channels
