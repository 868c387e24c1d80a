"""What is to be predicted: the task told from the target columns, and their values as a split stores them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression, Task
from training.data import tables
from training.data.dataset import DataError, regression
from training.data.source import Source

MOST_CLASSES = 20  # whole numbers with more values than this are quantities, unless --task says otherwise
ROWS_PER_CLASS = 5  # … and so are those that hardly repeat

Form = Literal["classification", "multilabel", "regression"]


def learn_task(frame: pl.DataFrame, source: Source, path: Path, rows: npt.NDArray[np.int64] | None = None) -> Task:
    """The task that the target columns of a whole table set; labels and scale are those of its training `rows` (all, if None).

    Where --task does not say: one column of names, of two values, or of whole numbers with at most 20 values that each
    stand in 5 rows on average is a classification, several columns of 0 and 1 are a multilabel one, and other numbers are a
    regression. Two classes make it Binary. Labels are sorted, numbers as numbers; the second of two is the positive one.
    Raises DataError for missing columns, missing or unreadable values, and targets that never change.
    """
    training = np.arange(frame.height) if rows is None else rows
    form = _form(frame, source, path)
    if form == "regression":
        values = _values(frame, source, path)
        for column, target in zip(values[training].T, source.target, strict=True):
            if (column == column[0]).all():
                raise DataError(f"{path}: target {target!r} is {column[0]:g} in every training row, so there is nothing to learn")
        return regression(source.target, values[training])
    if form == "multilabel":
        return Multilabel(labels=source.target)
    labels = np.unique(_labels(frame, source, path)[training]).tolist()
    if len(labels) < 2:
        raise DataError(f"{path}: target {source.target[0]!r} is {labels[0]!r} in every training row, so there is nothing to learn")
    ordered = tuple(sorted(labels, key=lambda label: (float(label), label) if _is_number(label) else (float("inf"), label)))
    return Binary(labels=ordered) if len(ordered) == 2 else Multiclass(labels=ordered)


def encode(task: Task, frame: pl.DataFrame, source: Source, path: Path) -> npt.NDArray[np.generic]:
    """The targets of a table: [N] int64 of label indices for Multiclass, else [N, outputs] float32.

    Raises DataError naming file, line and value for a missing target and for a label that the training rows lack.
    """
    if isinstance(task, Regression):
        return _values(frame, source, path).astype(np.float32)
    if isinstance(task, Multilabel):
        values = _values(frame, source, path)
        wrong = (values != 0) & (values != 1)
        if wrong.any():
            row, column = (int(at[0]) for at in np.nonzero(wrong))
            where = tables.place(frame, row, source.target[column], path)
            raise DataError(f"{where}: {values[row, column]:g} is neither 0 nor 1, as a label of several must be")
        return values.astype(np.float32)
    labels = _labels(frame, source, path)
    index = pl.Series(labels.tolist(), dtype=pl.String).replace_strict(
        list(task.labels), range(len(task.labels)), default=None, return_dtype=pl.Int64
    )
    if index.has_nulls():
        row = int(index.is_null().arg_max() or 0)
        where = tables.place(frame, row, source.target[0], path)
        raise DataError(
            f"{where}: no training row has the label {str(labels[row])!r}{tables.near(labels[row], task.labels)}; "
            f"training knows {tables.listed(task.labels)}"
        )
    if isinstance(task, Binary):
        return index.to_numpy().astype(np.float32)[:, None]  # [N] -> [N, 1]
    return index.to_numpy().astype(np.int64)


def strata(frame: pl.DataFrame, source: Source, path: Path) -> npt.NDArray[np.str_] | None:
    """The label of each row [N], whose shares a split should keep; None where the task is not to choose one label."""
    return _labels(frame, source, path) if _form(frame, source, path) == "classification" else None


def _form(frame: pl.DataFrame, source: Source, path: Path) -> Form:
    """What --task says, else what the values say; the whole table decides, so that a split cannot change it."""
    if not source.target:
        raise DataError(f"{path}: say with --target which column to predict; there are {tables.listed(frame.columns)}")
    tables.require(frame, source.target, path)
    if len(set(source.target)) < len(source.target):
        raise DataError(f"--target names a column twice: {', '.join(source.target)}")
    if source.task == "classification" and len(source.target) > 1:
        raise DataError(f"a classification has one --target, not {len(source.target)}; columns of 0 and 1 are --task multilabel")
    if source.task != "auto":
        return source.task
    if len(source.target) > 1:
        values = _values(frame, source, path)
        return "multilabel" if np.isin(values, (0, 1)).all() else "regression"
    values = tables.texts(frame, source.target[0], path).drop_nulls()
    numbers = tables.as_numbers(values)
    distinct = numbers.n_unique()
    if frame[source.target[0]].dtype in tables.NAMES or numbers.has_nulls() or distinct <= 2:
        return "classification"
    whole = bool((numbers == numbers.round()).all())
    return "classification" if whole and distinct <= min(MOST_CLASSES, len(numbers) // ROWS_PER_CLASS) else "regression"


def _values(frame: pl.DataFrame, source: Source, path: Path) -> npt.NDArray[np.float64]:
    """The target columns as numbers [N, targets]. Raises DataError for a missing one."""
    columns = []
    for target in source.target:
        values = tables.numbers(frame, target, path)
        _refuse_missing(np.isnan(values), frame, target, path)
        columns.append(values)
    return np.stack(columns, axis=1)


def _labels(frame: pl.DataFrame, source: Source, path: Path) -> npt.NDArray[np.str_]:
    """The target column as labels [N]: its text, though of numbers 1.0 is the same label as 1."""
    target = source.target[0]
    values = tables.texts(frame, target, path)
    _refuse_missing(values.is_null().to_numpy(), frame, target, path)
    if not tables.as_numbers(values).has_nulls():
        values = values.str.replace(r"^([+-]?\d+)\.0+$", "$1")
    return values.to_numpy().astype(np.str_)


def _refuse_missing(missing: npt.NDArray[np.bool_], frame: pl.DataFrame, target: str, path: Path) -> None:
    if missing.any():
        where = tables.place(frame, int(missing.argmax()), target, path)
        raise DataError(f"{where}: the target is missing, here and in {missing.sum()} of {len(missing)} rows; leave such rows out")


def _is_number(label: str) -> bool:
    try:
        float(label)
    except ValueError:
        return False
    return True
