"""uvicorn's HTTP/1.1 protocol, with what other clients need of it.

- A request that offers an upgrade, as Java's HttpClient offers HTTP/2 by default, is answered as if it had not: RFC 9110,
  section 7.8, lets a server ignore the offer. uvicorn's parser would drop the body instead.
- What is no HTTP at all gets the same `{"error": …}` body as every other error.
"""

from __future__ import annotations

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service import errors
from service.errors import InvalidRequest


class Protocol(HttpToolsProtocol):
    """One connection."""

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        self._unset_keepalive_if_required()
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._decline(data[offer.args[0] :])
        except httptools.HttpParserError:
            self.send_400_response("this is not HTTP/1.1")

    def on_headers_complete(self) -> None:
        """Start a request; one that offers an upgrade is started by `_decline`."""
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        """End a request."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _decline(self, rest: bytes) -> None:
        """Parse the request again without its offer; `rest` is what followed its headers."""
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        if method == b"CONNECT":
            self.send_400_response("CONNECT is for proxies, which this server is not")
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, version)]
        lines += [b"%s: %s" % (name, value) for name, value in self.headers if name != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join((*lines, b"", rest)))

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, and close."""
        content = errors.body(InvalidRequest(msg))
        head = "HTTP/1.1 400 Bad Request\r\ncontent-type: application/json\r\nconnection: close\r\n"
        self.transport.write(f"{head}content-length: {len(content)}\r\n\r\n".encode() + content)
        self.transport.close()
