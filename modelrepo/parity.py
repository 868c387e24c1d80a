"""How an artifact was compared with the original, and what it had to keep to."""

from __future__ import annotations

import sys
from typing import Annotated, Final, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from modelrepo.tasks import Metric
from modelrepo.tensors import Strict

HELD_OUT: Final = "held-out"  # rows of a parity case


class Gate(Strict):
    """What an artifact must keep to; None is not asked for.

    An output element may differ by atol + rtol x the largest element of its row, in the task's unit. `min_agreement` is the
    share of test rows that must decide as the original; `max_loss` how much the test metric may lose, 0.01 being one point.
    """

    atol: NonNegativeFloat | None = None
    rtol: NonNegativeFloat = 0.0
    min_agreement: Annotated[float, Field(ge=0, le=1)] | None = None
    max_loss: NonNegativeFloat | None = None


class ParityCase(Strict):
    """One comparison with the original: `batch` rows at one length.

    `rows` are `held-out` ones or an extreme input by its name, such as `zeros`. Errors are those of output elements: absolute in
    the task's unit, relative to the largest element of the row. The cosine is the lowest of any row, None where a row is one
    number. `used` is the largest error as a share of what the gate allows there, None where it allows any.
    """

    rows: str
    batch: PositiveInt
    length: PositiveInt | None
    max_abs_error: NonNegativeFloat
    mean_abs_error: NonNegativeFloat
    max_rel_error: NonNegativeFloat
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None
    used: NonNegativeFloat | None


class Parity(Strict):
    """How far one artifact is from PyTorch, case by case and over the whole test split.

    `provider` ran it. `loss` is what the metric lost, negative where it gained: a difference of shares such as accuracy, or of
    R2 where the task is a regression. `agreement` is None where nothing is decided.
    """

    provider: str
    gate: Gate
    cases: Annotated[tuple[ParityCase, ...], Field(min_length=1)]
    metric: Metric
    loss: float
    agreement: Annotated[float, Field(ge=0, le=1)] | None

    @property
    def max_abs_error(self) -> float:
        """The worst on held-out rows; extreme inputs may have outputs of any size."""
        return max(case.max_abs_error for case in self.cases if case.rows == HELD_OUT)

    @property
    def used(self) -> float:
        """The largest share of any limit of the gate that is used up: at most 1 where the gate is passed."""
        shares = [case.used for case in self.cases if case.used is not None]
        if self.gate.min_agreement is not None and self.agreement is not None:
            shares.append(_share(1 - self.agreement, 1 - self.gate.min_agreement))
        if self.gate.max_loss is not None:
            shares.append(_share(max(self.loss, 0.0), self.gate.max_loss))
        return max(shares, default=0.0)

    @model_validator(mode="after")
    def _passed(self) -> Self:
        if self.used > 1:
            raise ValueError(f"the gate is missed by {self.used - 1:.0%}")
        if not self.metric.reached():
            raise ValueError(f"{self.metric.name} {self.metric.value:g} misses its floor, {self.metric.floor:g}")
        return self


def _share(part: float, whole: float) -> float:
    """part / whole; the largest float where nothing is allowed and something is there."""
    return part / whole if whole else 0.0 if part <= 0 else sys.float_info.max
