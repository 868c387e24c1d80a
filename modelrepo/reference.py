"""How the rows a model learnt from were spread, and how those it answers are counted beside them.

A feature is one number of every row, or of every step of a sequence; `modelrepo.measures` says which. Its bins were set where the
training rows fall into parts of about the same size. What no training row was like has bins of its own.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from modelrepo.tasks import Name, Names
from modelrepo.tensors import Array, Strict

Measure = Literal["column", "brightness", "contrast", "length", "channel", "token", "unseen", "label", "active", "value"]
Counts = tuple[NonNegativeInt, ...]


class _Feature(Strict):
    """What is measured, and the training values in each of its bins; `index` counts columns, channels, labels or targets."""

    name: Name
    measure: Measure
    index: NonNegativeInt = 0
    counts: Counts

    @cached_property
    def outside(self) -> Array:
        """Which bins hold what no training row was like, bool [bins]."""
        empty: Array = np.array(self.counts) == 0
        return empty


class Numbers(_Feature):
    """Numbers in bins that end with, and hold, each of the `bounds`; the first begins with `least`.

    Before them there is a bin for what is less, after them one for what is more, and one for NaN.
    """

    type: Literal["numbers"] = "numbers"
    least: float
    bounds: Annotated[tuple[float, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        ascending = all(a < b for a, b in pairwise(self.bounds))
        if not ascending or self.least > self.bounds[0] or len(self.counts) != len(self.bounds) + 3:
            raise ValueError(f"{self.name!r} needs ascending bounds from `least` on, and a count for each bin and three more")
        return self

    @cached_property
    def _ends(self) -> Array:
        return np.array(self.bounds)

    @property
    def bins(self) -> list[str]:
        """What each bin holds, in words."""
        ends = [f"{bound:.6g}" for bound in self.bounds]
        first = ends[0] if self.least == self.bounds[0] else f"{self.least:.6g} to {ends[0]}"
        between = [f"over {low} to {high}" for low, high in pairwise(ends)]
        return [f"under {self.least:.6g}", first, *between, f"over {ends[-1]}", "missing"]

    def place(self, values: Array) -> Array:
        """The number of the bin of each value, int64 [values]."""
        found = np.searchsorted(self._ends, values) + 1  # NaN comes last
        found[values < self.least] = 0
        found[np.isnan(values)] = len(self.bounds) + 2
        return found


class Categories(_Feature):
    """Codes of names, a bin for each of `names`, one for all other codes and one for NaN."""

    type: Literal["categories"] = "categories"
    names: Names
    codes: tuple[NonNegativeInt, ...]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        ascending = all(a < b for a, b in pairwise(self.codes))
        if not ascending or len(self.names) != len(self.codes) or len(self.counts) != len(self.codes) + 2:
            raise ValueError(f"{self.name!r} needs ascending codes, a name for each, and a count for each and two more")
        return self

    @cached_property
    def _known(self) -> Array:
        return np.array(self.codes, np.float64)

    @property
    def bins(self) -> list[str]:
        """What each bin holds."""
        return [*self.names, "others", "missing"]

    def place(self, values: Array) -> Array:
        """The number of the bin of each value, int64 [values]."""
        found = np.minimum(np.searchsorted(self._known, values), len(self.codes) - 1)
        found[self._known[found] != values] = len(self.codes)
        found[np.isnan(values)] = len(self.codes) + 1
        return found


Feature = Annotated[Numbers | Categories, Field(discriminator="type")]


class Reference(Strict):
    """Features of the training `rows` of one input, and of what the model predicted for held-out rows.

    `tokens` are the ids that stand in training rows, as first and last of each run of them.
    """

    input: str
    rows: PositiveInt
    features: Annotated[tuple[Feature, ...], Field(min_length=1)]
    predictions: tuple[Feature, ...] = ()
    tokens: tuple[tuple[NonNegativeInt, NonNegativeInt], ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [feature.name for feature in (*self.features, *self.predictions)]
        if len(set(names)) != len(names):
            raise ValueError(f"features must differ in name, not {names}")
        return self
