"""multipart/form-data (RFC 7578), as browsers and `curl -F` send files."""

from __future__ import annotations

from typing import NamedTuple

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from service.errors import InvalidRequest, PayloadTooLarge

MOST_FIELDS = 10


class Form(NamedTuple):
    """`fields`: (name, value) of the parts without a file name. `files`: (file name, content) of the others, in their order."""

    fields: list[tuple[str, str]]
    files: list[tuple[str, bytes]]


def read(body: bytes, content_type: str, max_files: int) -> Form:
    """The parts of a form. Raises InvalidRequest where it is none, PayloadTooLarge where it has too many parts."""
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest(f"Content-Type is {content_type!r}; it must name the boundary: let the client set this header")
    parts = _Parts(max_files)
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_headers_finished": parts.content,
                "on_part_data": parts.data,
                "on_part_end": parts.end,
                "on_end": parts.finish,
            },
        )
        parser.write(body)
        parser.finalize()
    except FormParserError as error:
        raise InvalidRequest(f"the body is no multipart/form-data: {error}") from None
    if not parts.whole:
        raise InvalidRequest("the body is no multipart/form-data, or ends before its last boundary")
    return parts.form


class _Parts:
    """Puts together what the parser finds in a body."""

    def __init__(self, max_files: int) -> None:
        self.form = Form([], [])
        self.whole = False
        self._max_files = max_files

    def begin(self) -> None:
        self._headers: dict[bytes, bytes] = {}
        self._name = self._value = b""
        self._content = bytearray()

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def header_end(self) -> None:
        self._headers[self._name.lower()] = self._value
        self._name = self._value = b""

    def content(self) -> None:
        """The headers are over: what kind of part is it?"""
        self._disposition = parse_options_header(self._headers.get(b"content-disposition", b"").decode("latin-1"))[1]
        files, fields = self.form.files, self.form.fields
        if len(files) >= self._max_files and b"filename" in self._disposition:
            raise PayloadTooLarge(
                f"there are more than {self._max_files} files, which is all that is taken at once: send several forms"
            )
        if len(fields) >= MOST_FIELDS and b"filename" not in self._disposition:
            raise InvalidRequest(
                f"the form has more than {MOST_FIELDS} fields that are no files; top_k and explain are all there are"
            )

    def data(self, data: bytes, start: int, end: int) -> None:
        self._content += data[start:end]

    def end(self) -> None:
        file = self._disposition.get(b"filename")
        if file is not None:
            self.form.files.append((file.decode(errors="replace"), bytes(self._content)))
            return
        name = self._disposition.get(b"name", b"").decode(errors="replace")
        self.form.fields.append((name, self._content.decode(errors="replace")))

    def finish(self) -> None:
        self.whole = True
