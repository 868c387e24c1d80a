"""A client that does not wait for answers before it sends more: arrivals are a Poisson process, as those of many callers are.

It speaks just enough HTTP/1.1 on asyncio's transports to be no bottleneck (some thousand requests a second from one core), and
never sends a request twice: a connection that breaks under a request is a lost request.
"""

from __future__ import annotations

import asyncio
import random
import resource
from collections.abc import Sequence
from types import TracebackType
from typing import Self, cast

import httptools

from loadtests.calls import Call, Response
from loadtests.report import Report

HUNG = 15.0  # seconds after which a request without an answer counts as lost
MOST_UNDER_WAY = 4096  # requests, each on a connection of its own: what waits for more has fallen behind, and measures itself


class Broken(ConnectionError):
    """The connection ended before the answer had."""


class Connection(asyncio.Protocol):
    """A keep-alive connection that carries one request at a time."""

    def __init__(self) -> None:
        self.open = False
        self._transport: asyncio.Transport
        self._answer: asyncio.Future[Response] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connected."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's have its methods, not its class
        self.open = True

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone; a request under way is lost."""
        self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Broken(f"connection broke: {exc or 'closed by the server'}"))

    async def exchange(self, request: bytes) -> Response:
        """Send a request and wait for its answer. Raises Broken."""
        if not self.open:
            raise Broken("connection was closed while idle")
        self._answer = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Give the connection up."""
        self.open = False
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Parse what arrived."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, AttributeError) as error:  # AttributeError: an answer that nobody asked for
            self.open = False
            if self._answer is not None and not self._answer.done():
                self._answer.set_exception(Broken(f"not HTTP: {error}"))
            self._transport.abort()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header."""
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        """Keep a piece of the body."""
        self._body.append(body)

    def on_message_complete(self) -> None:
        """The answer is whole."""
        if not self._parser.should_keep_alive():
            self.open = False
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Response(self._parser.get_status_code(), self._headers, b"".join(self._body)))


class Pool:
    """Connections to one address, as many as there are requests under way."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._idle: list[Connection] = []

    async def exchange(self, request: bytes, timeout: float = HUNG) -> Response:
        """Send a request over an idle connection or a new one. Raises OSError, Broken and TimeoutError among them."""
        connection: Connection | None = None
        try:
            async with asyncio.timeout(timeout):
                while self._idle and connection is None:
                    connection = self._idle.pop()
                    connection = connection if connection.open else None
                if connection is None:
                    _, connection = await asyncio.get_running_loop().create_connection(Connection, *self._address)
                response = await connection.exchange(request)
        except BaseException:
            if connection is not None:
                connection.close()
            raise
        if connection.open:
            self._idle.append(connection)
        else:
            connection.close()
        return response

    def close(self) -> None:
        """Close the idle connections, which are all once every request has ended."""
        while self._idle:
            self._idle.pop().close()


class Load:
    """Calls chosen at random, sent at `rate` a second on average while the block runs; what became of them is in `report`."""

    def __init__(
        self, address: tuple[str, int], calls: Sequence[Call], rate: float, seed: int = 0, most: int = MOST_UNDER_WAY
    ) -> None:
        """While `most` requests have no answer yet, or half as many as this process may have files, none is sent."""
        self._most = min(most, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)
        self._pool = Pool(address)
        self._calls = calls
        self._rate = rate
        self._random = random.Random(seed)
        self._under_way: set[asyncio.Task[None]] = set()
        self.report = Report()

    def phase(self) -> Report:
        """Begin a new report, for the requests sent from now on; returns the old one, which may still get answers."""
        before, self.report = self.report, Report()
        return before

    async def __aenter__(self) -> Self:
        self._arrivals = asyncio.create_task(self._arrive())
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Send no more, and wait for what is under way."""
        self._arrivals.cancel()
        await asyncio.gather(self._arrivals, *self._under_way, return_exceptions=True)
        self._pool.close()

    async def _arrive(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self._random.expovariate(self._rate)
            if (delay := due - loop.time()) > 0:
                await asyncio.sleep(delay)
            if len(self._under_way) >= self._most:
                self.report.unsent += 1
                continue
            task = loop.create_task(self._send(self._random.choice(self._calls), due))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def _send(self, call: Call, due: float) -> None:
        """One request; its time counts from when it was due, so that a client that falls behind cannot flatter the server."""
        report = self.report
        report.sent += 1
        report.late = max(report.late, asyncio.get_running_loop().time() - due)
        try:
            verdict = call.judge(await self._pool.exchange(call.request))
        except TimeoutError:
            verdict = "lost", f"no answer within {HUNG:g} s"
        except OSError as error:
            verdict = "lost", str(error) or type(error).__name__
        report.record(call.model, verdict, asyncio.get_running_loop().time() - due)


async def closed_loop(address: tuple[str, int], calls: Sequence[Call], connections: int, seconds: float) -> Report:
    """As many requests as `connections` callers get answered who each wait for their answer before sending the next."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    report = Report()

    async def caller(number: int) -> None:
        chosen = random.Random(number)
        pool = Pool(address)
        while (started := loop.time()) < end:
            call = chosen.choice(calls)
            report.sent += 1
            report.record(call.model, call.judge(await pool.exchange(call.request)), loop.time() - started)
        pool.close()

    started = loop.time()
    await asyncio.gather(*(caller(number) for number in range(connections)))
    report.seconds = loop.time() - started
    return report
