"""What a path other than those of inference asks of a key."""

from __future__ import annotations

import re

from service.keys.file import Scope

PROBES = re.compile(r"/v2/health/(?:live|ready)")
# For probes, which have no key, and for the page at /, which asks for one and shows nothing without.
OPEN = re.compile(rf"{PROBES.pattern}|/v2/models/[^/]+(?:/versions/[^/]+)?/ready|/|/playground/[^/]+")
OF_MODEL = re.compile(r"(?:/v2(?:/repository)?)?/models/([^/]+)/?.*", re.DOTALL)
INTERNALS = re.compile(r"/models/[^/]+(?:/versions/[^/]+)?/internals")
INDEX = "/v2/repository/index"
ALL_MODELS = "/v2/models/stats"


def demand(method: str, path: str) -> tuple[Scope, str | None] | None:
    """The scope, and the model that the key must be for, None where it must be for all; None where no key is asked for.

    What is not known here, and may be a path of tomorrow, asks for `admin` as soon as it could change something.
    """
    reads = method in ("GET", "HEAD")
    if reads and OPEN.fullmatch(path):
        return None
    found = OF_MODEL.fullmatch(path)
    model = found[1] if found and path != ALL_MODELS else None
    if INTERNALS.fullmatch(path):
        return "infer", model
    return ("read" if reads or path == INDEX else "admin"), model
