"""Callers that hang up half way, and callers that send as slowly as they can."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from pathlib import Path

import numpy as np

from loadtests.calls import Call, golden_calls, infer_request
from loadtests.client import Load
from loadtests.drills.drill import Outcome, Setting, soon
from loadtests.server import Server
from modelrepo.repository import ModelVersion, Repository

RATE = 200.0
CUTS = 200
SLOW = 100
READ_TIMEOUT = 3  # seconds of --read-timeout


async def cut(setting: Setting) -> Outcome:
    """200 callers hang up, half of them within their request's body, half within the answer: nobody else notices."""
    outcome = Outcome()
    calls = _calls(setting.repository)
    whole = _big_request(setting.repository)
    async with Server(setting.repository, setting.log) as server:
        async with Load(server.address, calls, RATE) as load:
            await asyncio.sleep(2)
        outcome.row("before", load.report)
        await asyncio.sleep(1)  # until the server has seen that the connections were closed
        start = server.descriptors()
        async with Load(server.address, calls, RATE) as load:
            for number in range(CUTS):
                await asyncio.to_thread(_hang_up, server.address, whole, number % 2 == 0, number % 4 < 2)
        outcome.row(f"{CUTS} callers hang up", load.report)
        same = await soon(lambda: _settled(server, start), 10)
        end = server.descriptors()
        waiting = await server.metric("quartet_queue_rows")
        async with Load(server.address, calls, RATE) as load:
            await asyncio.sleep(2)
        outcome.row("after", load.report)
    outcome.promise(f"file descriptors are back where they were: {start} before, {end} after", same)
    outcome.promise(f"no rows are left in a queue: {waiting:g}", waiting == 0)
    return outcome


async def slowloris(setting: Setting) -> Outcome:
    """100 callers send a byte a second, half of them of their headers, half of a body: others keep their latency."""
    outcome = Outcome()
    calls = _calls(setting.repository)
    async with Server(setting.repository, setting.log, "--read-timeout", str(READ_TIMEOUT)) as server:
        async with Load(server.address, calls, RATE) as load:
            await asyncio.sleep(5)
        before = load.report
        await asyncio.sleep(1)  # until the server has seen that the connections were closed
        start = server.descriptors()
        async with Load(server.address, calls, RATE) as load:
            held = await asyncio.gather(*(_drip(server.address, in_body=number % 2 == 0) for number in range(SLOW)))
        slow = load.report
        same = await soon(lambda: _settled(server, start), 10)
        async with Load(server.address, calls, RATE) as load:
            await asyncio.sleep(5)
    for phase, report in (("before", before), (f"{SLOW} slow callers", slow), ("after", load.report)):
        outcome.row(phase, report)
    span = f"{min(held):.1f} to {max(held):.1f} s"
    outcome.promise(f"the server dropped every slow caller: held for {span}, limit {READ_TIMEOUT} s", max(held) <= READ_TIMEOUT + 2)
    outcome.promise("and none at once", min(held) >= READ_TIMEOUT - 1)
    outcome.promise("their descriptors are given back", same)
    for quantile in (0.5, 0.99):
        calm, among = max(report.right_ms(quantile) for report in (before, load.report)), slow.right_ms(quantile)
        text = f"p{quantile * 100:g} of the others stayed: {calm:.1f} ms at most without, {among:.1f} ms among them"
        outcome.promise(text, among <= 2 * calm + 5)
    return outcome


def _calls(repository: Path) -> list[Call]:
    models = Repository(repository)
    return [call for name in models.models() for call in golden_calls(models, name)]


def _big_request(root: Path) -> bytes:
    """2048 rows of the model with the most output for its input: its answer is longer than what a caller's kernel takes unread."""
    repository = Repository(root)
    versions = [repository.open(name) for name in repository.models()]

    def gain(published: ModelVersion) -> float:
        inputs, outputs = published.goldens()
        return sum(array.size for array in outputs.values()) / sum(array.size for array in inputs.values())

    published = max(versions, key=gain)
    inputs, _ = published.goldens()
    given = {name: np.resize(array, (2048, *array.shape[1:])) for name, array in inputs.items()}
    return infer_request(published.name, given)


def _hang_up(address: tuple[str, int], whole: bytes, in_body: bool, reset: bool) -> None:
    """Send half of a request, or all of it and read the beginning of the answer; then close, or reset, the connection."""
    with socket.socket() as connection:
        connection.settimeout(15)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(address)
        connection.sendall(whole[: len(whole) // 2] if in_body else whole)
        if not in_body and not reset:  # a reset hits the server before it has answered
            connection.recv(100)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _drip(address: tuple[str, int], in_body: bool) -> float:
    """Send a byte a second until the server ends the connection, 30 at most; returns for how many seconds it was held."""
    reader, writer = await asyncio.open_connection(*address)
    head = b"POST /v2/models/any/infer HTTP/1.1\r\nHost: quartet\r\n"
    writer.write(head + (b"Content-Length: 1000\r\n\r\n" if in_body else b"X-Slow: "))
    started = time.monotonic()
    try:
        for _ in range(30):
            writer.write(b"1")
            try:
                async with asyncio.timeout(1):
                    while await reader.read(4096):  # an answer may come before the end, 408 say
                        pass
                    break
            except TimeoutError:
                continue
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return time.monotonic() - started


async def _settled(server: Server, start: int) -> bool:
    return server.descriptors() <= start
