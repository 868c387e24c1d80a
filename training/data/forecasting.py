"""Forecasts: a window of steps in, the next `horizon` steps of the target columns out; splits follow one another in time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modelrepo.tensors import ShapeRange
from training.data import tables
from training.data.dataset import DataError, Dataset, Series, Split, moments, regression
from training.data.series import Steps, channel_names, channel_values, divided, sizes
from training.data.source import Source

Span = tuple[int, int]  # steps of a history, from the first up to but without the second


def load_forecast(path: Path, source: Source) -> Dataset:
    """Windows of a table whose rows are steps in the order of time, of one series or, with `--series`, of several.

    Inputs are all columns, targets included, but for those of `--drop`. The answer is the next `--horizon` steps of the
    `--target` columns, named `price+1`, `price+2`, …, one column after the other. Each series is divided in time: the first
    steps for training, the last for the test, unless `--test-data` brings a table of its own. No answer reaches into another
    split, while the window before an answer may, as it will when serving. Validation and test windows are of full length,
    `--window` (less where a series begins); half of the training windows are cut, anew each epoch, to lengths from the
    horizon's on, so that a shorter history is answered sensibly too. Raises DataError naming file, line, column and value.
    """
    frame = tables.read_table(path, source.header)
    if not source.target:
        raise DataError(f"{path}: say with --target which column to forecast; there are {tables.listed(frame.columns)}")
    tables.require(frame, (*source.target, *source.drop, *([source.series] if source.series else [])), path)
    columns = channel_names(frame, source, path)
    if len(set(source.target)) < len(source.target):
        raise DataError(f"--target names a column twice: {', '.join(source.target)}")
    for target in source.target:
        if target not in columns:
            raise DataError(f"{path}: --target {target} is also in --drop or --series; a forecast reads what it predicts")
    return forecast(
        path.stem,
        columns,
        source,
        _histories(path, source, columns),
        validation=_histories(source.validation_data, source, columns) if source.validation_data else None,
        test=_histories(source.test_data, source, columns) if source.test_data else None,
    )


def sunspots() -> Dataset:
    """Yearly sunspot activity, 1700 to 2008, as it ships inside statsmodels: up to 44 years in, the next 11, about a cycle, out.

    The answers of training end in 1915, those of validation in 1946, those of the test in 2008. To beat on the test: the last
    year again has a mean absolute error of 58.9, the last 11 years again one of 29.3.
    """
    from statsmodels.datasets import sunspots as stored  # takes a second

    activity = stored.load_pandas().data["SUNACTIVITY"].to_numpy(np.float64)
    return forecast("sunspots", ("sunspots",), Source(target=("sunspots",), horizon=11, window=44), [activity[:, None]])  # [309, 1]


def forecast(
    name: str,
    columns: Sequence[str],
    source: Source,
    histories: list[Steps],
    *,
    validation: list[Steps] | None = None,
    test: list[Steps] | None = None,
) -> Dataset:
    """Histories [T, columns] of one or several series, divided in time; `validation` and `test`, where given, are others."""
    horizon = source.horizon or 1
    shortest = min(horizon, source.window)
    spans = divide([len(steps) for steps in histories], 0 if validation else source.validation, 0 if test else source.test)
    parts = {
        "training": find_windows(histories, spans[0], shortest, horizon),
        "validation": find_windows(validation or histories, None if validation else spans[1], shortest, horizon),
        "test": find_windows(test or histories, None if test else spans[2], shortest, horizon),
    }
    for part, windows in parts.items():
        if not len(windows.starts):
            raise DataError(
                f"{name}: the {part} steps hold no answer of {horizon} steps after a window of at least {shortest}; the longest "
                f"of {len(histories)} series has {max(map(len, histories))} steps: bring longer ones, lower --horizon, or change "
                "--validation and --test"
            )
    targets = [list(columns).index(target) for target in source.target]
    training = parts["training"]
    longest = np.minimum(training.before, source.window)
    whole = training.split(longest, targets, horizon)

    def train(epoch: int) -> Split:
        rng = np.random.default_rng((6, epoch))
        cut = rng.integers(shortest, longest + 1)
        return training.split(np.where(rng.random(len(cut)) < 0.5, longest, cut), targets, horizon)

    idle = sum(end - begin < shortest + horizon for begin, end in spans[0])
    held_out = [
        parts[part].split(np.minimum(parts[part].before, source.window), targets, horizon) for part in ("validation", "test")
    ]
    length = max(int(min(windows.before.max(), source.window)) for windows in parts.values())
    learnt = np.concatenate([steps[:end] for steps, (_, end) in zip(histories, spans[0], strict=True)])  # [training steps, columns]
    return Dataset(
        name=name,
        kind=Series(length=ShapeRange(axis="length", min=shortest, opt=length, max=length), **moments(learnt, (0,))),
        task=regression(
            [f"{target}+{step}" for target in source.target for step in range(1, horizon + 1)],
            whole.targets,
        ),
        train=train,
        validation=held_out[0],
        test=held_out[1],
        as_served=whole,
        handling={
            "rows": sizes(whole, *held_out),
            "channels": list(columns),
            "split": "in time: training answers first, then validation, then test; none reaches into the next",
            "training windows": f"half are up to {length} steps long, half are cut to {shortest} to {length}, anew each epoch",
            **({"series too short to train on": idle} if idle else {}),
        },
    )


@dataclass(frozen=True)
class Windows:
    """Forecasts to make: where each answer starts in `values` [steps of all series, C], and how many steps come before."""

    values: npt.NDArray[np.float32]
    starts: npt.NDArray[np.int64]  # [N]
    before: npt.NDArray[np.int64]  # [N]

    def split(self, lengths: npt.NDArray[np.int64], targets: Sequence[int], horizon: int) -> Split:
        """Windows of these `lengths` [N], and the answers [N, targets * horizon] float32."""
        answers = self.values[self.starts[:, None] + np.arange(horizon)][..., targets]  # [N, horizon, targets]
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]  # [N, T]
        steps = (self.starts - lengths)[:, None] + np.arange(mask.shape[1])  # [N, T]
        sequence = self.values[np.where(mask, steps, 0)] * mask[..., None]  # [N, T, C]
        return Split({"sequence": sequence, "mask": mask}, answers.transpose(0, 2, 1).reshape(len(answers), -1))


def divide(lengths: Sequence[int], validation: float, test: float) -> tuple[list[Span], list[Span], list[Span]]:
    """The training, validation and test steps of histories of these lengths; both shares are of each history, rounded."""
    ends = [
        (length - round(length * test) - round(length * validation), length - round(length * test), length) for length in lengths
    ]
    return [(0, a) for a, _, _ in ends], [(a, b) for a, b, _ in ends], [(b, c) for _, b, c in ends]


def find_windows(histories: list[Steps], spans: list[Span] | None, shortest: int, horizon: int) -> Windows:
    """All forecasts whose answer lies within the span of its history (anywhere, if None) after `shortest` steps or more."""
    starts, before, offset = [], [], 0
    for steps, (begin, end) in zip(histories, spans or [(0, len(steps)) for steps in histories], strict=True):
        here = np.arange(max(begin, shortest), end - horizon + 1)
        starts.append(offset + here)
        before.append(here)
        offset += len(steps)
    return Windows(np.concatenate(histories).astype(np.float32), np.concatenate(starts), np.concatenate(before))


def _histories(path: Path, source: Source, columns: Sequence[str]) -> list[Steps]:
    """The series of a table, each [T, columns]. Raises DataError for a missing number: later steps must not fill it in."""
    frame = tables.read_table(path, source.header)
    values = channel_values(frame, columns, path)
    if (missing := np.isnan(values)).any():
        row, column = (int(at[0]) for at in np.nonzero(missing))
        where = tables.place(frame, row, columns[column], path)
        raise DataError(f"{where}: is missing; a forecast needs every step: fill it in, or leave the column out with --drop")
    return divided(values, tables.by_value(frame, source.series, path)[0]) if source.series else [values]
