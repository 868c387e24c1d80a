"""Tables as files: CSV, TSV, Parquet and JSON lines become a polars frame, and columns of it become numbers.

A text file's fields stay text until someone asks for numbers, so that whoever reads a column decides what it is and an
error can name the line. Rows keep the file's order for the same reason: give these functions a frame as it was read.
"""

from __future__ import annotations

import csv
import difflib
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from training.data.dataset import DataError

NOTE = "quartet:"  # how columns begin that a service wrote about a request: no part of what it was asked
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl")
NAMES = (pl.Boolean, pl.Categorical, pl.Enum)  # types of columns that hold no numbers, whatever their values look like
MISSING = ("", "na", "n/a", "nan", "null", "?")  # fields that stand for a missing value, in any case, spaces around ignored

LARGEST = float(np.finfo(np.float32).max)  # what a network computes with


def read_table(path: Path, header: bool) -> pl.DataFrame:
    """The rows of a .csv, .tsv, .parquet or .jsonl file, in the file's order; of a folder, those of its Parquet files by name.

    Fields of CSV and TSV are strings, null where empty; Parquet and JSON lines keep their types. CSV is separated by commas,
    or by semicolons where the first line has these and no comma; quotes may enclose a field. In TSV a quote is a character
    like any other. Columns are named by the first line, or "1", "2", … where `header` is false; a column whose name is
    empty is called by its number too. Empty lines at the end are left out. Raises DataError naming file, line and column.
    """
    if files := parquet_files(path):
        frame = _joined(files)
        if not frame.height:
            raise DataError(f"{path}: has no rows")
        return frame
    if not path.is_file():
        raise DataError(f"{path}: {'is a folder, not a file' if path.is_dir() else 'no such file'}")
    if path.suffix == ".parquet":
        frame = _parquet(path)
    elif path.suffix == ".jsonl":
        frame = _json_lines(path)
    elif path.suffix in (".csv", ".tsv"):
        frame = _separated(path, header)
    else:
        raise DataError(f"{path}: a table ends in {', '.join(SUFFIXES)}")
    if not frame.height:
        raise DataError(f"{path}: has no rows")
    return frame


def parquet_files(folder: Path) -> list[Path]:
    """The Parquet files at any depth below a folder, by their names; none where it is no folder."""
    found = folder.rglob("*.parquet") if folder.is_dir() else ()
    return sorted((file for file in found if file.is_file() and not file.name.startswith(".")), key=lambda file: (file.name, file))


