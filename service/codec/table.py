"""Rows of a table: names of categories, missing values and columns by name, in JSON or as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from modelrepo.preprocessing import Column
from modelrepo.tensors import Array
from service.codec import kind, media, records
from service.codec.kind import Schema, shown
from service.codec.options import NONE, Options
from service.errors import InvalidRequest, Unprocessable, too_many_rows

MISSING = ("", "na", "n/a", "nan", "null", "?")  # a field of CSV that stands for a missing value, as in training
LARGEST = float(np.finfo(np.float32).max)
NAN = math.nan


class Table:
    """The columns of one model's table. A row is float32 [columns], as modelrepo.preprocessing.Columns says."""

    quick_bytes = 2048

    def __init__(self, input_name: str, columns: Sequence[Column]) -> None:
        self._input = input_name
        self._columns = columns
        self._position = {column.name: position for position, column in enumerate(columns)}
        self._codes = [
            {name: float(code) for code, name in enumerate(column.categories)} if column.type == "categorical" else None
            for column in columns
        ]
        categorical = [(i, len(codes)) for i, codes in enumerate(self._codes) if codes is not None]
        self._categorical = [position for position, _ in categorical]
        self._categories = np.array([count for _, count in categorical], np.float32)
        properties = {column.name: _schema(column) for column in columns}
        named: Schema = {"type": "object", "properties": properties, "additionalProperties": False, "minProperties": 1}
        cells = {
            "type": "array",
            "items": {"type": ["number", "string", "null"]},
            "minItems": len(columns),
            "maxItems": len(columns),
        }
        self.schema: Schema = {"anyOf": [named, {**cells, "description": "the columns in their order"}]}
        self.media_types = {
            "text/csv": {
                "type": "string",
                "description": "a line of column names in any order, then a line for each row; empty is missing",
            }
        }

    def rows(self, instances: Sequence[msgspec.Raw]) -> list[Array | None]:
        """A row for each object of values by column name, and for each list that holds more than numbers."""
        return [self._row(f"instance {position}", kind.json(position, given)) for position, given in enumerate(instances)]

    def read(self, body: bytes, content_type: str, max_rows: int) -> tuple[list[Array], Options]:
        """The rows of a CSV file.

        The first line names columns, in any order, and those it leaves out are missing; without such a line there is a field for
        each column, in the model's order.
        """
        found = records.read(media.text(body, content_type), max_rows)
        named = self._header(found[0][1])
        order = range(len(self._columns)) if named is None else named
        if named is not None:
            found = found[1:]
        if not found:
            raise InvalidRequest("there is no row below the line of column names")
        if len(found) > max_rows:
            raise too_many_rows(len(found), max_rows)
        rows = [[NAN] * len(self._columns) for _ in found]
        for row, (line, fields) in zip(rows, found, strict=True):
            for position, field in zip(order, fields, strict=True):
                row[position] = self._field(f"line {line}", position, field)
        return list(np.array(rows, np.float32)), NONE

    def check(self, features: Array) -> None:
        """Raise Unprocessable where `features` [rows, columns] holds a number that is no index of its column's categories."""
        if not self._categorical:
            return
        codes = features[:, self._categorical]
        wrong = (codes != np.floor(codes)) | (codes < 0) | (codes >= self._categories)
        wrong &= ~np.isnan(codes)
        if wrong.any():
            row, at = (int(index) for index in np.argwhere(wrong)[0])
            column, count = self._columns[self._categorical[at]].name, int(self._categories[at])
            raise Unprocessable(
                f"instance {row}: column {column!r} is {codes[row, at]:g}; "
                f"a number is the index of one of its {count} categories, 0 to {count - 1}: send the name itself, or null"
            )

    def instance(self, row: Array) -> dict[str, float | str | None]:
        """The row as an object: numbers rounded to be read, names for categories, null for what is missing."""
        return {column.name: _readable(column, value) for column, value in zip(self._columns, row.tolist(), strict=True)}

    def body(self, _media_type: str, row: Array) -> str:
        """The row as CSV with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        values = self.instance(row)
        writer.writerow(values)
        writer.writerow("" if value is None else value for value in values.values())
        return text.getvalue()

    def _row(self, where: str, given: Any) -> Array | None:
        if isinstance(given, Mapping):
            if set(given) == {self._input} and isinstance(given[self._input], list):
                return None  # numbers by the name of the input
            if not given:
                raise InvalidRequest(f"{where} is empty; it takes values by column name, null where one is missing")
            row = [NAN] * len(self._columns)
            for name, value in given.items():
                position = self._position.get(name)
                if position is None:
                    raise InvalidRequest(f"{where}: {kind.unknown(name, self._position)}")
                if self._codes[position] is not None and isinstance(value, int | float) and not isinstance(value, bool):
                    # An index here, or a name that looks like a number? A list, which has always been numbers, takes the index.
                    raise InvalidRequest(f"{where}: column {name!r} takes the name of a category as a string, not {value}")
                row[position] = self._cell(where, position, value)
            return np.array(row, np.float32)
        if not isinstance(given, list) or not any(isinstance(value, str | bool | None) for value in given):
            return None
        if len(given) != len(self._columns):
            raise InvalidRequest(f"{where} has {len(given)} values; the table has {len(self._columns)} columns")
        return np.array([self._cell(where, position, value) for position, value in enumerate(given)], np.float32)

    def _cell(self, where: str, position: int, value: Any) -> float:
        """A JSON value as the number that stands for it."""
        codes = self._codes[position]
        match value:
            case None:
                return NAN
            case bool() | str() if codes is not None:
                return codes.get(str(value).lower() if isinstance(value, bool) else value.strip(), NAN)
            case int() | float() if not isinstance(value, bool) and abs(value) <= LARGEST:
                return float(value)
        takes = f"a number a float32 can hold, or null where it is missing, not {shown(repr(value))}"
        if codes is not None:
            takes = f"the name of a category or null, not {shown(repr(value))}"
        raise InvalidRequest(f"{where}: column {self._columns[position].name!r} takes {takes}")

    def _header(self, fields: list[str]) -> list[int] | None:
        """Which column each field of the first line names; None where that line is a row of values instead."""
        names = [field.strip() for field in fields]
        if not all(name in self._position for name in names):
            if self._are_values(fields):
                return None
            if not any(name in self._position for name in names) and len(fields) == len(self._columns):
                wrong = kind.unknown(next(name for name in names if name not in self._position), self._position)
                raise InvalidRequest(f"line 1 is neither a row of values nor one of column names: {wrong}")
            raise InvalidRequest(f"line 1: {kind.unknown(next(n for n in names if n not in self._position), self._position)}")
        if repeated := [name for name in names if names.count(name) > 1]:
            raise InvalidRequest(f"line 1 names column {repeated[0]!r} twice")
        return [self._position[name] for name in names]

    def _are_values(self, fields: list[str]) -> bool:
        """Whether these may be a row: numbers where numbers belong, and not only names that nobody knows."""
        if len(fields) != len(self._columns):
            return False
        try:
            values = [self._field("line 1", position, field) for position, field in enumerate(fields)]
        except InvalidRequest:
            return False
        return not all(math.isnan(value) for value in values)

    def _field(self, where: str, position: int, field: str) -> float:
        """A field of CSV as the number that stands for it."""
        codes = self._codes[position]
        if codes is not None:
            return codes.get(field.strip(), NAN)
        try:
            return _number(field)
        except ValueError:
            name = self._columns[position].name
            raise InvalidRequest(f"{where}: column {name!r} takes a number a float32 can hold, not {shown(field)!r}") from None


def _number(field: str) -> float:
    """A number, NaN where it is missing. Raises ValueError."""
    try:
        number = float(field)
    except ValueError:
        number = NAN
    if abs(number) <= LARGEST and field.isascii() and "_" not in field:  # Python takes more than training does
        return number
    if field.strip().lower() in MISSING:
        return NAN
    raise ValueError


def _schema(column: Column) -> Schema:
    if column.type == "numeric":
        return {"type": ["number", "null"]}
    return {
        "type": ["string", "null"],
        "examples": list(column.categories[:20]),
        "description": f"one of {len(column.categories)} categories; any other name is taken as unknown",
    }


def _readable(column: Column, value: float) -> float | str | None:
    if math.isnan(value):
        return None
    return column.categories[int(value)] if column.type == "categorical" else round(value, 4)
