"""What calls return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Value = str | int | float | bool


class Outputs(dict[str, Array]):
    """The outputs of `infer` by name, each [rows, …], and the version that computed them. The arrays are read-only."""

    def __init__(self, outputs: Mapping[str, Array], model: str, version: str, parameters: Mapping[str, Value]) -> None:
        super().__init__(outputs)
        self.model = model
        self.version = version
        self.parameters = parameters
        """What the server says besides, such as `queue_ms` where `explain` was asked for."""


@dataclass(frozen=True)
class Prediction:
    """One row's answer, as the model's task has it: a label, several labels at once, or values."""

    label: str | None = None
    """The likeliest of several classes; None where the model does not choose one."""
    labels: tuple[str, ...] = ()
    """Those that hold, of a model that gives several at once."""
    probabilities: Mapping[str, float] | None = None
    """By label, falling; as many as `top_k` says."""
    values: Mapping[str, float] | None = None
    """Of a model of numbers, by target."""


class Predictions(list[Prediction]):
    """A prediction for each instance, and the version that made them."""

    def __init__(self, predictions: Iterable[Prediction], model: str, version: str) -> None:
        super().__init__(predictions)
        self.model = model
        self.version = version


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model; -1 in the shape is a dynamic axis."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    parameters: Mapping[str, Value]

    @property
    def dtype(self) -> np.dtype[Any]:
        """NumPy's name of the datatype."""
        from quartet_client.wire import DTYPES

        return DTYPES[self.datatype]


@dataclass(frozen=True)
class Metadata:
    """A model as the server describes it: its versions ascending, and what answers and how far it was proven as `parameters`."""

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    parameters: Mapping[str, Value]
