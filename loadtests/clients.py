"""Client processes: one process cannot send what a quick server answers, still less three times as much."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from types import TracebackType
from typing import Self

import uvloop

from loadtests.calls import Call
from loadtests.client import Load, closed_loop
from loadtests.report import Report

PROCESSES = 2


class Clients:
    """Processes that send load to one address while the block runs."""

    def __init__(self, address: tuple[str, int], processes: int = PROCESSES) -> None:
        self._address = address
        self._processes = processes

    def __enter__(self) -> Self:
        self._pool = ProcessPoolExecutor(self._processes, multiprocessing.get_context("spawn"))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def load(self, calls: Sequence[Call], rate: float, seconds: float) -> Report:
        """That many requests a second from all processes together, whose arrivals do not wait for answers."""
        shares = range(self._processes)
        return await self._all([partial(_open, self._address, calls, rate / self._processes, seconds, seed) for seed in shares])

    async def closed(self, calls: Sequence[Call], callers: int, seconds: float) -> Report:
        """What so many callers get answered who each wait for their answer, shared among the processes."""
        processes = min(callers, self._processes)
        shares = [callers // processes + (number < callers % processes) for number in range(processes)]
        return await self._all([partial(_closed, self._address, calls, share, seconds) for share in shares])

    async def _all(self, shares: Sequence[Callable[[], Report]]) -> Report:
        reports = await asyncio.gather(*(asyncio.wrap_future(self._pool.submit(share)) for share in shares))
        return sum(reports, Report())


def _open(address: tuple[str, int], calls: Sequence[Call], rate: float, seconds: float, seed: int) -> Report:
    async def run() -> Report:
        started = time.monotonic()
        async with Load(address, calls, rate, seed) as load:
            await asyncio.sleep(seconds)
        load.report.seconds = time.monotonic() - started
        return load.report

    return uvloop.run(run())


def _closed(address: tuple[str, int], calls: Sequence[Call], callers: int, seconds: float) -> Report:
    return uvloop.run(closed_loop(address, calls, callers, seconds))
