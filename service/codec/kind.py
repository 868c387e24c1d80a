"""What a row may be besides numbers: a line of a table, a text, a picture."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import msgspec

from modelrepo.tensors import Array
from service.codec.options import Options
from service.errors import InvalidRequest

Schema = dict[str, Any]


class Kind(Protocol):
    """One such kind, for one model. A row is an array of the shape of the model's input without its batch axis."""

    quick_bytes: int
    """Bodies up to this long are decoded within a millisecond or so, for which a thread is not worth its while."""
    media_types: dict[str, Schema]
    """Bodies it comes in besides JSON, each with its OpenAPI schema."""
    schema: Schema
    """Of an instance in JSON."""

    def rows(self, instances: Sequence[msgspec.Raw]) -> list[Array | None]:
        """The row of each JSON instance of this kind, None for others. Raises ServiceErrors that name the instance."""

    def read(self, body: bytes, content_type: str, max_rows: int) -> tuple[list[Array], Options]:
        """The rows of a body of one of the `media_types`, and the options that came with them. Raises ServiceErrors."""

    def check(self, batch: Array) -> None:
        """Raise Unprocessable for numbers [rows, …] that the signature lets pass and this kind does not."""

    def instance(self, row: Array) -> Any:
        """A JSON instance that is read as this row, None where there is none that is exact."""

    def body(self, media_type: str, row: Array) -> str | None:
        """A body of one of the `media_types` that is read as this row; None where there is none, or it is no text."""


def json(position: int, instance: msgspec.Raw) -> Any:
    """An instance as Python values. Raises InvalidRequest."""
    try:
        return msgspec.json.decode(instance)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"instance {position}: {error}") from None
    except RecursionError:
        raise InvalidRequest(f"instance {position} is nested too deeply") from None


def unknown(name: str, known: Iterable[str]) -> str:
    """`unknown column 'aeg' (did you mean 'age'?); the columns are age, town`, with names cut short and not too many."""
    names = list(known)
    close = difflib.get_close_matches(name[:100], names, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    listed = ", ".join(shown(each) for each in names[:20]) + (f", … ({len(names)} in all)" if len(names) > 20 else "")
    return f"unknown column {shown(name)!r}{hint}; the columns are {listed}"


def shown(text: str) -> str:
    """A caller's text, short enough for a message."""
    return text if len(text) <= 40 else f"{text[:39]}…"
