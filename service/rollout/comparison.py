"""How the answers of two versions to the same rows differ: by the tolerances of the parity gates, and in what they decide."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from modelrepo.manifest import Candidate, Manifest
from modelrepo.tasks import Multiclass, Regression
from modelrepo.tensors import Array

NO_NUMBER = sys.float_info.max  # as in the manifest: JSON has no infinity


class Difference(NamedTuple):
    """Of some rows: how many are further apart than allowed, and how many disagree; the largest difference, in the task's unit.

    The largest float where they cannot be compared: a column of the one is missing in the other, or is no finite number in one.
    """

    rows: int
    differing: int
    disagreeing: int
    largest: float


class Comparison:
    """Compares what two versions of a model answer."""

    def __init__(
        self,
        stable: Manifest,
        stable_way: Candidate,
        candidate: Manifest,
        candidate_way: Candidate,
        tolerance: float | None = None,
    ) -> None:
        """What serves each version tells how far it may be from its PyTorch original: two of them by as much as both together.

        `tolerance`, in the unit of the stable version's task, is used instead.
        """
        self._task = stable.task
        self._outputs = (stable.task.output, candidate.task.output)
        names, theirs = _columns(stable), _columns(candidate)
        same = stable.task.type == candidate.task.type and sorted(names) == sorted(theirs)
        self._order = [theirs.index(name) for name in names] if same else None
        if tolerance is not None:
            self._absolute, self._relative = tolerance, 0.0
        else:
            allowed = (_allowed(stable_way), _allowed(candidate_way))
            self._absolute, self._relative = (sum(part) for part in zip(*allowed, strict=True))

    def compare(self, stable: Mapping[str, Array], candidate: Mapping[str, Array]) -> Difference:
        """The outputs [rows, …] of both versions."""
        rows = len(stable[self._outputs[0]])
        if self._order is None:
            return Difference(rows, rows, rows, NO_NUMBER)
        ours = stable[self._outputs[0]].astype(np.float64)
        theirs = candidate[self._outputs[1]].astype(np.float64)[:, self._order]
        same = (ours == theirs) | (np.isnan(ours) & np.isnan(theirs))  # equal infinities, too
        with np.errstate(invalid="ignore"):
            apart = np.where(same, 0.0, np.abs(ours - theirs) / self._task.unit)
            allowed = self._absolute + self._relative * np.max(np.abs(ours) / self._task.unit, axis=1, keepdims=True)
        differing = ~(same | (apart <= allowed)).all(axis=1)  # also true of NaN
        disagreeing = self._disagreeing(ours, theirs, differing) | ~np.isfinite(apart).all(axis=1)
        largest = float(np.max(np.where(np.isfinite(apart), apart, NO_NUMBER), initial=0.0))
        return Difference(rows, int(differing.sum()), int(disagreeing.sum()), largest)

    def _disagreeing(self, ours: Array, theirs: Array, differing: Array) -> Array:
        """Of each row whether it is decided differently; where nothing is decided, whether it differs."""
        if isinstance(self._task, Regression):
            return differing
        if isinstance(self._task, Multiclass):
            found: Array = ours.argmax(axis=1) != theirs.argmax(axis=1)
        else:
            found = ((ours > 0) != (theirs > 0)).any(axis=1)
        return found


def _columns(manifest: Manifest) -> list[str]:
    """What the columns of the answer stand for. Binary has one column; the second label is what it is the logit of."""
    task = manifest.task
    if isinstance(task, Regression):
        return list(task.targets)
    return [task.labels[1]] if task.type == "binary" else list(task.labels)


def _allowed(way: Candidate) -> tuple[float, float]:
    """How far it may be from its original: absolutely in the task's unit, and relative to the row's largest element."""
    gate = way.parity.gate if way.parity is not None else None
    if gate is None or gate.atol is None:  # 8 bits are held to the metric alone; golden rows to this
        return way.golden_tolerance, 0.0
    return gate.atol, gate.rtol
