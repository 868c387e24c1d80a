"""Heads that clients repeat with every request, but for the body's length, recognised by their bytes."""

from __future__ import annotations

from typing import Final

from service.api.head import Head

END: Final = b"\r\n\r\n"
LENGTHS: Final = (b"\r\nContent-Length: ", b"\r\ncontent-length: ")  # as clients write it; others are parsed each time
MOST_DIGITS: Final = 9
LONGEST: Final = 4096  # bytes of a head that is remembered

Known = tuple[Head, int]
"""What a head says that is remembered, and the longest body with which it may go the quick way."""


def without_length(data: bytes, end: int) -> tuple[bytes, int] | None:
    """A head, which ends at `end`, without the digits of its Content-Length, and what they say; None where there are none."""
    for name in LENGTHS:
        at = data.find(name, 0, end)
        if at > 0:
            at += len(name)
            stop = data.find(b"\r", at, end)
            if stop < 0:
                stop = end
            digits = data[at:stop]
            return (data[:at] + data[stop:end], int(digits)) if digits.isdigit() and len(digits) <= MOST_DIGITS else None
    return None
