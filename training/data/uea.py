"""The `.ts` files of the UEA and UCR archives: one series a line, channels apart by colons, values by commas.

The format is that of aeon and sktime (Bagnall et al. 2018, "The UEA multivariate time series classification archive").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from modelrepo.tasks import Binary, Multiclass, Regression, Task
from training.data import splits
from training.data.dataset import DataError, Dataset, Split, regression
from training.data.series import Steps, describe, filled, interpolated, padded, sizes
from training.data.source import Source
from training.data.tables import LARGEST

MISSING = ("?", "nan")


def load_ts(path: Path, source: Source) -> Dataset:
    """The series of a `.ts` file, of equal or unequal lengths, for classification or regression.

    Labels are those of the header, in its order. Missing values are filled in from the same series (see `series.FILLED`),
    and `handling` counts them. Raises DataError naming file, line, series, channel and value.
    """
    file = read_ts(path)
    validation_file = read_ts(source.validation_data, file) if source.validation_data else None
    test_file = read_ts(source.test_data, file) if source.test_data else None
    train, validation, test = splits.divide(
        len(file.series),
        source,
        strata=np.array(file.answers) if file.labels else None,
        has_test=test_file is not None,
        has_validation=validation_file is not None,
    )
    task = _task(file, train)
    whole = _split(file, task)
    parts = (
        whole.rows(train),
        _split(validation_file, task) if validation_file else whole.rows(validation),
        _split(test_file, task) if test_file else whole.rows(test),
    )
    missing = sum(read.missing for read in (file, validation_file, test_file) if read)
    return Dataset(
        name=file.name or path.stem,
        kind=describe(*parts),
        task=task,
        train=lambda _epoch: parts[0],
        validation=parts[1],
        test=parts[2],
        handling={"rows": sizes(*parts), **filled(missing)},
    )


@dataclass(frozen=True)
class TsFile:
    """What a `.ts` file says: `labels` are empty for regression, whose answers are numbers."""

    name: str
    labels: tuple[str, ...]
    series: list[Steps]
    answers: list[str]
    missing: int


def read_ts(path: Path, like: TsFile | None = None) -> TsFile:
    """Read a `.ts` file; with `like`, one of the same channels and labels. Raises DataError naming file, line and value."""
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")  # some comments of the archives are Latin-1
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}") from error
    lines = iter(list(enumerate(text.split("\n"), 1)))
    header = _header(lines, path)
    labels = _labels(header, path)
    if like and bool(like.labels) != bool(labels):
        raise DataError(f"{path}: one of the files is a classification and the other a regression")
    known = like.labels if like else labels
    channels = like.series[0].shape[1] if like else None
    series: list[Steps] = []
    answers: list[str] = []
    missing = 0
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        where = f"{path}: line {number}, series {len(series) + 1}"
        *written, answer = line.strip().split(":")
        if channels is None:
            channels = int(header.get("dimensions") or header.get("dimension") or len(written))
        if len(written) != channels:
            raise DataError(f"{where}: has {len(written)} channels where there should be {channels}, each ended by a colon")
        steps = np.stack(
            _equally_long([_channel(text, f"{where}, channel {c}") for c, text in enumerate(written, 1)], where), axis=1
        )
        missing += int(np.isnan(steps).sum())
        if (empty := np.isnan(steps).all(axis=0)).any():
            raise DataError(f"{where}, channel {int(empty.argmax()) + 1}: has no value at all; leave the series out")
        series.append(interpolated(steps))
        answers.append(_answer(answer.strip(), known, where))
    if not series:
        raise DataError(f"{path}: has no series after @data")
    return TsFile(header.get("problemname", ""), labels, series, answers, missing)


def _header(lines: Iterator[tuple[int, str]], path: Path) -> dict[str, str]:
    """The `@key value` lines, keys in lower case, up to `@data`."""
    header: dict[str, str] = {}
    for number, line in lines:
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith("@"):
            raise DataError(f"{path}: line {number}: {line[:40]!r} before @data; the header's lines begin with @ or #")
        key, _, value = line[1:].strip().partition(" ")
        if key.lower() == "data":
            break
        header[key.lower()] = value.strip()
    else:
        raise DataError(f"{path}: has no line @data, which a .ts file's series follow")
    if header.get("timestamps", "false").lower() == "true":
        raise DataError(f"{path}: @timeStamps true is not read; write the values without their times, at equal intervals")
    if not header.get("dimensions", header.get("dimension", "1")).isdigit():
        raise DataError(f"{path}: @dimensions {header.get('dimensions', header.get('dimension'))!r} is no count of channels")
    return header


def _labels(header: dict[str, str], path: Path) -> tuple[str, ...]:
    """The labels of `@classLabel true a b c`, or none for `@targetLabel true`."""
    says, *labels = header.get("classlabel", "false").split() or ["false"]
    if says.lower() == "true":
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise DataError(f"{path}: @classLabel true must be followed by the labels, at least two and different, not {labels}")
        return tuple(labels)
    if header.get("targetlabel", "false").lower() == "true":
        return ()
    raise DataError(f"{path}: has neither @classLabel true nor @targetLabel true, so there is nothing to predict")


def _channel(text: str, where: str) -> npt.NDArray[np.float64]:
    """The numbers of one channel, [T], NaN where missing."""
    if "(" in text:
        raise DataError(f"{where}: {text[:20]!r} holds times; write the values without them, at equal intervals")
    values = [value.strip() for value in text.split(",")]
    try:
        numbers = np.array([np.nan if value.lower() in MISSING else float(value) for value in values])
    except ValueError:
        step = next(step for step, value in enumerate(values) if not _is_number(value))
        raise DataError(f"{where}, step {step + 1}: {values[step]!r} is no number") from None
    if (large := np.abs(numbers) > LARGEST).any():
        step = int(large.argmax())
        raise DataError(f"{where}, step {step + 1}: {values[step]!r} is too large a number")
    return numbers


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return value.lower() in MISSING
    return True


def _equally_long(channels: list[npt.NDArray[np.float64]], where: str) -> list[npt.NDArray[np.float64]]:
    for number, channel in enumerate(channels, 1):
        if len(channel) != len(channels[0]):
            raise DataError(f"{where}, channel {number}: has {len(channel)} steps where channel 1 has {len(channels[0])}")
    return channels


def _answer(answer: str, labels: tuple[str, ...], where: str) -> str:
    if labels and answer not in labels:
        raise DataError(f"{where}: label {answer!r} is none of those of @classLabel: {', '.join(labels)}")
    if not labels and not (_is_number(answer) and answer.lower() not in MISSING and abs(float(answer)) <= LARGEST):
        raise DataError(f"{where}: target {answer!r} is no number, or too large a one")
    return answer


def _task(file: TsFile, train: npt.NDArray[np.int64]) -> Task:
    if file.labels:
        return Binary(labels=file.labels) if len(file.labels) == 2 else Multiclass(labels=file.labels)
    return regression(("target",), np.array(file.answers, np.float64)[train, None])


def _split(file: TsFile, task: Task) -> Split:
    if isinstance(task, Regression):
        return padded(file.series, np.array(file.answers, np.float32)[:, None])  # [N, 1]
    labels = np.array([task.labels.index(answer) for answer in file.answers])
    return padded(file.series, labels[:, None].astype(np.float32) if isinstance(task, Binary) else labels)
