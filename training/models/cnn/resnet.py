"""ResNet (He et al. 2016): each block adds to what came in, so that gradients reach the first layers undiminished.

As the paper has it for CIFAR-10: a 3x3 stem, and stages of blocks, each stage after the first at half the height and width.
"""

from __future__ import annotations

from torch import nn

from training.models.cnn.parts import GlobalAverage, Maps, Parts


class Residual(nn.Module):
    """Convolutions beside a shortcut: [N, C, ...] -> [N, D, ... / stride].

    Two 3x3 convolutions, or as a bottleneck 1x1 down to a quarter of the channels, 3x3, and 1x1 up again.
    """

    def __init__(self, parts: Parts, channels: int, out: int, stride: int) -> None:
        super().__init__()
        if parts.config.bottleneck:
            narrow = out // 4
            self.branch = nn.Sequential(
                parts.unit(channels, narrow, 1),
                parts.unit(narrow, narrow, 3, stride),
                parts.convolve(narrow, out, 1),
                parts.norm(out),
            )
        else:
            self.branch = nn.Sequential(parts.unit(channels, out, 3, stride), parts.convolve(out, out, 3), parts.norm(out))
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(parts.convolve(channels, out, 1, stride), parts.norm(out))
        self.activate = parts.activate()

    def forward(self, maps: Maps) -> Maps:
        y, mask = self.branch(maps)
        return self.activate(Maps(y + self.shortcut(maps).values, mask))


def resnet(parts: Parts, channels: int) -> tuple[nn.Module, int]:
    """Maps to features [N, channels of the last stage]."""
    first = parts.config.widths[0]
    layers: list[nn.Module] = [parts.unit(channels, first, 3)]
    channels = first
    for stage, out in enumerate(parts.config.widths):
        for block in range(parts.config.depth):
            layers.append(Residual(parts, channels, out, stride=2 if stage and not block else 1))
            channels = out
    return nn.Sequential(*layers, GlobalAverage()), channels
