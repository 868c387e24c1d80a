"""CSV bodies: the records of a text, each with the line it starts at."""

from __future__ import annotations

import csv
import io

from service.errors import InvalidRequest, PayloadTooLarge

Record = tuple[int, list[str]]


def read(text: str, max_rows: int) -> list[Record]:
    """(line, fields) of every record, the header's included; all have as many fields. Lines are counted from 1.

    Fields are separated by commas, or by semicolons where the first line has these and no comma; quotes may enclose a field.
    Empty lines at the end are left out. Raises InvalidRequest naming the line, PayloadTooLarge beyond `max_rows` rows.
    """
    first = text.split("\n", 1)[0]
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    found: list[Record] = []
    line = 1
    try:
        for fields in reader:
            found.append((line, fields))
            line = reader.line_num + 1
            if len(found) > max_rows + 1:
                raise PayloadTooLarge(
                    f"there are more than {max_rows} rows, which is all that is taken at once: send several files"
                )
    except csv.Error as error:
        raise InvalidRequest(f"line {line}: {error}") from None
    while found and not found[-1][1]:
        found.pop()
    if not found:
        raise InvalidRequest("the body is empty; send a line for each row")
    width = len(found[0][1])
    for line, fields in found:
        if not fields:
            raise InvalidRequest(f'line {line} is empty; remove it, or write "" for an empty value')
        if len(fields) != width:
            raise InvalidRequest(
                f"line {line} has {len(fields)} fields, line 1 has {width}; quote a field that holds the separator {separator!r}"
            )
    return found
