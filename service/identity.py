"""Which request a log line is about: the id that its caller gave, in X-Request-Id or as a V2 `id`, or one that is made for it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from contextvars import ContextVar

HEADER = "x-request-id"
GIVEN = re.compile(r"[\x21-\x7e]{1,128}")  # what may stand in a header and in a line of a log
TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")  # W3C Trace Context


class Identity:
    """Of one request. `answered` is what the X-Request-Id of its answer says: what was given there, or where the log has more.

    `key` is the name of the key that it showed, where one was asked for.
    """

    __slots__ = ("answered", "key", "model", "request_id", "trace_id", "version")

    def __init__(self, given: str | None, traceparent: str | None) -> None:
        """From the headers X-Request-Id and traceparent; what cannot be used is as good as missing."""
        self.request_id = self.answered = usable(given)
        trace = TRACEPARENT.fullmatch(traceparent) if traceparent is not None else None
        self.trace_id = trace[1] if trace is not None else None
        self.key: str | None = None
        self.model: str | None = None
        self.version: str | None = None

    def found(self, request_id: str | None) -> None:
        """A V2 request says its id, which is in its answer anyhow."""
        if self.request_id is None:
            self.request_id = usable(request_id)

    def needed(self) -> None:
        """Something will be said of it in the log that its caller should be able to point at."""
        if self.request_id is None:
            self.request_id = secrets.token_hex(8)
        self.answered = self.request_id

    def about(self) -> dict[str, object]:
        """The fields of a log line."""
        fields = {name: getattr(self, name) for name in ("request_id", "trace_id", "model", "version")}
        return {name: value for name, value in fields.items() if value is not None}


current: ContextVar[Identity | None] = ContextVar("identity", default=None)
"""The request that is being answered the long way, in its own task and the threads that it waits for."""


def of(headers: Mapping[str, str]) -> Identity:
    """Of a request with these headers, or this metadata: names in lower case."""
    return Identity(headers.get(HEADER), headers.get("traceparent"))


def usable(given: str | None) -> str | None:
    """An id that a caller gave, if it is short and printable."""
    return given if given is not None and GIVEN.fullmatch(given) else None
