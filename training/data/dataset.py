"""What every data set is, once read: three splits, the kind of thing a row is, and the task.

A kind holds all that a model must know of its input (sizes, vocabulary, standardisation) and nothing a user chooses.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue, PositiveInt

from modelrepo.preprocessing import Column, Numeric
from modelrepo.tasks import Regression, Task
from modelrepo.tensors import ShapeRange, Strict, Tensors


class DataError(Exception):
    """Data that cannot be read or does not suit the family; the message says what to change."""


class Standardized(Strict):
    """A kind made of numbers, which the model standardises itself: (x - mean) / scale per channel."""

    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Rows(Strict):
    """A table: `features` [N, columns] float32, where NaN is a missing value and categories are their index."""

    input: Literal["features"] = "features"
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]


class Images(Standardized):
    """Pictures of one size: `image` [N, channels, height, width] float32."""

    input: Literal["image"] = "image"
    height: PositiveInt
    width: PositiveInt


class Series(Standardized):
    """Numeric sequences of several lengths: `sequence` [N, T, channels] float32 and `mask` [N, T] bool."""

    input: Literal["sequence"] = "sequence"
    length: ShapeRange


class Tokens(Strict):
    """Token sequences of several lengths: `tokens` [N, T] int64 below `vocabulary`, and `mask` [N, T] bool.

    `tokenizer` is the text of a tokenizer.json (Hugging Face), which turns text into these tokens.
    """

    input: Literal["tokens"] = "tokens"
    vocabulary: PositiveInt
    length: ShapeRange
    tokenizer: str | None = None
    description: str = ""


Kind = Rows | Images | Series | Tokens


@dataclass(frozen=True)
class Split:
    """Rows: `inputs` by tensor name, each [N, …], and `targets`: [N] int64 for classes, [N, outputs] float32 otherwise.

    Sequences are zero-padded on the right to the longest of the split.
    """

    inputs: Tensors
    targets: npt.NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.targets)

    def rows(self, index: npt.NDArray[np.int64] | slice) -> Split:
        """Some of the rows, with sequences cut to the longest among them."""
        inputs = {name: array[index] for name, array in self.inputs.items()}
        if "mask" in inputs:
            longest = int(inputs["mask"].sum(axis=1).max(initial=1))
            inputs = {name: array[:, :longest] for name, array in inputs.items()}
        return Split(inputs, self.targets[index])


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """`train` takes the epoch, counted from 1: stored data answers the same rows each time, generated data fresh ones.

    `as_served` are training rows as they will arrive, where `train` gives them otherwise, such as with windows cut short.
    `handling` records what was done to the data on the way: how it was split, what was missing and what stands for it.
    """

    name: str
    kind: Kind
    task: Task
    train: Callable[[int], Split]
    validation: Split
    test: Split
    as_served: Split | None = None
    handling: dict[str, JsonValue] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """sha256 over the names, dtypes, shapes and bytes of all splits (the first epoch's, where rows are generated)."""
        digest = hashlib.sha256()
        for split in (self.train(1), self.validation, self.test):
            for name, array in sorted({**split.inputs, "targets": split.targets}.items()):
                digest.update(f"{name} {array.dtype} {array.shape}".encode())
                digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        return digest.hexdigest()


def moments(values: npt.NDArray[np.floating], axes: tuple[int, ...]) -> dict[str, tuple[float, ...]]:
    """Mean and scale over `axes` as a kind stores them; a constant column gets scale 1, so that it becomes 0, not NaN.

    Sums run in float64: in float32 the deviation of two million rows around 100 comes out as 1.65 where it is 1.
    """
    deviation = values.std(axis=axes, dtype=np.float64)
    constant = values.max(axis=axes) == values.min(axis=axes)  # whose deviation rounding may leave just above 0
    return {
        "mean": tuple(float(m) for m in np.atleast_1d(values.mean(axis=axes, dtype=np.float64))),
        "scale": tuple(float(s) for s in np.atleast_1d(np.where(constant | (deviation == 0), 1.0, deviation))),
    }


def numeric(values: npt.NDArray[np.floating], names: Sequence[str] | None = None) -> tuple[Numeric, ...]:
    """Numeric columns, described by the training rows' `values` [N, columns], in which NaN is a missing value."""
    names = names or [f"x{number}" for number in range(1, values.shape[1] + 1)]
    columns = []
    for name, column in zip(names, values.T, strict=True):
        present = column[~np.isnan(column)].astype(np.float64)
        measured = moments(present[:, None], (0,)) if len(present) else {"mean": (0.0,), "scale": (1.0,)}
        columns.append(Numeric(name=name, mean=measured["mean"][0], scale=measured["scale"][0], missing=len(present) < len(column)))
    return tuple(columns)


def regression(targets: Sequence[str], values: npt.NDArray[np.floating]) -> Regression:
    """The task of predicting these targets, scaled by the training rows' `values` [N, targets]."""
    return Regression(targets=tuple(targets), **moments(values.astype(np.float64), (0,)))
