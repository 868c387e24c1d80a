"""The rows of a model that LoadGen draws from, with the answers that are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from loadtests.calls import Call, golden_rows, golden_tolerance, infer_request, is_finite
from loadtests.served import NotServed, Served, calm_calls
from modelrepo.repository import Repository
from modelrepo.tensors import Tensors

ROWS = 64  # made from the metadata, where no repository has golden ones


@dataclass(frozen=True)
class Sample:
    """Inputs [1, …] and the outputs [1, …] that are right, by version."""

    inputs: Tensors
    expected: Mapping[str, Tensors]

    @cached_property
    def shape(self) -> tuple[tuple[int, ...], ...]:
        """Of all inputs: rows of one shape go into one request."""
        return tuple(array.shape for array in self.inputs.values())


@dataclass(frozen=True)
class Samples:
    """The rows of one model, and how requests are made of them."""

    model: str
    rows: Sequence[Sample]
    tolerance: float
    max_batch: int
    binary: bool

    def call(self, numbers: Sequence[int]) -> Call:
        """One request with these rows, which have one shape."""
        rows = [self.rows[number] for number in numbers]
        inputs = _joined([row.inputs for row in rows])
        expected = {version: _joined([row.expected[version] for row in rows]) for version in rows[0].expected}
        return Call(self.model, infer_request(self.model, inputs, self.binary), expected, self.tolerance)

    def calls(self, rows: int = 1) -> list[Call]:
        """For each row a request that has it so many times."""
        return [self.call([number] * rows) for number in range(len(self.rows))]


def samples_of(url: str, model: Served, repository: Repository | None, binary: bool) -> Samples:
    """Golden rows where there is a repository; else rows made from the metadata, with what the server answers in a calm moment.

    Raises NotServed, and ModelNotFound where the repository has no such version.
    """
    if repository is not None:
        published = repository.open(model.name, model.version)
        version, tolerance = str(model.version), golden_tolerance(published)
        rows = [Sample(inputs, {version: outputs}) for inputs, outputs in golden_rows(published) if binary or is_finite(inputs)]
    else:
        made = {infer_request(model.name, inputs, binary): inputs for inputs in model.rows(ROWS)}
        calls = calm_calls(url, model, made)
        tolerance = max((call.tolerance for call in calls), default=0.0)
        rows = [Sample(made[call.request], call.expected) for call in calls]
    if not rows:
        raise NotServed(f"there is no row to send to {model.name}: every one lacks a value or is refused")
    return Samples(model.name, rows, tolerance, model.max_batch, binary)


def _joined(rows: Sequence[Tensors]) -> Tensors:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
