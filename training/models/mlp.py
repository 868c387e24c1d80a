"""Multilayer perceptron: fully connected layers over a table's columns or over all pixels of a picture.

- makes its input into numbers of order 1 itself
- Linear -> norm -> activation -> dropout per hidden layer, a bare Linear last
- with `residual`, each hidden layer adds to what came in (He et al. 2016), so that gradients reach the first layers of a
  deep network undiminished
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange, TensorSpec
from training.data.dataset import Images, Rows
from training.models import checks
from training.models.base import Model
from training.models.layers import Activation, Columns, Head, Init, Norm, Standardize, activation, initialise, norm


@dataclass(frozen=True, kw_only=True)
class MLPConfig:
    """Shape of a multilayer perceptron."""

    hidden: tuple[int, ...] = (64, 64)
    """Width of each hidden layer; none makes a linear model."""
    activation: Activation = "relu"
    """What follows each hidden layer."""
    norm: Norm = "batch"
    """Normalisation of each hidden layer, before its activation."""
    dropout: float = 0.0
    """Share of hidden units zeroed in training."""
    residual: bool = False
    """Add each hidden layer's input to its output, through a linear map where their widths differ."""
    init: Init = "auto"
    """How weights are drawn."""

    def __post_init__(self) -> None:
        for width in self.hidden:
            checks.at_least("hidden", width, 1)
        checks.one_of("activation", self.activation, Activation)
        checks.one_of("norm", self.norm, Norm)
        checks.one_of("init", self.init, Init)
        checks.share("dropout", self.dropout)


class Residual(nn.Module):
    """A layer beside a shortcut: [N, F] -> [N, G]. The shortcut is a linear map where F and G differ."""

    def __init__(self, layer: nn.Module, features: int, out: int) -> None:
        super().__init__()
        self.layer = layer
        self.shortcut = nn.Identity() if features == out else nn.Linear(features, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.shortcut(x)


class MLP(Model):
    """features [N, F] or image [N, C, H, W] -> [N, outputs]."""

    family = "mlp"
    kinds = (Rows, Images)

    def __init__(self, config: MLPConfig, data: Rows | Images, task: Task) -> None:
        super().__init__(task)
        self.data = data
        self.prepare: nn.Module
        if isinstance(data, Rows):
            self.prepare = Columns(data.columns)  # [N, F] -> [N, width]
            width = self.prepare.width
        else:
            self.prepare = nn.Sequential(Standardize(data, axis=-3), nn.Flatten())  # [N, C, H, W] -> [N, C * H * W]
            width = len(data.mean) * data.height * data.width
        bias = config.norm != "batch"  # which would subtract it again
        layers: list[nn.Module] = []
        for features, out in pairwise((width, *config.hidden)):
            layer = nn.Sequential(
                nn.Linear(features, out, bias), norm(config.norm, out), activation(config.activation), nn.Dropout(config.dropout)
            )
            layers.append(Residual(layer, features, out) if config.residual else layer)
            width = out
        self.layers = nn.Sequential(*layers)
        self.head = Head(width, task)
        initialise(self, config.init, config.activation)

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        if isinstance(self.data, Rows):
            shape, description = (batch, len(self.data.columns)), "raw columns"
        else:
            shape = (batch, len(self.data.mean), self.data.height, self.data.width)
            description = "raw pixels, channels first"
        return (TensorSpec(name=self.data.input, dtype="float32", shape=shape, description=description),)

    def forward(self, features: Tensor | None = None, image: Tensor | None = None) -> Tensor:
        x = self.prepare(features if image is None else image)  # [N, width]
        return self.head(self.layers(x))
