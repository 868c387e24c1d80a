"""Parts that several families share: what turns raw input into numbers of order 1, activations, norms, weights, the head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from modelrepo.preprocessing import Categorical, Column, Numeric
from modelrepo.tasks import Regression, Task
from training.data.dataset import Standardized

Activation = Literal["sigmoid", "tanh", "relu", "leaky_relu", "elu", "silu", "gelu"]
Norm = Literal["batch", "layer", "rms", "none"]
Init = Literal["auto", "he", "xavier", "zeros"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01 below zero
    "elu": nn.ELU,
    "silu": nn.SiLU,  # also known as swish
    "gelu": nn.GELU,
}
EPSILON = 1e-5  # keeps the layer and RMS norms of a constant vector finite


class Standardize(nn.Module):
    """(x - mean) / scale along one axis, inside the network, so that callers always send raw numbers.

    `axis` counts from the end of the input's shape: -1 for the channels of [N, T, C], -3 for those of [N, C, H, W].
    """

    def __init__(self, kind: Standardized, axis: int = -1) -> None:
        super().__init__()
        shape = (len(kind.mean),) + (1,) * (-axis - 1)
        self.register_buffer("mean", torch.tensor(kind.mean).reshape(shape))
        self.register_buffer("scale", torch.tensor(kind.scale).reshape(shape))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.scale


class Columns(nn.Module):
    """A table's raw columns [N, columns] float32 as [N, width] numbers of order 1, none of them NaN.

    First the numeric columns, standardised, 0 where missing; then one 0-or-1 column per category, all of them 0 for NaN and
    for an index that no category has; then, for each column that lacked values in training, 1 where the value is missing.
    """

    def __init__(self, columns: Sequence[Column]) -> None:
        super().__init__()
        numeric = [(at, column) for at, column in enumerate(columns) if isinstance(column, Numeric)]
        codes = [(at, code) for at, c in enumerate(columns) if isinstance(c, Categorical) for code in range(len(c.categories))]
        missing = [at for at, column in enumerate(columns) if column.missing]
        self.width = len(numeric) + len(codes) + len(missing)
        self.only_numeric = len(numeric) == len(columns)
        self.register_buffer("mean", torch.tensor([column.mean for _, column in numeric]))
        self.register_buffer("scale", torch.tensor([column.scale for _, column in numeric]))
        self.register_buffer("numeric", torch.tensor([at for at, _ in numeric], dtype=torch.int64))
        self.register_buffer("categorical", torch.tensor([at for at, _ in codes], dtype=torch.int64))  # once per category
        self.register_buffer("codes", torch.tensor([float(code) for _, code in codes]))
        self.register_buffer("missing", torch.tensor(missing, dtype=torch.int64))

    def forward(self, features: Tensor) -> Tensor:
        parts = []
        if len(self.numeric):
            x = features if self.only_numeric else features.index_select(1, self.numeric)  # [N, numeric]
            parts.append(torch.where(x.isnan(), 0.0, (x - self.mean) / self.scale))
        if len(self.codes):
            matches = features.index_select(1, self.categorical) == self.codes  # [N, categories]; NaN equals nothing
            parts.append(matches.to(features.dtype))
        if len(self.missing):
            parts.append(features.index_select(1, self.missing).isnan().to(features.dtype))  # [N, missing]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)  # [N, width]


def activation(name: Activation) -> nn.Module:
    """The activation function of that name. Raises ValueError for another name."""
    if name not in _ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)}, not {name!r}")
    return _ACTIVATIONS[name]()


class OverChannels(nn.Module):
    """A norm over axis 1, at each position by itself: [N, C, ...] -> [N, C, ...]."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm  # over the last axis

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)  # the norm sees [N, ..., C]


def norm(name: Norm, features: int, *, dims: Literal[0, 1, 2] = 0) -> nn.Module:
    """The normalisation of that name, over `features` values.

    With dims 0 these are the last axis, [N, F] or [N, T, F]; with dims 1 and 2 the channels of [N, C, L] and [N, C, H, W].
    Batch (Ioffe & Szegedy 2015) takes mean and variance of each feature over the batch and all positions, and [N, F] only
    with dims 0. Layer (Ba et al. 2016) and rms (Zhang & Sennrich 2019) work on each position alone, so neither batch mates
    nor padding touch them. Raises ValueError for another name.
    """
    match name:
        case "batch":
            return nn.BatchNorm2d(features) if dims == 2 else nn.BatchNorm1d(features)
        case "layer" | "rms":
            last = nn.LayerNorm(features, eps=EPSILON) if name == "layer" else nn.RMSNorm(features, eps=EPSILON)
            return OverChannels(last) if dims else last
        case "none":
            return nn.Identity()
    raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, not {name!r}")


class Head(nn.Module):
    """Dropout, a linear layer and, for regression, the data's own units: [N, F] -> [N, outputs]."""

    def __init__(self, features: int, task: Task, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(features, task.outputs)
        mean, scale = (task.mean, task.scale) if isinstance(task, Regression) else (None, None)
        self.register_buffer("mean", None if mean is None else torch.tensor(mean))
        self.register_buffer("scale", None if scale is None else torch.tensor(scale))

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.dropout(x))
        return y if self.mean is None else y * self.scale + self.mean


@torch.no_grad()
def initialise(model: nn.Module, scheme: Init, activation: Activation) -> None:
    """Draw the weights of all linear and convolutional layers anew, from torch's global generator; their biases become 0.

    he: normal with variance 2 / fan-in (He et al. 2015), which keeps the variance through the ReLU family. xavier: uniform
    with variance 2 / (fan-in + fan-out) (Glorot & Bengio 2010), for tanh and sigmoid. auto: whichever suits `activation`.
    A `Head`, which no activation follows, gets xavier in all three. zeros: all weights 0, so that all units of a layer stay
    alike and a ReLU network learns nothing but its last bias; for teaching. Embeddings, norms and recurrent weights are left
    alone. Raises ValueError for another name.
    """
    if scheme not in get_args(Init):
        raise ValueError(f"init must be one of {', '.join(get_args(Init))}, not {scheme!r}")
    he = scheme == "he" or (scheme == "auto" and activation not in ("sigmoid", "tanh"))
    heads = {module.linear for module in model.modules() if isinstance(module, Head)}
    for module in model.modules():
        if not isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
            continue
        if scheme == "zeros":
            nn.init.zeros_(module.weight)
        elif he and module not in heads:
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        else:
            nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
