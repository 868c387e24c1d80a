"""What is measured of rows to tell how they are spread: by training and by the service, with the same code."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from modelrepo.reference import Categories, Numbers
from modelrepo.tensors import Array

AT_ONCE = 1024  # pictures of which the contrast is taken together: it needs a copy of them

Runs = tuple[tuple[int, int], ...]


class Measured(NamedTuple):
    """Numbers [values]; `rows` [values] says which row each belongs to, None where there is one for each row."""

    values: Array
    rows: Array | None = None


@dataclass(frozen=True)
class Sample:
    """Rows of one input and, where they were answered, the task's output [rows, outputs].

    `values` are [rows, …] or, for sequences, their real steps one after the other [steps, …], with the `lengths` [rows].
    `tokens` are the runs of ids that training rows held.
    """

    values: Array
    lengths: Array | None = None
    output: Array | None = None
    tokens: Runs = ()

    @property
    def rows(self) -> int:
        """How many."""
        return len(self.values if self.lengths is None else self.lengths)

    @cached_property
    def row_of_step(self) -> Array:
        """For each step the row it belongs to."""
        assert self.lengths is not None
        return np.repeat(np.arange(len(self.lengths)), self.lengths)


def real_steps(parts: Iterable[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Sequences [rows, length, …] with their masks [rows, length], padded differently, as steps [steps, …] and lengths [rows]."""
    pairs = list(parts)
    return np.concatenate([values[mask] for values, mask in pairs]), np.concatenate([mask.sum(axis=1) for _, mask in pairs])


def measured(feature: Numbers | Categories, sample: Sample) -> Measured:
    """A feature of every row or step of a sample."""
    values, index = sample.values, feature.index
    match feature.measure:
        case "column":
            return Measured(values[:, index])
        case "brightness":  # the mean of a channel
            return Measured(values[:, index].mean(axis=(1, 2), dtype=np.float64))
        case "contrast":  # the standard deviation over all pixels
            spread = [
                values[start : start + AT_ONCE].std(axis=(1, 2, 3), dtype=np.float64) for start in range(0, len(values), AT_ONCE)
            ]
            return Measured(np.concatenate(spread))
        case "length":
            assert sample.lengths is not None
            return Measured(sample.lengths)
        case "channel":
            return Measured(values[:, index], sample.row_of_step)
        case "token":
            return Measured(values, sample.row_of_step)
        case "unseen":  # the share of a row's tokens that no training row holds
            assert sample.lengths is not None
            strange = np.bincount(sample.row_of_step, unseen(values, sample.tokens), minlength=sample.rows)
            return Measured(strange / np.maximum(sample.lengths, 1))
    assert sample.output is not None
    match feature.measure:
        case "label":
            output = sample.output
            return Measured(output.argmax(axis=1) if output.shape[1] > 1 else (output[:, 0] > 0).astype(np.int64))
        case "active":
            return Measured((sample.output[:, index] > 0).astype(np.int64))
        case "value":
            return Measured(sample.output[:, index])


def unseen(tokens: Array, runs: Runs) -> Array:
    """Which tokens lie in none of the runs, bool [tokens]."""
    first, last = (np.array(ends) for ends in zip(*runs, strict=True))
    at = np.searchsorted(first, tokens, side="right") - 1
    return (at < 0) | (tokens > last[at])
