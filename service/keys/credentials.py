"""What a caller shows: the key in a request's headers, as its hash, so that the key itself is kept nowhere."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping

from service.keys.file import digest

SECRET = frozenset({"authorization", "x-api-key", "cookie", "proxy-authorization"})
"""Headers that have something in them which only the two sides should know."""


def presented(headers: Mapping[str, str], basic: bool = False) -> bytes | None:
    """The hash of the key in `X-API-Key: KEY` or, where there is none, `Authorization: Bearer KEY`; None without either.

    Names of headers are in lower case. `basic` also takes `Authorization: Basic`, with any user and the key as the password, for
    which a browser has a form. The browser then adds it by itself, to what another site's page asks for too: so it is only for
    requests that change nothing, whose answers such a page cannot see.
    """
    key = headers.get("x-api-key")
    if key is None:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            key = value
        elif basic and scheme.lower() == "basic":
            key = _password(value)
    return digest(key.strip()) if key is not None else None


def _password(value: str) -> str:
    try:
        return base64.b64decode(value.strip(), validate=True).decode("latin-1").partition(":")[2]
    except (binascii.Error, ValueError):
        return ""  # the hash of no key
