"""Rows of a model, and what it answered, as the table that training reads: one form for each kind of input.

Columns that begin with `quartet:` are about the request; training leaves them out unless it is told to read them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import polars as pl

from modelrepo.manifest import Manifest
from modelrepo.measures import real_steps
from modelrepo.preprocessing import Column, Columns
from modelrepo.tasks import Binary, Multiclass, Multilabel, Task
from modelrepo.tensors import Array, Tensors
from service.codec.reader import Reader

NOTE = "quartet:"  # as in training/data/tables.py


class Kept(NamedTuple):
    """A request that was answered: microseconds since the epoch, the caller's name for it, its inputs and the task's output.

    `bytes` is about what it takes in memory.
    """

    time: int
    request_id: str | None
    inputs: Tensors
    output: Array
    bytes: int


class Form:
    """The table of one version."""

    def __init__(self, manifest: Manifest, reader: Reader, version: str) -> None:
        self._signature = manifest.signature
        self._task = manifest.task
        self._version = version
        self._kind = reader.kind
        steps = {step.input: step for step in manifest.preprocessing}
        step = steps.get(self._signature.value_inputs[0].name)
        self._columns = step.columns if isinstance(step, Columns) else None
        source = manifest.lineage.config.get("source")
        given = source if isinstance(source, dict) else {}
        text, target = given.get("text"), given.get("target")
        self._text = text if isinstance(text, str) else "text"
        inputs = {column.name for column in self._columns or ()} | {self._text, *(spec.name for spec in self._signature.inputs)}
        names = _answers(manifest.task, target if isinstance(target, list) else [])
        self._answers = [f"{NOTE}{name}" if name in inputs else name for name in names]

    def table(self, kept: Sequence[Kept]) -> pl.DataFrame:
        """A line for each row of these requests."""
        rows = [len(each.output) for each in kept]
        output = np.concatenate([each.output for each in kept])
        columns = self._inputs(kept)
        columns += [values.alias(name) for name, values in zip(self._answers, _answered(self._task, output), strict=True)]
        if isinstance(self._task, Multiclass | Binary | Multilabel):
            columns.append(_list(f"{NOTE}probabilities", probabilities(self._task, output).astype(np.float32)))
        times = pl.Series(f"{NOTE}time", np.repeat([each.time for each in kept], rows)).cast(pl.Datetime("us", "UTC"))
        names = [each.request_id for each, count in zip(kept, rows, strict=True) for _ in range(count)]
        columns += [
            times,
            pl.Series(f"{NOTE}request", names, pl.String),
            pl.Series(f"{NOTE}row", np.concatenate([np.arange(count) for count in rows])),
            pl.Series(f"{NOTE}version", [self._version] * len(output), pl.String),
        ]
        return pl.DataFrame(columns)

    def _inputs(self, kept: Sequence[Kept]) -> list[pl.Series]:
        """The columns that stand for the inputs."""
        mask = self._signature.mask
        (first, *_) = self._signature.value_inputs
        if self._columns is not None:
            features = np.concatenate([each.inputs[first.name] for each in kept])
            return [_column(column, values) for column, values in zip(self._columns, features.T, strict=True)]
        if mask is None:
            return [
                pl.Series(spec.name, np.concatenate([each.inputs[spec.name] for each in kept]))
                for spec in self._signature.value_inputs
            ]
        found = []
        for spec in self._signature.value_inputs:
            steps, lengths = real_steps([(each.inputs[spec.name], each.inputs[mask.name]) for each in kept])
            read = getattr(self._kind, "text", None)  # of `Texts`, imported only where needed
            if read is not None:
                found.append(pl.Series(self._text, [read(row) for row in np.split(steps, np.cumsum(lengths)[:-1])], pl.String))
                continue
            lines = pl.DataFrame({"row": np.repeat(np.arange(len(lengths)), lengths), spec.name: steps})
            found.append(lines.group_by("row", maintain_order=True).agg(spec.name)[spec.name])
        return found


def probabilities(task: Multiclass | Binary | Multilabel, output: Array) -> Array:
    """Of each label [rows, labels], from the task's output."""
    logits = output.astype(np.float64) / task.temperature
    if isinstance(task, Multiclass):
        chances: Array = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        return chances
    chances = 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
    return np.concatenate([1 - chances, chances], axis=1) if isinstance(task, Binary) else chances


def _answers(task: Task, target: Sequence[object]) -> list[str]:
    """What the columns of the answer are called: as training's target was, where it had a name."""
    match task:
        case Multiclass() | Binary():
            return [str(target[0]) if len(target) == 1 else "label"]
        case Multilabel():
            return list(task.labels)
    return list(task.targets)


def _answered(task: Task, output: Array) -> list[pl.Series]:
    """What was answered, a column for each target."""
    match task:
        case Multiclass():
            return [_named(task.labels, output.argmax(axis=1))]
        case Binary():
            return [_named(task.labels, (output[:, 0] > 0).astype(np.int64))]
        case Multilabel():
            return [pl.Series((values > 0).astype(np.int8)) for values in output.T]
    return [pl.Series(values) for values in np.ascontiguousarray(output.T)]


def _column(column: Column, values: Array) -> pl.Series:
    """A column of a table: null where a value was missing, or a category nobody knows."""
    if column.type == "numeric":
        return pl.Series(column.name, np.ascontiguousarray(values)).fill_nan(None)
    return _named(column.categories, np.where(np.isnan(values), -1, values).astype(np.int64)).alias(column.name)


def _named(names: Sequence[str], codes: Array) -> pl.Series:
    """Names by their position, null for -1; a type of its own, so that names that look like numbers stay names."""
    return pl.Series([None if code < 0 else names[code] for code in codes.tolist()], dtype=pl.String).cast(pl.Categorical)


def _list(name: str, values: Array) -> pl.Series:
    """A list for each row of [rows, …]."""
    return pl.Series(name, values).arr.to_list()
