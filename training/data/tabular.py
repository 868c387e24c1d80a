"""Tables for prediction row by row: columns are typed by their values, and what was missing or left out is recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import JsonValue

from modelrepo.preprocessing import Categorical, Column
from training.data import splits, tables, targets
from training.data.dataset import DataError, Dataset, Rows, Split, numeric
from training.data.source import Source

MOST_CATEGORIES = 1000  # a network gets one input for each


def load_table(path: Path, source: Source) -> Dataset:
    """A table whose rows are examples: `--target` is predicted from all columns but those of `--drop` and `--group`.

    A column of which every present value is a number is numeric; any other, booleans included, is categorical, and its
    categories are those of the training rows. A missing value (tables.MISSING) is NaN, and so is a category that training
    rows lack. A column that never changes in training is left out. Files for `--test-data` and `--validation-data` have the
    same columns, in any order. All of this is counted in `handling`.
    Raises DataError for what cannot be read, naming file, line, column and value, and for columns that identify a row.
    """
    frame = tables.read_table(path, source.header)
    left_out = (*source.target, *source.drop, *([source.group] if source.group else []))
    tables.require(frame, left_out, path)
    if both := set(source.target) & {*source.drop, source.group}:
        raise DataError(f"--target {both.pop()} is also left out by --drop or --group")
    train, validation, test = splits.divide(
        frame.height,
        source,
        strata=targets.strata(frame, source, path),
        groups=tables.by_value(frame, source.group, path)[0] if source.group else None,
        has_test=source.test_data is not None,
        has_validation=source.validation_data is not None,
    )
    task = targets.learn_task(frame, source, path, train)
    dropped = {name: "row numbers" for name in _row_numbers(frame, source) if name not in left_out}
    dropped |= {name: "about the request" for name in frame.columns if name.startswith(tables.NOTE) and name not in left_out}
    names = [name for name in frame.columns if name not in left_out and name not in dropped]
    columns, constant = _columns(frame, names, train, path)
    if not columns:
        raise DataError(
            f"{path}: no column is left to predict {', '.join(source.target)} from; there are {tables.listed(frame.columns)}"
        )

    inputs, answers = {"features": _features(frame, columns, path)}, targets.encode(task, frame, source, path)
    whole = Split(inputs, answers)
    parts = {"train": whole.rows(train), "validation": whole.rows(validation), "test": whole.rows(test)}
    for part, file in (("validation", source.validation_data), ("test", source.test_data)):
        if file:
            other = tables.read_table(file, source.header)
            tables.require(other, [*source.target, *(column.name for column in columns)], file)
            parts[part] = Split({"features": _features(other, columns, file)}, targets.encode(task, other, source, file))
    return Dataset(
        name=path.stem,
        kind=Rows(columns=columns),
        task=task,
        train=lambda _epoch: parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        handling=_handling(columns, parts, dropped | constant),
    )


def _row_numbers(frame: pl.DataFrame, source: Source) -> Sequence[str]:
    """The first column where it has no name and counts the rows, as pandas and R write it."""
    if not source.header or frame.columns[0] != "1":
        return ()
    first = tables.as_numbers(frame.to_series(0))
    counted = np.arange(frame.height)
    return ("1",) if any(first.equals(pl.Series(counted + start, dtype=pl.Float64)) for start in (0, 1)) else ()


def _columns(
    frame: pl.DataFrame, names: Sequence[str], train: npt.NDArray[np.int64], path: Path
) -> tuple[tuple[Column, ...], dict[str, str]]:
    """What each column is, as the training rows have it, and the columns that say nothing there, with the reason."""
    columns: list[Column] = []
    constant = {}
    for name in names:
        if frame[name].dtype.is_temporal():
            raise DataError(
                f"{path}: column {name!r} holds {frame[name].dtype}, neither numbers nor names; leave it out with --drop {name}"
            )
        values = tables.texts(frame, name, path)
        known = values[train].drop_nulls()
        missing = len(known) < len(train)
        if known.is_empty() or (known.n_unique() == 1 and not missing):
            constant[name] = "no value in the training rows" if known.is_empty() else f"always {known[0]!r} in the training rows"
        elif frame[name].dtype not in tables.NAMES and not tables.as_numbers(values.drop_nulls()).has_nulls():
            columns += numeric(tables.numbers(frame, name, path)[train, None], (name,))
        else:
            categories = known.unique().sort().to_list()
            if len(categories) > min(MOST_CATEGORIES, max(10, len(known) // 2)):
                row = int((tables.as_numbers(values).is_null() & values.is_not_null()).arg_max() or 0)
                raise DataError(
                    f"{tables.place(frame, row, name, path)}: {values[row]!r} is no number, and {len(categories)} different values "
                    f"in {len(known)} rows are too many for categories; mend it, leave the column out with --drop {name}, or read "
                    f"it as text with --text {name}"
                )
            columns.append(Categorical(name=name, categories=tuple(categories), missing=missing))
    return tuple(columns), constant


def _features(frame: pl.DataFrame, columns: Sequence[Column], path: Path) -> npt.NDArray[np.float32]:
    """The columns as an array [rows, columns], NaN where a value is missing or a category is unknown."""
    features = np.empty((frame.height, len(columns)), np.float32)
    for number, column in enumerate(columns):
        if column.type == "numeric":
            features[:, number] = tables.numbers(frame, column.name, path)
        else:
            index = tables.texts(frame, column.name, path).replace_strict(
                list(column.categories), range(len(column.categories)), default=None, return_dtype=pl.Float32
            )
            features[:, number] = index.fill_null(float("nan")).to_numpy()
    return features


def _handling(columns: Sequence[Column], parts: Mapping[str, Split], left_out: Mapping[str, str]) -> dict[str, JsonValue]:
    """What was done, for the manifest: rows of each split, values of each column that are NaN, and columns left out."""
    absent: dict[str, JsonValue] = {}
    for number, column in enumerate(columns):
        counts = {part: int(np.isnan(split.inputs["features"][:, number]).sum()) for part, split in parts.items()}
        if any(counts.values()):
            absent[column.name] = {**counts}
    return {
        "rows": {part: len(split) for part, split in parts.items()},
        **({"missing values and unknown categories": absent} if absent else {}),
        **({"columns left out": {**left_out}} if left_out else {}),
    }
