"""Series in one table: each line is a step, a column says of which series, the other columns are its channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange
from training.data import splits, tables, targets
from training.data.dataset import DataError, Dataset, Series, Split, moments
from training.data.source import Source

Steps = npt.NDArray[np.float64]  # one series, [T, channels]

FILLED = (
    "a missing value lies on the straight line between its neighbours in time; before the first or after the last it is that one"
)


def load_series(path: Path, source: Source) -> Dataset:
    """The series of a long table: `--series` names the column that tells them apart, `--target` what to predict of each.

    Lines of one series need not be neighbours, but stand in the order of time. Target and `--group` say the same on all lines
    of a series. All other columns are channels, in the file's order. A missing value is filled in from the same series (see
    `FILLED`), and `handling` counts these. Splits are of whole series, by class where there are classes. Raises DataError
    naming file, line, column and value.
    """
    table = read_long(path, source)
    validation_table = read_long(source.validation_data, source, table) if source.validation_data else None
    test_table = read_long(source.test_data, source, table) if source.test_data else None
    train, validation, test = splits.divide(
        len(table.series),
        source,
        strata=targets.strata(table.answers, source, path),
        groups=table.groups,
        has_test=test_table is not None,
        has_validation=validation_table is not None,
    )
    task = targets.learn_task(table.answers, source, path, train)
    whole = _split(table, task, source)
    parts = (
        whole.rows(train),
        _split(validation_table, task, source) if validation_table else whole.rows(validation),
        _split(test_table, task, source) if test_table else whole.rows(test),
    )
    missing = sum(read.missing for read in (table, validation_table, test_table) if read)
    return Dataset(
        name=path.stem,
        kind=describe(*parts),
        task=task,
        train=lambda _epoch: parts[0],
        validation=parts[1],
        test=parts[2],
        handling={"rows": sizes(*parts), "channels": list(table.channels), **filled(missing)},
    )


@dataclass(frozen=True)
class LongTable:
    """A long table by series, in the order of their names: what was read of each."""

    path: Path
    frame: pl.DataFrame
    series: list[Steps]
    channels: tuple[str, ...]
    first: npt.NDArray[np.int64]  # the line each series starts at, [N]
    groups: npt.NDArray[np.int64] | None
    missing: int

    @property
    def answers(self) -> pl.DataFrame:
        """One row per series, which holds its target."""
        return self.frame[self.first]


def read_long(path: Path, source: Source, like: LongTable | None = None) -> LongTable:
    """Read and check one long table, with the channels of `like` if given. Raises DataError naming file, line and column."""
    frame = tables.read_table(path, source.header)
    if source.series is None or not source.target:
        raise DataError(f"{path}: series need --series, the column that tells them apart, and --target, what to predict of each")
    tables.require(frame, (source.series, *source.target), path)
    if not like:  # a table that is not divided needs no groups, and nothing it leaves out
        tables.require(frame, (*source.drop, *([source.group] if source.group else [])), path)
    code, first = tables.by_value(frame, source.series, path)
    for column in source.target:
        _constant(frame, column, code, first, source.series, path)
        if source.task in ("regression", "multilabel") or len(source.target) > 1:
            tables.numbers(frame, column, path)  # an error here names the line in the file
    groups = None
    if source.group and not like:
        _constant(frame, source.group, code, first, source.series, path)
        groups = tables.by_value(frame, source.group, path)[0][first]
    channels = like.channels if like else channel_names(frame, source, path, exclude=(*source.target, source.group))
    values = channel_values(frame, channels, path)  # [lines, C]
    series = divided(values, code)
    for line, steps in zip(first.tolist(), series, strict=True):
        if (empty := np.isnan(steps).all(axis=0)).any():
            where = tables.place(frame, line, channels[int(empty.argmax())], path)
            name = frame[source.series][line]
            raise DataError(f"{where}: series {name!r} has no value here on any of its lines; leave the series or the column out")
    return LongTable(path, frame, [interpolated(steps) for steps in series], channels, first, groups, int(np.isnan(values).sum()))


def channel_names(frame: pl.DataFrame, source: Source, path: Path, exclude: Sequence[str | None] = ()) -> tuple[str, ...]:
    """The columns that are numbers of each step: all that have no other meaning."""
    channels = tuple(
        name for name in frame.columns if name not in (source.series, *source.drop, *exclude) and not name.startswith(tables.NOTE)
    )
    if not channels:
        raise DataError(f"{path}: no column is left for the steps' numbers; there are only {tables.listed(frame.columns)}")
    return channels


def channel_values(frame: pl.DataFrame, channels: Sequence[str], path: Path) -> Steps:
    """The channels as numbers, [lines, C], NaN where missing. Raises DataError naming file, line, column and value."""
    columns = []
    for channel in channels:
        try:
            columns.append(tables.numbers(frame, channel, path))
        except DataError as error:
            hint = (
                "" if "--drop" in str(error) else f"; a channel is made of numbers: mend it, or leave it out with --drop {channel}"
            )
            raise DataError(f"{error}{hint}") from error
    return np.stack(columns, axis=1)


def divided(values: Steps, code: npt.NDArray[np.int64]) -> list[Steps]:
    """Lines [lines, C] as one array [T, C] per series, each in the order of its lines."""
    order = np.argsort(code, kind="stable")
    return np.split(values[order], np.cumsum(np.bincount(code))[:-1])


def interpolated(steps: Steps) -> Steps:
    """One series [T, C] with NaN filled in as `FILLED` says; a channel of nothing but NaN stays as it is."""
    known = ~np.isnan(steps)
    if known.all():
        return steps
    time = np.arange(len(steps))
    columns = [
        np.interp(time, time[present], values[present]) if present.any() else values
        for values, present in zip(steps.T, known.T, strict=True)
    ]
    return np.stack(columns, axis=1)


def sizes(train: Split, validation: Split, test: Split) -> dict[str, int]:
    """How many rows the splits have, as `Dataset.handling` records it."""
    return {"train": len(train), "validation": len(validation), "test": len(test)}


def filled(missing: int) -> dict[str, str | int]:
    """What `Dataset.handling` records of missing values: nothing where there are none."""
    return {"missing values": missing, "missing values filled": FILLED} if missing else {}


def padded(series: Sequence[Steps], answers: npt.NDArray[np.generic]) -> Split:
    """Series [T, C] of several lengths as a split: `sequence` [N, longest, C] float32 and `mask` [N, longest] bool."""
    lengths = np.array([len(steps) for steps in series])
    mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # [N, T]
    sequence = np.zeros((*mask.shape, series[0].shape[1]), np.float32)  # [N, T, C]
    sequence[mask] = np.concatenate(series)
    return Split({"sequence": sequence, "mask": mask}, answers)


def describe(train: Split, *others: Split) -> Series:
    """The kind: moments over the real steps of the training rows, and lengths from 1 to the longest of all splits."""
    lengths = [split.inputs["mask"].sum(axis=1) for split in (train, *others)]
    longest = max(int(length.max()) for length in lengths)
    steps = train.inputs["sequence"][train.inputs["mask"]].astype(np.float64)  # [steps, C]
    return Series(length=ShapeRange(axis="length", min=1, opt=int(np.median(lengths[0])), max=longest), **moments(steps, (0,)))


def _split(table: LongTable, task: Task, source: Source) -> Split:
    answers = targets.encode(task, table.frame, source, table.path)  # of all lines: an error then names the right one
    return padded(table.series, answers[table.first])


def _constant(
    frame: pl.DataFrame, column: str, code: npt.NDArray[np.int64], first: npt.NDArray[np.int64], series: str, path: Path
) -> None:
    """Refuse a column that is missing somewhere, or changes within a series."""
    values = tables.texts(frame, column, path)
    if values.has_nulls():
        raise DataError(
            f"{tables.place(frame, int(values.is_null().arg_max() or 0), column, path)}: is empty; give it on every line"
        )
    same = values.to_numpy().astype(np.str_)
    changed = same != same[first[code]]
    if changed.any():
        line = int(changed.argmax())
        began = values[int(first[code[line]])]
        raise DataError(
            f"{tables.place(frame, line, column, path)}: {values[line]!r}, but series {frame[series][line]!r} began with "
            f"{began!r}; a series has one value of {column!r}"
        )
