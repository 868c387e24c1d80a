"""uvicorn's HTTP/1.1 protocol, with what other clients need of it.

- A request that offers an upgrade, as Java's HttpClient offers HTTP/2 by default, is answered as if it had not: RFC 9110,
  section 7.8, lets a server ignore the offer. uvicorn's parser would drop the body instead.
- What is no HTTP at all gets the same `{"error": …}` body as every other error.
- A request must arrive in time and with headers of a bounded size, so that slow or endless ones hold no connection for ever.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import errors
from service.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, ServiceError

GONE = "quartet.gone"
"""Among the extensions of an ASGI scope: the callables that are called when the connection breaks."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *arguments: Any, max_header_bytes: int, read_timeout: float, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._max_header_bytes = max_header_bytes
        self._read_timeout = read_timeout
        self._header_bytes: int | None = 0  # of the request that is arriving; None once its headers are complete
        self._ended = False  # whether a request did in the data at hand
        self._alarm: asyncio.TimerHandle | None = None
        self._gone: set[Callable[[], None]] = set()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Expect a request."""
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who are answering it, and forget it."""
        self._arrived()
        for leave in list(self._gone):
            leave()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._unset_keepalive_if_required()
        if self._alarm is None:
            self._expect()
        self._ended = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse(InvalidRequest("this is not HTTP/1.1"))
        if self._header_bytes is not None and not self._ended:
            self._header_bytes += len(data)
            if self._header_bytes > self._max_header_bytes:
                self._refuse(HeadersTooLarge(f"the request line and headers have more than {self._max_header_bytes} bytes"))

    def on_headers_complete(self) -> None:
        """Start a request; one that offers an upgrade is started by `_decline`."""
        self._header_bytes = None
        self.scope["extensions"] = {GONE: self._gone}  # type: ignore[dict-item]  # ASGI names no types of extensions
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():
            self._arrived()
            self._header_bytes, self._ended = 0, True
            super().on_message_complete()

    def _expect(self) -> None:
        """A request must be here by then."""
        self._alarm = self.loop.call_later(self._read_timeout, self._too_slow)

    def _arrived(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _too_slow(self) -> None:
        """Cut off a request that dribbles in; a connection on which nothing came is closed without a word."""
        if self._header_bytes is not None and self.cycle is not None and not self.cycle.response_complete:
            self._expect()  # the one before it is still being answered, and has a right to be
        elif self._header_bytes == 0:
            self.transport.close()
        elif self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            self._refuse(RequestTimeout(f"the request did not arrive within {self._read_timeout:g} s"))

    def _decline(self, rest: bytes) -> None:
        """Parse the request again without its offer; `rest` is what followed its headers."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self._refuse(InvalidRequest("CONNECT is for proxies, which this server is not"))
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    def send_400_response(self, msg: str) -> None:
        """As uvicorn calls it."""
        self._refuse(InvalidRequest(msg))

    def _refuse(self, error: ServiceError) -> None:
        """Answer what never became a request, and close."""
        self._arrived()
        content = errors.body(error)
        reason = HTTPStatus(error.status).phrase
        head = f"HTTP/1.1 {error.status} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        self.transport.close()