def by_value(frame: pl.DataFrame, column: str, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """For each line the number of the column's value, [lines], and for each value the first line that has it, [values].

    Raises DataError for a missing value.
    """
    names = texts(frame, column, path)
    if names.has_nulls():
        where = place(frame, int(names.is_null().arg_max() or 0), column, path)
        raise DataError(f"{where}: is empty, so it is not known where the line belongs; fill it in, or leave the line out")
    _, first, code = np.unique(names.to_numpy().astype(np.str_), return_index=True, return_inverse=True)
    return code, first


def require(frame: pl.DataFrame, columns: Iterable[str], path: Path) -> None:
    """Raises DataError where the table lacks one of these columns, with the nearest name there is."""
    for column in columns:
        if column not in frame.columns:
            hint = "; where the first line names no columns, say --no-header" if column.isdigit() else ""
            raise DataError(f"{path}: no column {column!r}{near(column, frame.columns)}; there are {listed(frame.columns)}{hint}")


def near(name: str, names: Iterable[str]) -> str:
    """`, did you mean 'x'?` for an error about a misspelt name; nothing where no name is close."""
    close = difflib.get_close_matches(name, list(names), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def listed(names: Iterable[str], most: int = 20) -> str:
    """Names for an error message, the first `most` of them, each cut to 40 characters: it may be a text mistaken for a header."""
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name in names]
    return ", ".join(names[:most]) + (f", … ({len(names)} in all)" if len(names) > most else "")


def place(frame: pl.DataFrame, row: int, column: str, path: Path) -> str:
    """`file.csv: line 7, column 'age'` for row `row`, counted from 0; lines are those a text editor shows.

    What is not text has no lines: then it is `row 7`, counted from 1.
    """
    if path.suffix not in (".csv", ".tsv", ".jsonl"):
        return f"{path}: row {row + 1}, column {column!r}"
    if path.suffix == ".jsonl":
        with path.open(encoding="utf-8") as file:
            written = [number for number, line in enumerate(file, 1) if line.strip()]
        return f"{path}: line {written[row]}, column {column!r}"
    headless = frame.columns == [str(number) for number in range(1, frame.width + 1)]  # so read_table names them
    for index, (line, _) in enumerate(_records(path)):
        if index == row + (not headless):
            return f"{path}: line {line}, column {column!r}"
    raise IndexError(f"{path} has no row {row}")


def texts(frame: pl.DataFrame, column: str, path: Path) -> pl.Series:
    """A column as stripped strings, null where a field is missing (see MISSING). Raises DataError for nested columns."""
    require(frame, (column,), path)
    values = frame[column]
    if values.dtype.is_nested() or values.dtype in (pl.Binary, pl.Object):
        raise DataError(f"{path}: column {column!r} holds {values.dtype}, not single values; leave it out with --drop {column}")
    values = values.cast(pl.String).str.strip_chars()
    missing = values.str.to_lowercase().is_in(MISSING)
    return pl.select(pl.when(~missing).then(values)).to_series()


def numbers(frame: pl.DataFrame, column: str, path: Path) -> npt.NDArray[np.float64]:
    """A column as numbers [rows], NaN where a field is missing; booleans are 0 and 1.

    Raises DataError naming file, line, column and value for anything that is no number a float32 can hold.
    """
    require(frame, (column,), path)
    values = frame[column]
    if values.dtype.is_temporal():
        raise DataError(f"{path}: column {column!r} holds {values.dtype}, not numbers; leave it out with --drop {column}")
    given = values if values.dtype.is_numeric() or values.dtype == pl.Boolean else texts(frame, column, path)
    read = as_numbers(given)
    wrong = (read.is_null() & given.is_not_null()) | (read.is_not_nan() & (read.abs() > LARGEST)).fill_null(False)
    if wrong.any():
        row = int(wrong.arg_max() or 0)
        raise DataError(f"{place(frame, row, column, path)}: {str(values[row])!r} is no number, or too large a one")
    return read.fill_null(float("nan")).to_numpy().astype(np.float64)


def as_numbers(values: pl.Series) -> pl.Series:
    """Float64, null where a value is no number."""
    return values.cast(pl.Float64, strict=False)


def _separated(path: Path, header: bool) -> pl.DataFrame:
    first = next(_records(path), (1, []))[1]
    if not first:
        raise DataError(f"{path}: the first line is empty; it must {'name the columns' if header else 'hold the first row'}")
    names = (
        [name.strip() or str(number) for number, name in enumerate(first, 1)] if header else [str(n + 1) for n in range(len(first))]
    )
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise DataError(f"{path}: line 1 names column {repeated[0]!r} twice; the names must differ")
    try:
        frame = pl.read_csv(
            path,
            has_header=header,
            separator=_separator(path),
            quote_char='"' if path.suffix == ".csv" else None,
            infer_schema=False,
        )
    except pl.exceptions.PolarsError as error:
        _check_widths(path, len(names))
        raise DataError(f"{path}: cannot be read as {path.suffix[1:].upper()}: {str(error).splitlines()[0]}") from error
    if frame.width != len(names) or frame[:, -1].has_nulls():
        _check_widths(path, len(names))
    frame.columns = names
    filled = frame.select(pl.any_horizontal(pl.all().is_not_null())).to_series()
    return frame.head(len(filled) - int(filled.reverse().arg_max() or 0)) if filled.any() else frame.clear()


def _separator(path: Path) -> str:
    if path.suffix == ".tsv":
        return "\t"
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        line = file.readline()
    return ";" if ";" in line and "," not in line else ","


def _records(path: Path) -> Iterator[tuple[int, list[str]]]:
    """The line each record of a CSV or TSV file starts at, counted from 1, and its fields (none for an empty line)."""
    quoting = csv.QUOTE_MINIMAL if path.suffix == ".csv" else csv.QUOTE_NONE
    csv.field_size_limit(2**31 - 1)  # a text of any length
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter=_separator(path), quoting=quoting)
        line = 1
        try:
            for fields in reader:
                yield line, fields
                line = reader.line_num + 1
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: is not UTF-8 text ({_undecodable(path)}); save it as UTF-8") from error
        except csv.Error as error:
            raise DataError(f"{path}: line {line}: {error}") from error


def _undecodable(path: Path) -> str:
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            return f"line {number} holds byte 0x{line[error.start]:02x}"
    return "at its end"


def _check_widths(path: Path, width: int) -> None:
    """polars fills a short line with nulls; a broken line must be named instead."""
    for line, fields in _records(path):
        if fields and len(fields) != width:
            raise DataError(
                f"{path}: line {line} has {len(fields)} fields where line 1 has {width}; quote a field that holds the separator"
            )


def _parquet(path: Path) -> pl.DataFrame:
    try:
        return pl.read_parquet(path)
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _joined(files: Sequence[Path]) -> pl.DataFrame:
    """Files of the same columns as one table."""
    frames = [_parquet(file) for file in files]
    for file, frame in zip(files, frames, strict=True):
        if other := set(frame.columns) ^ set(frames[0].columns):
            raise DataError(
                f"{file}: column {min(other)!r} is in this file or in {files[0]}, not in both; read folders of the same columns"
            )
    try:
        return pl.concat([frame.select(frames[0].columns) for frame in frames], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{files[0].parent}: its files do not fit together: {str(error).splitlines()[0]}") from error


def _json_lines(path: Path) -> pl.DataFrame:
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({_undecodable(path)}); save it as UTF-8") from error
    records = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}: line {number}: {error.msg} at character {error.pos + 1}") from error
        if not isinstance(record, dict):
            raise DataError(f'{path}: line {number}: a row is an object such as {{"age": 3}}, not {line.strip()[:40]}')
        records.append(record)
    try:
        return pl.from_dicts(records, infer_schema_length=None) if records else pl.DataFrame()
    except (pl.exceptions.PolarsError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read as JSON lines: {str(error).splitlines()[0]}") from error
