"""uvicorn's HTTP/1.1 protocol, with what other clients need of it, and a quicker way for inference.

- A request that offers an upgrade, as Java's HttpClient offers HTTP/2 by default, is answered as if it had not: RFC 9110,
  section 7.8, lets a server ignore the offer. uvicorn's parser would drop the body instead.
- What is no HTTP at all gets the same `{"error": …}` body as every other error.
- A request must arrive in time and with headers of a bounded size, so that slow or endless ones hold no connection for ever.
- Short requests to the inference paths go to `Quick` as soon as they are whole, without ASGI. A client repeats the same headers
  with every request, but for the length of the body: once httptools has understood them twice, the very bytes are recognised and
  not parsed again.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import httptools
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from service import errors
from service.api.head import Head, read
from service.api.quick import JSON, Call, Denied, Quick
from service.balance import Balance
from service.busy_poll import BusyPoll
from service.errors import HeadersTooLarge, InvalidRequest, RequestTimeout, ServiceError, shut_down
from service.known_heads import END, LONGEST, Known, without_length
from service.remembered import Remembered

GONE = "quartet.gone"
"""Among the extensions of an ASGI scope: the callables that are called when the connection breaks."""

NEVER: Final = math.inf  # since then, of time.monotonic(): whatever is measured from it is not due
MOST_KNOWN = 1024  # heads
MOST_SECRET = 8  # heads with a key or a cookie: only their own connection remembers them, and forgets them as it ends


class Shared:
    """What all connections share: heads that several requests began with, but for the body's length, and how an answer begins."""

    def __init__(self) -> None:
        self.heads: Remembered[bytes, Known] = Remembered(MOST_KNOWN)
        self.poll = BusyPoll()
        self._defaults: list[tuple[bytes, bytes]] = []
        self._prefix = b""

    def prefix(self, defaults: list[tuple[bytes, bytes]]) -> bytes:
        """The beginning of a JSON answer; `defaults` are headers of every answer, which uvicorn makes anew each second."""
        if defaults is not self._defaults:
            lines = b"".join([b"%s: %s\r\n" % header for header in defaults])
            self._prefix = b"%s%scontent-type: %s\r\ncontent-length: " % (STATUS_LINE[200], lines, JSON.encode())
            self._defaults = defaults
        return self._prefix


