"""What a Content-Type says: the kind of body, and how its text is encoded."""

from __future__ import annotations

import re

from service.errors import InvalidRequest, UnsupportedMediaType

CHARSET = re.compile(r";\s*charset=\"?([^\s\";]+)", re.IGNORECASE)
UTF_8 = ("utf-8", "utf8", "us-ascii")
USUAL = {"image/jpg": "image/jpeg", "application/csv": "text/csv"}  # names that many clients use for these


def name(content_type: str) -> str:
    """The media type without its parameters: `text/csv` of `Text/CSV; charset=utf-8`."""
    given = content_type.partition(";")[0].strip().lower()
    return USUAL.get(given, given)


def text(body: bytes, content_type: str) -> str:
    """The body as text, without a byte order mark. Raises UnsupportedMediaType or InvalidRequest for what is no UTF-8."""
    charset = CHARSET.search(content_type)
    if charset and charset[1].lower() not in UTF_8:
        raise UnsupportedMediaType(f"charset {charset[1]!r} is not decoded here: send UTF-8")
    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = body.count(b"\n", 0, error.start) + 1
        raise InvalidRequest(f"line {line}: the byte 0x{body[error.start]:02x} is not UTF-8; save the text as UTF-8") from None
