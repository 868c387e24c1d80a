"""LeNet-5 (LeCun et al. 1998): two 5x5 convolutions, each averaged down by 2, and three dense layers.

Differs from the paper where everyone does since: the second convolution sees all maps of the first, averages have no weights
of their own, and the answer is a plain linear layer. `activation="tanh", norm="none"` is the classic one. As in the paper,
pictures smaller than 32x32 are framed in zeros to that size. Of a sequence, the maps are averaged over time before the dense
layers, since its length varies.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from training.models.cnn.parts import GlobalAverage, Maps, Parts
from training.models.layers import activation

SIZE = 32
DENSE = (120, 84)


class Frame(nn.Module):
    """Zeros around pictures smaller than 32x32: [N, C, H, W] -> [N, C, 32 or more, 32 or more]."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__()
        down, across = max(0, SIZE - height), max(0, SIZE - width)
        self.edges = (across // 2, across - across // 2, down // 2, down - down // 2)  # left, right, top, bottom

    def forward(self, maps: Maps) -> Maps:
        return Maps(F.pad(maps.values, self.edges))


class Flatten(nn.Module):
    """[N, C, H, W] -> [N, C * H * W]."""

    def forward(self, maps: Maps) -> Tensor:
        return maps.values.flatten(1)


class Halve(nn.Module):
    """The average of each 2x2 square: [N, C, H, W] -> [N, C, H // 2, W // 2]."""

    def forward(self, maps: Maps) -> Maps:
        return Maps(F.avg_pool2d(maps.values, 2))


def lenet5(parts: Parts, channels: int, size: tuple[int, int] | None) -> tuple[nn.Module, int]:
    """Maps of a picture's `size`, or of a sequence (None), to features [N, 84]."""
    first, second = parts.config.widths
    if size is None:
        convolutions: list[nn.Module] = [
            parts.unit(channels, first, 5),
            parts.pool("average"),
            parts.unit(first, second, 5),
            parts.pool("average"),
            GlobalAverage(),
        ]
        features = second
    else:
        convolutions = [
            Frame(*size),
            parts.unit(channels, first, 5, padding=0),
            Halve(),
            parts.unit(first, second, 5, padding=0),
            Halve(),
            Flatten(),
        ]
        height, width = (((max(side, SIZE) - 4) // 2 - 4) // 2 for side in size)  # 5 of 32
        features = second * height * width
    dense = []
    for out in DENSE:
        dense += [nn.Linear(features, out), activation(parts.config.activation)]
        features = out
    return nn.Sequential(*convolutions, *dense), features
