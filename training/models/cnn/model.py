"""Convolutional network: standardised input, one of the classic bodies, a head. Over pictures, and in 1-D over sequences.

Each body is a file of its own and ends in one vector of features per row.
"""

from __future__ import annotations

from torch import Tensor, nn

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange, TensorSpec
from training.data.dataset import Images, Series
from training.models.base import Model
from training.models.cnn.alexnet import alexnet
from training.models.cnn.config import CNNConfig
from training.models.cnn.densenet import densenet
from training.models.cnn.googlenet import googlenet
from training.models.cnn.lenet5 import lenet5
from training.models.cnn.parts import Maps, Parts
from training.models.cnn.resnet import resnet
from training.models.cnn.vgg import vgg
from training.models.layers import Head, Standardize, initialise
from training.models.sequences import sequence_inputs


def body(config: CNNConfig, data: Images | Series) -> tuple[nn.Module, int]:
    """The network up to its features, from Maps to [N, features], and how many features those are."""
    channels = len(data.mean)
    parts = Parts(config, 2 if isinstance(data, Images) else 1)
    match config.architecture:
        case "lenet5":
            return lenet5(parts, channels, (data.height, data.width) if isinstance(data, Images) else None)
        case "alexnet":
            return alexnet(parts, channels)
        case "vgg":
            return vgg(parts, channels)
        case "googlenet":
            return googlenet(parts, channels)
        case "resnet":
            return resnet(parts, channels)
        case "densenet":
            return densenet(parts, channels)


class CNN(Model):
    """image [N, C, H, W], or sequence [N, T, C] and mask [N, T] -> [N, outputs]."""

    family = "cnn"
    kinds = (Images, Series)

    def __init__(self, config: CNNConfig, data: Images | Series, task: Task) -> None:
        super().__init__(task)
        self.data = data
        self.standardize = Standardize(data, axis=-3 if isinstance(data, Images) else -1)
        self.body, features = body(config, data)
        self.head = Head(features, task, config.dropout)
        initialise(self, config.init, config.activation)

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        if isinstance(self.data, Series):
            return sequence_inputs(self.data, batch)
        shape = (batch, len(self.data.mean), self.data.height, self.data.width)
        return (TensorSpec(name="image", dtype="float32", shape=shape, description="raw pixels, channels first"),)

    def forward(self, image: Tensor | None = None, sequence: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        if image is not None:
            maps = Maps(self.standardize(image))
        else:
            maps = Maps(self.standardize(sequence).transpose(1, 2), mask.unsqueeze(1))  # [N, C, T], [N, 1, T]
            maps = Maps(maps.filled(0.0), maps.mask)
        return self.head(self.body(maps))
