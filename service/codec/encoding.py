"""Content codings of HTTP bodies, gzip and deflate, both ways (RFC 9110, sections 8.4 and 12.5.3).

`deflate` is a zlib stream. Some clients send the bare stream inside it instead, which is understood too; answers never are.
"""

from __future__ import annotations

import zlib
from functools import lru_cache

from service.errors import InvalidRequest, PayloadTooLarge, UnsupportedEncoding

CODINGS = ("gzip", "deflate")
ALIASES = {"x-gzip": "gzip"}
LEVEL = 1  # the fastest: a server's time is dearer than the last tenth of a body

GZIP, ZLIB, BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS  # zlib's names for the three wrappings


def of_request(content_encoding: str) -> str | None:
    """The coding that the header `Content-Encoding` names, None for a body as it is. Raises UnsupportedEncoding."""
    given = [coding.strip().lower() for coding in content_encoding.split(",")]
    found = [ALIASES.get(coding, coding) for coding in given if coding not in ("", "identity")]
    if not found:
        return None
    if len(found) > 1:
        raise UnsupportedEncoding(f"the body is encoded {len(found)} times, {content_encoding!r}: encode it once at most", CODINGS)
    if found[0] not in CODINGS:
        raise UnsupportedEncoding(f"content encoding {found[0]!r} is not decoded here: send gzip, deflate, or neither", CODINGS)
    return found[0]


def decode(body: bytes, coding: str, limit: int) -> bytes:
    """The body as it was before `coding`. No more than `limit` bytes are ever inflated.

    Raises PayloadTooLarge beyond these, InvalidRequest for a stream that is torn, damaged or followed by anything.
    """
    inflater = zlib.decompressobj(_wrapping(body, coding))
    try:
        content = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidRequest(f"the body is not {coding}, as its content-encoding says: {error}") from None
    if len(content) > limit:
        raise PayloadTooLarge(f"the body inflates to more than {limit} bytes: send fewer rows at a time")
    if not inflater.eof:
        raise InvalidRequest(f"the body's {coding} stream ends too early, after {len(content)} inflated bytes")
    if inflater.unused_data:
        raise InvalidRequest(f"{len(inflater.unused_data)} bytes follow the end of the body's {coding} stream: send one stream")
    return content


def _wrapping(body: bytes, coding: str) -> int:
    """What zlib shall expect around the stream. No encoder starts a bare one with the two bytes that start zlib's."""
    if coding == "gzip":
        return GZIP
    return ZLIB if len(body) > 1 and body[0] & 15 == zlib.DEFLATED and (body[0] << 8 | body[1]) % 31 == 0 else BARE


@lru_cache(64)
def of_answer(accept_encoding: str) -> str | None:
    """The coding that the header `Accept-Encoding` likes best, None for none.

    Where both are liked alike it is gzip. Quality values are honoured; what is malformed is not accepted.
    """
    qualities: dict[str, float] = {}
    for item in accept_encoding.lower().split(","):
        name, _, parameter = (part.strip() for part in item.partition(";"))
        qualities[ALIASES.get(name, name)] = _quality(parameter)
    best = max(CODINGS, key=lambda coding: qualities.get(coding, qualities.get("*", 0.0)))
    quality = qualities.get(best, qualities.get("*", 0.0))
    return best if quality > 0 and quality >= qualities.get("identity", 0.0) else None


def _quality(parameter: str) -> float:
    """The value of `q=…`: 1 where it is left out, 0 where it is none."""
    if not parameter:
        return 1.0
    name, _, value = parameter.partition("=")
    whole, _, fraction = value.strip().partition(".")
    if name.strip() != "q" or whole not in ("0", "1") or not (fraction or "0").isascii() or not (fraction or "0").isdecimal():
        return 0.0
    return min(1.0, float(f"{whole}.{fraction or 0}"))


def encode(content: bytes, coding: str) -> bytes:
    """`content` in one of `CODINGS`."""
    deflater = zlib.compressobj(LEVEL, wbits=GZIP if coding == "gzip" else ZLIB)
    return deflater.compress(content) + deflater.flush()


def shorter(content: bytes, coding: str) -> bytes | None:
    """`content` in one of `CODINGS`; None where that saves so little that the client's decoding costs more than the bytes."""
    encoded = encode(content, coding)
    return encoded if len(encoded) < 0.9 * len(content) else None
