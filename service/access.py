"""A line for each request, where that is asked for."""

from __future__ import annotations

import logging
import time

from starlette.types import Message, Scope, Send

from service import identity
from service.identity import Identity
from service.siblings import ASKED_BY_SIBLING

log = logging.getLogger("quartet.access")

GONE = 499  # of a request whose caller left, as nginx has it


class AccessLog:
    """Method, path without its query, status, milliseconds, bytes of the answer, and the ids of the request: no payload."""

    def line(self, method: str, path: str, status: int, seconds: float, size: int, request: Identity) -> None:
        """A request was answered, or its caller left."""
        milliseconds = round(seconds * 1e3, 3)
        about = {"method": method, "path": path, "status": status, "ms": milliseconds, "bytes": size, **request.about()}
        log.info("%s %s %d %.3f ms %d bytes", method, path, status, milliseconds, size, extra={"about": about})

    def noting(self, scope: Scope, send: Send) -> Send:
        """`send` for an ASGI request whose line is written with the end of its answer; what a sibling asks gets none."""
        if scope.get("client") is None and any(name == ASKED_BY_SIBLING.encode() for name, _ in scope["headers"]):
            return send  # from a Unix socket, as nobody else comes
        started = time.monotonic()
        status = size = 0

        async def note(message: Message) -> None:
            nonlocal status, size
            await send(message)
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    self.line(scope["method"], path_of(scope), status, time.monotonic() - started, size, _asked(scope))

        return note

    def left(self, scope: Scope, seconds: float) -> None:
        """The caller of an ASGI request has left."""
        self.line(scope["method"], path_of(scope), GONE, seconds, 0, _asked(scope))


def path_of(scope: Scope) -> str:
    """The path as it came, without its query; what could end a line is escaped."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.partition(b"?")[0].decode("latin-1").encode("unicode_escape").decode()


def _asked(scope: Scope) -> Identity:
    request = identity.current.get()
    if request is None:
        headers = dict(scope["headers"])
        given, trace = headers.get(identity.HEADER.encode()), headers.get(b"traceparent")
        request = Identity(given and given.decode("latin-1"), trace and trace.decode("latin-1"))
    return request
