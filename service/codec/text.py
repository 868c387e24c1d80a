"""Texts to tokens, by the tokenizer a version carries, exactly as training made them."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from tokenizers import Tokenizer

from modelrepo.errors import CorruptVersion
from modelrepo.tensors import Array, TensorSpec
from service.codec import kind, media, records
from service.codec.kind import Schema
from service.codec.options import NONE, Options
from service.errors import InvalidRequest, PayloadTooLarge, Unprocessable

UNKNOWN = "<unk>"  # the token of an empty text
LONGEST_TEXT = 1_000_000  # characters; the tokenizer takes some hundred bytes of memory for each
AT_ONCE = 1_000_000  # characters of several texts


class Texts:
    """Texts for one model. A row is its tokens [length], those beyond the longest length cut off."""

    quick_bytes = 1024
    schema: Schema = {  # noqa: RUF012  # nobody changes it
        "anyOf": [
            {"type": "string", "description": "a text"},
            {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"], "additionalProperties": False},
        ]
    }
    media_types: dict[str, Schema] = {  # noqa: RUF012
        "text/plain": {"type": "string", "description": "one text; a line end after it is not part of it"},
        "text/csv": {"type": "string", "description": "a column named text, a row for each text"},
    }

    def __init__(self, path: Path, spec: TensorSpec, longest: int) -> None:
        """Of the tokenizer.json at `path`, for the input `spec`, which takes up to `longest` tokens. Raises CorruptVersion."""
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as error:  # noqa: BLE001  # tokenizers has no class of its own
            raise CorruptVersion(
                f"{path} cannot be read by tokenizers {version('tokenizers')} ({error}): install a newer one, or export again"
            ) from None
        self._dtype = spec.numpy_dtype
        self._longest = longest
        unknown = self._tokenizer.token_to_id(UNKNOWN)
        self._nothing = None if unknown is None else [unknown]

    def rows(self, instances: Sequence[msgspec.Raw]) -> list[Array | None]:
        """The tokens of each instance that is a string, or an object with nothing but a `text`."""
        texts: dict[int, str] = {}
        for position, instance in enumerate(instances):
            if memoryview(instance).tobytes()[:1] not in (b'"', b"{"):
                continue
            given = kind.json(position, instance)
            if isinstance(given, Mapping) and set(given) == {"text"}:
                given = given["text"]
                if not isinstance(given, str):
                    raise InvalidRequest(f"instance {position}: text takes a string")
            if isinstance(given, str):
                texts[position] = given
        found: list[Array | None] = [None] * len(instances)
        for position, tokens in zip(texts, self._encode([(f"instance {n}", text) for n, text in texts.items()]), strict=True):
            found[position] = tokens
        return found

    def read(self, body: bytes, content_type: str, max_rows: int) -> tuple[list[Array], Options]:
        """The one text of text/plain, or the `text` column of text/csv."""
        text = media.text(body, content_type)
        if media.name(content_type) == "text/plain":
            return list(self._encode([("the text", text.removesuffix("\n").removesuffix("\r"))])), NONE
        (_, header), *found = records.read(text, max_rows)
        if header != ["text"]:
            wrong = next((name for name in header if name != "text"), None)
            raise InvalidRequest(
                f"line 1 must be `text`, the name of the only column{'' if wrong is None else f', not {kind.shown(wrong)!r}'}"
            )
        if not found:
            raise InvalidRequest("there is no row below the line `text`")
        return list(self._encode([(f"line {line}", fields[0]) for line, fields in found])), NONE

    def elements(self, name: str, array: Array) -> list[Array]:
        """The tokens of each element of a BYTES tensor, [rows] or [rows, 1]. Raises InvalidRequest."""
        if array.ndim not in (1, 2) or array.shape[1:] not in ((), (1,)):
            raise InvalidRequest(f"input {name!r} has texts of shape {list(array.shape)}; send one a row: [rows] or [rows, 1]")
        named: list[tuple[str, str]] = []
        for row, element in enumerate(array.ravel().tolist()):
            try:
                named.append((f"input {name!r} row {row}", element.decode()))
            except UnicodeDecodeError:
                raise InvalidRequest(f"input {name!r} row {row} is no UTF-8 text") from None
        return list(self._encode(named))

    def check(self, _batch: Array) -> None:
        """Its numbers need nothing that the signature does not say."""

    def instance(self, row: Array) -> str | None:
        """The text with these tokens; None where the tokenizer cannot give it back."""
        text: str = self._tokenizer.decode(row.tolist(), skip_special_tokens=False).strip()
        (tokens,) = self._encode([("", text)])
        return text if np.array_equal(tokens, row) else None

    def text(self, row: Array) -> str:
        """The text with these tokens or, where no text has exactly these, the nearest."""
        if row.tolist() == self._nothing:
            return ""
        exact = self.instance(row)
        return str(self._tokenizer.decode(row.tolist(), skip_special_tokens=False)) if exact is None else exact

    def body(self, media_type: str, row: Array) -> str | None:
        """The text with these tokens, plain or as CSV."""
        text = self.instance(row)
        if text is None or media_type == "text/plain":
            return text
        table = io.StringIO()
        csv.writer(table, lineterminator="\n").writerows([["text"], [text]])
        return table.getvalue()

    def _encode(self, named: Sequence[tuple[str, str]]) -> Iterator[Array]:
        """The tokens of each text, a place in the request with it."""
        for where, text in named:
            if len(text) > LONGEST_TEXT:
                raise PayloadTooLarge(f"{where} has {len(text)} characters; at most {LONGEST_TEXT} are taken: send its beginning")
        start = 0
        while start < len(named):  # some at a time: of each only `longest` tokens are kept
            end, characters = start, 0
            while end < len(named) and (end == start or characters + len(named[end][1]) <= AT_ONCE):
                characters += len(named[end][1])
                end += 1
            encodings = self._tokenizer.encode_batch_fast([text for _, text in named[start:end]], add_special_tokens=False)
            for (where, _), encoding in zip(named[start:end], encodings, strict=True):
                if not encoding.ids and self._nothing is None:
                    raise Unprocessable(f"{where} has no token, and this tokenizer no {UNKNOWN} to stand for that: leave it out")
                yield np.array(encoding.ids[: self._longest] or self._nothing, self._dtype)
            start = end
