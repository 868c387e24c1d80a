"""Multilayer perceptron: fully connected layers over plain columns of numbers.

- standardises its input itself
- Linear -> BatchNorm -> ReLU -> dropout per hidden layer, a bare Linear last
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange, TensorSpec
from training.data.dataset import Rows
from training.models.base import Model
from training.models.layers import Standardize


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Shape of a multilayer perceptron."""

    hidden: tuple[int, ...] = (64, 64)
    """Width of each hidden layer."""
    dropout: float = 0.0
    """Share of hidden units zeroed in training."""


class MLP(Model):
    """features [N, F] -> [N, outputs]."""

    family = "mlp"
    kind = Rows

    def __init__(self, config: MLPConfig, data: Rows, task: Task) -> None:
        super().__init__(task)
        self.features = len(data.mean)
        self.standardize = Standardize(data)
        widths = (self.features, *config.hidden)
        layers: list[nn.Module] = []
        for narrow, wide in pairwise(widths):
            layers += [nn.Linear(narrow, wide), nn.BatchNorm1d(wide), nn.ReLU(), nn.Dropout(config.dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], task.outputs))

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        return (TensorSpec(name="features", dtype="float32", shape=(batch, self.features), description="raw columns"),)

    def forward(self, features: Tensor) -> Tensor:
        return self.layers(self.standardize(features))
