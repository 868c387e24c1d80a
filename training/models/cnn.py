"""Convolutional network with residual blocks (He et al. 2016), sized for small images.

- standardises its input itself, per channel
- a 3x3 stem, then stages of basic blocks; each stage after the first halves height and width
- global average pooling, so that no layer's size depends on the picture's
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.functional import relu

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange, TensorSpec
from training.data.dataset import Images
from training.models.base import Model
from training.models.layers import Standardize


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Shape of a residual network."""

    channels: tuple[int, ...] = (32, 64)
    """Channels of each stage."""
    blocks: int = 1
    """Residual blocks per stage."""


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut: [N, C, H, W] -> [N, D, H/stride, W/stride]."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.shortcut = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = relu(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return relu(y + self.shortcut(x))


class CNN(Model):
    """image [N, C, H, W] -> [N, outputs]."""

    family = "cnn"
    kind = Images

    def __init__(self, config: CNNConfig, data: Images, task: Task) -> None:
        super().__init__(task)
        self.size = (len(data.mean), data.height, data.width)
        self.standardize = Standardize(data, axis=-3)
        first = config.channels[0]
        self.stem = nn.Sequential(nn.Conv2d(self.size[0], first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        stages: list[nn.Module] = []
        channels = first
        for stage, out in enumerate(config.channels):
            for block in range(config.blocks):
                stages.append(Residual(channels, out, stride=2 if stage and not block else 1))
                channels = out
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(channels, task.outputs)

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        description = "raw pixels, channels first"
        return (TensorSpec(name="image", dtype="float32", shape=(batch, *self.size), description=description),)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stages(self.stem(self.standardize(image)))  # [N, D, h, w]
        return self.head(x.mean(dim=(2, 3)))  # [N, D] -> [N, outputs]
