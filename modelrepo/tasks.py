"""What a model's outputs mean: the task, its labels, and the number it is judged by."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, model_validator

from modelrepo.tensors import Strict


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) != len(names):
        raise ValueError(f"names must differ, not {list(names)}")
    return names


Name = Annotated[str, Field(min_length=1)]
Names = Annotated[tuple[Name, ...], Field(min_length=1), AfterValidator(_distinct)]


class _Classification(Strict):
    """Labels, and the temperature T by which logits are divided before softmax or sigmoid (Guo et al. 2017)."""

    labels: Names
    temperature: PositiveFloat = 1.0
    output: Literal["logits"] = "logits"

    @property
    def outputs(self) -> int:
        """Columns of the output tensor."""
        return len(self.labels)

    @property
    def unit(self) -> tuple[float, ...]:
        """What a difference between two outputs is measured in: logits as they are."""
        return (1.0,)


class Multiclass(_Classification):
    """One of several labels: softmax over `logits` [batch, labels]."""

    type: Literal["multiclass"] = "multiclass"
    labels: Annotated[Names, Field(min_length=2)]


class Binary(_Classification):
    """One of two labels: sigmoid of `logits` [batch, 1] is the probability of the second."""

    type: Literal["binary"] = "binary"
    labels: Annotated[Names, Field(min_length=2, max_length=2)]

    @property
    def outputs(self) -> int:
        """Columns of the output tensor."""
        return 1


class Multilabel(_Classification):
    """Any subset of the labels: an independent sigmoid for each column of `logits` [batch, labels]."""

    type: Literal["multilabel"] = "multilabel"


class Regression(Strict):
    """Numbers: the columns of `values` [batch, targets], in the data's own units.

    `mean` and `scale` are those of the training targets. The network learns (target - mean) / scale, and the last step of
    its graph inverts that; without them it learns the targets as they are.
    """

    type: Literal["regression"] = "regression"
    targets: Names
    mean: tuple[float, ...] | None = None
    scale: tuple[PositiveFloat, ...] | None = None
    output: Literal["values"] = "values"

    @property
    def outputs(self) -> int:
        """Columns of the output tensor."""
        return len(self.targets)

    @property
    def unit(self) -> tuple[float, ...]:
        """What a difference between two outputs is measured in: each target's own scale."""
        return self.scale or (1.0,)

    @model_validator(mode="after")
    def _one_scale_per_target(self) -> Self:
        if (self.mean is None) != (self.scale is None) or any(len(v) != self.outputs for v in (self.mean, self.scale) if v):
            raise ValueError(f"mean and scale need one number for each of {list(self.targets)}, or neither is given")
        return self


Task = Multiclass | Binary | Multilabel | Regression


class Metric(Strict):
    """The number a model is judged by on the test split, and the floor it must reach to be exported."""

    name: str
    value: float
    better: Literal["higher", "lower"]
    floor: float | None = None

    def reached(self) -> bool:
        """Whether the value is at least as good as the floor; without a floor, always."""
        if self.floor is None:
            return True
        return self.value >= self.floor if self.better == "higher" else self.value <= self.floor
