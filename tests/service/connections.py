"""Connections without a network: of our protocol, or of uvicorn's own, to the same application."""

from __future__ import annotations

import asyncio

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from service.protocol import Protocol, Shared


class Transport:
    """Takes what is written; reading and writing can be paused."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False
        self.reading = asyncio.Event()
        self.reading.set()

    def get_extra_info(self, *_):
        return None

    def write(self, data):
        if not self.closed:
            self.written += data

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def pause_reading(self):
        self.reading.clear()

    def resume_reading(self):
        self.reading.set()


class Bench:
    """An application, and connections to it of our own kind or of uvicorn's."""

    def __init__(self, app) -> None:
        self.app = app
        self.shared = Shared()
        self.config = uvicorn.Config(app, lifespan="off", log_config=None)
        self.config.load()

    def connect(self, ours: bool = True, **options):
        state = ServerState()
        if ours:
            given = {"max_header_bytes": 65536, "read_timeout": 30, **options}
            protocol = Protocol(self.config, state, {}, quick=self.app.quick, shared=self.shared, **given)
        else:
            protocol = HttpToolsProtocol(self.config, state, {})
        transport = Transport()
        protocol.connection_made(transport)
        return protocol, transport

    async def answers(self, pieces: list[bytes], ours: bool) -> bytes:
        """All that comes back for these pieces, sent one after the other."""
        protocol, transport = self.connect(ours)
        for piece in pieces:
            await transport.reading.wait()
            if transport.closed:
                break
            protocol.data_received(piece)
            await asyncio.sleep(0)
        await quiet(protocol)
        written = transport.written
        protocol.connection_lost(None)
        return written


async def quiet(protocol):
    """Wait until everything that arrived whole is answered."""
    while True:
        cycle = protocol.cycle
        hanging = cycle is not None and not cycle.response_complete and getattr(cycle, "more_body", False)  # the rest never comes
        if not protocol.pipeline and len(protocol.tasks) <= hanging and getattr(protocol, "_call", None) is None:
            return
        await asyncio.sleep(0)


ROW = b'{"instances": [[1, 2]]}'


def request(path, body=ROW, *lines, method="POST", version="1.1"):
    head = [f"{method} {path} HTTP/{version}", "Host: quartet", *lines]
    if body is not None:
        head.append(f"Content-Length: {len(body)}")
    return "\r\n".join((*head, "", "")).encode() + (body or b"")
