"""What a graph does to raw numbers before its first layer, recorded so that callers and codecs know what to send."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat

from modelrepo.tasks import Name, Names
from modelrepo.tensors import Strict


class Standardize(Strict):
    """(x - mean) / scale per channel, done inside the graph: callers send raw numbers."""

    type: Literal["standardize"] = "standardize"
    input: str
    mean: tuple[float, ...]
    scale: tuple[float, ...]


class Numeric(Strict):
    """A column of numbers. A missing one, NaN, is taken as `mean`; `missing` says that training rows lacked some too.

    The graph computes (x - mean) / scale and, where `missing`, tells the network apart which values were not there.
    """

    type: Literal["numeric"] = "numeric"
    name: Name
    mean: float
    scale: PositiveFloat
    missing: bool = False


class Categorical(Strict):
    """A column of names, sent as the index in `categories`; NaN stands for a missing value and for any other name.

    The graph turns it into one column per category (one-hot), all zero for NaN; where `missing`, training rows lacked some
    too, and one more column says so.
    """

    type: Literal["categorical"] = "categorical"
    name: Name
    categories: Names
    missing: bool = False


Column = Annotated[Numeric | Categorical, Field(discriminator="type")]


class Columns(Strict):
    """The columns of a table, in the order in which the input holds them."""

    type: Literal["columns"] = "columns"
    input: str
    columns: Annotated[tuple[Column, ...], Field(min_length=1)]