class Protocol(HttpToolsProtocol):
    """One connection. `tick` is to be called now and then, to see whether it takes too long."""

    def __init__(
        self,
        *arguments: Any,
        max_header_bytes: int,
        read_timeout: float,
        quick: Quick,
        shared: Shared,
        balance: Balance | None = None,
        adopted: bool = False,
        **options: Any,
    ) -> None:
        """`balance` counts it among the connections of its worker; one that is `adopted` comes from another worker, and stays."""
        super().__init__(*arguments, **options)
        self._balance = balance
        self._adopted = adopted
        self._max_header_bytes = max_header_bytes
        self._read_timeout = read_timeout
        self._quick = quick
        self._shared = shared
        self._header_bytes: int | None = 0  # of the request that is arriving; None once its headers are complete
        self._ended = False  # whether a request did in the data at hand
        self._gone: set[Callable[[], None]] = set()
        self._expected = NEVER  # since when a request should be arriving
        self._rested = NEVER  # since when nothing is expected of either side
        self._between = True  # whether the parser stands between two requests
        self._cut: tuple[bytes, int] | None = None  # the head that the data at hand begin with, without the body's length, and that
        self._noticed = b""  # the last head that was parsed and could be remembered
        self._declined = False  # whether the request that the parser gets next has been tried already
        self._held: tuple[Head, float, list[bytes]] | None = None  # may go the quick way once its body is here
        self._rest: tuple[Head, float, int, int, bytearray] | None = None  # the same, where the head was remembered: all that
        # arrived of the request, with where its body begins and ends
        self._call: Call | None = None
        self._handed_on: dict[str, object] = {}  # what the quick way found out about a request that it declined
        self._secret: Remembered[bytes, Known] = Remembered(MOST_SECRET)  # heads that nobody else is to have

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Expect a request, unless another worker is to."""
        if self._balance is not None:
            if not self._adopted and not self._quick.stopping and self._balance.elsewhere(transport):
                transport.abort()  # our end of it; the other worker has its own
                return
            self._balance.opened(self._adopted)
        super().connection_made(transport)
        self._expected = time.monotonic()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell those who are answering it, and forget it."""
        if self.transport is None:  # it was another worker's from the beginning
            return
        if self._balance is not None:
            self._balance.closed()
        self._expected = self._rested = NEVER
        if self._held is not None or self._rest is not None:
            self._quick.cancelled()
            self._held = self._rest = None
        if self._call is not None:
            self._call.left()
            self._call = None
        for leave in list(self._gone):
            leave()
        super().connection_lost(exc)

    def tick(self, now: float) -> None:
        """Cut off what has taken too long by `now`, of `time.monotonic`."""
        if now - self._rested > self.timeout_keep_alive:
            self._rested = NEVER
            self.timeout_keep_alive_handler()
        elif now - self._expected > self._read_timeout:
            self._too_slow(now)

    def shutdown(self) -> None:
        """Close once what has begun to arrive, or to be answered, is answered."""
        if self._held is None and self._rest is None:
            super().shutdown()

    def give_up(self) -> None:
        """Answer what cannot be answered in time before the server ends."""
        if self._call is not None:
            self._call.give_up()
        elif self._held is not None or self._rest is not None:
            self._refuse(shut_down())

    # The quick way

    def data_received(self, data: bytes) -> None:
        """Take what is known by its head, parse all else."""
        now = time.monotonic()
        self._rested = NEVER
        if self._expected == NEVER:
            self._expected = now
        if self._between and self._free():
            data = self._recognise(data, now)
            if not data:
                return
            if self._expected == NEVER:
                self._expected = now
        self._parse(data)

    def _recognise(self, data: bytes, now: float) -> bytes:
        """Take the request that the data begin with, if its head is remembered; what is left is for the parser."""
        if self._rest is not None:
            head, arrived, start, stop, whole = self._rest
            whole += data
            if len(whole) < stop:
                return b""
            self._rest = None
            return self._take(head, bytes(whole), start, stop, arrived)
        self._cut = cut = None
        end = data.find(END)
        if 0 < end <= LONGEST:
            self._cut = cut = without_length(data, end)
        if cut is None:
            return data
        key, length = cut
        known = self._shared.heads.get(key) or self._secret.get(key)
        if known is None or length > known[1]:
            return data
        start = end + len(END)
        stop = start + length
        if len(data) < stop:
            self._rest = (known[0], now, start, stop, bytearray(data))
            return b""
        return self._take(known[0], data, start, stop, now)

    def _take(self, head: Head, data: bytes, start: int, stop: int, arrived: float) -> bytes:
        """Begin a call with that part of the data as its body; returns what the parser is to have: what follows, or all of it where
        the request goes the long way.
        """
        if self._begin(head, data[start:stop], arrived):
            return data[stop:]
        self._cut, self._declined = None, True
        return data

    def _begin(self, head: Head, body: bytes, arrived: float) -> bool:
        """Begin a call, if it can go the quick way."""
        self._expected = NEVER
        call = self._quick.take(self, head, body, arrived)
        if call is None:
            return False
        self.cycle = cast(RequestResponseCycle, call)
        if not call.response_complete:
            self._call = call  # type: ignore[assignment]  # one that was denied is complete
            self._shared.poll.found()
        return True

    @property
    def alone(self) -> bool:
        """Whether there is no other connection."""
        return len(self.connections) == 1

    def hand_on(self, key: str, value: object) -> None:
        """Put something among the extensions of the ASGI scope of the request that is declined."""
        self._handed_on[key] = value

    def reply(self, call: Call | Denied, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        """Write the answer to a call, and go on with the next request; without headers it is JSON, and status 200."""
        self._call = None
        if headers is None and call.keep_alive:
            self.transport.write(
                b"%s%d\r\n\r\n%s" % (self._shared.prefix(self.server_state.default_headers), len(content), content)
            )
        else:
            headers = headers or {"content-type": JSON}
            if not call.keep_alive:
                headers = {**headers, "connection": "close"}
            given = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
            pairs = [*self.server_state.default_headers, *given, (b"content-length", b"%d" % len(content))]
            lines = b"".join([b"%s: %s\r\n" % pair for pair in pairs])
            self.transport.write(b"%s%s\r\n%s" % (STATUS_LINE[status], lines, content))
            if not call.keep_alive:
                self.transport.close()
        self.on_response_complete()

    def on_response_complete(self) -> None:
        """Go on with the next request. Where uvicorn sets a timer for each, `tick` looks at the clock."""
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self.flow.resume_reading()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif self._expected == NEVER:
            self._rested = now = time.monotonic()
            if self.alone:
                self._shared.poll.rest(self.loop, now)

    # The long way

    def _parse(self, data: bytes) -> None:
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

    def on_message_begin(self) -> None:
        """A request begins."""
        self._between = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Start a request, unless it may go the quick way; one that offers an upgrade is started by `_decline`."""
        self._header_bytes = None
        self.scope["extensions"] = {GONE: self._gone, **self._handed_on}  # type: ignore[dict-item]  # ASGI names no types of extensions
        self._handed_on = {}
        if self.parser.should_upgrade():
            return
        cut, self._cut = self._cut, None
        if self._declined:
            self._declined = False
        elif self._free() and self._lives_on():
            found = read(self.parser.get_method(), self.url, self.headers)
            if found is not None and found[1] <= (longest := self._quick.longest(found[0])):
                self._notice(cut, *found, longest)
                self._held = (found[0], time.monotonic(), [])
                return
        super().on_headers_complete()

    def _free(self) -> bool:
        """Whether nothing is being answered, and what was answered has been read."""
        return (self.cycle is None or self.cycle.response_complete) and not self.flow.write_paused

    def _lives_on(self) -> bool:
        """Whether the connection stays open after this request, as HTTP/1.1 has it."""
        return self.parser.get_http_version() == "1.1" and self.parser.should_keep_alive()

    def _notice(self, cut: tuple[bytes, int] | None, head: Head, length: int, longest: int) -> None:
        """Remember a head that comes a second time in a row: a client that sends another each time would only fill the memory.

        One line for each header, so that nobody can read its end, or the body's length, elsewhere than the parser did.
        """
        lines = len(self.headers)
        key = b""
        if cut is not None and cut[1] == length:
            key = cut[0]
            if key == self._noticed and key.count(b"\r\n") == key.count(b"\n") == key.count(b"\r") == lines:
                heads = self._secret if head.secret else self._shared.heads
                heads.remember(key, (head, longest))
        self._noticed = key

    def on_body(self, body: bytes) -> None:
        """A piece of a body."""
        if self._held is not None:
            self._held[2].append(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """End a request."""
        if self.parser.should_upgrade():
            return
        self._expected = NEVER
        self._header_bytes, self._ended, self._between = 0, True, True
        if self._held is not None:
            (head, arrived, chunks), self._held = self._held, None
            if self._begin(head, b"".join(chunks), arrived):
                return
            self.scope["extensions"].update(self._handed_on)  # type: ignore[arg-type]  # it was set with the headers
            self._handed_on = {}
            super().on_headers_complete()
            for chunk in chunks:
                super().on_body(chunk)
        super().on_message_complete()

    def _too_slow(self, now: float) -> None:
        """Cut off a request that dribbles in; a connection on which nothing came is closed without a word."""
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._rest is None and self._header_bytes is not None and answering:
            self._expected = now  # the one before it is still being answered, and has a right to be
        elif self._rest is None and self._header_bytes == 0:
            self.transport.close()
        elif not answering or not self.cycle.response_started:
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
        self._parse(b"\r\n".join((*lines, b"", rest)))

    def send_400_response(self, msg: str) -> None:
        """As uvicorn calls it."""
        self._refuse(InvalidRequest(msg))

    def _refuse(self, error: ServiceError) -> None:
        """Answer what never became a request, and close."""
        self._expected = NEVER
        content = errors.body(error)
        reason = HTTPStatus(error.status).phrase
        head = f"HTTP/1.1 {error.status} {reason}\r\ncontent-type: application/json\r\nconnection: close\r\n".encode()
        lines = b"".join([b"%s: %s\r\n" % header for header in self.server_state.default_headers])
        self.transport.write(b"%s%scontent-length: %d\r\n\r\n%s" % (head, lines, len(content), content))
        self.transport.close()
