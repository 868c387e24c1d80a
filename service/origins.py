"""Pages of other sites in somebody's browser: which may ask, and that none gives orders."""

from __future__ import annotations

import re
from ipaddress import ip_address
from urllib.parse import urlsplit

ORIGIN = re.compile(r"https?://[^/\s?#]+")


def parse(text: str) -> tuple[str, ...]:
    """Origins, separated by spaces. Raises ValueError."""
    found = tuple(text.split())
    for origin in found:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise ValueError(f"{origin!r} is no origin: give scheme and host, as in https://app.example.com, or *")
    return found


def may_order(origin: str | None, host: str | None, origins: tuple[str, ...]) -> bool:
    """Whether what a browser sends may change anything where no key is asked for; no `origin`: it is no browser.

    A page of another site may make a browser send it, to this very machine, too. One that lets its own host's name point here would
    look like ours, so only an address, localhost or a name among `origins` will do.
    """
    if origin is None or origin in origins:
        return True
    place = urlsplit(origin)
    if place.netloc != host:
        return False
    try:
        ip_address(place.hostname or "")
    except ValueError:
        return place.hostname == "localhost"
    return True
