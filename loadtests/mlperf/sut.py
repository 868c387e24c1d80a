"""The system under test as LoadGen sees it: a server over HTTP."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict, deque
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any

import mlperf_loadgen as loadgen

from loadtests.calls import Call, Response
from loadtests.client import HUNG, Pool
from loadtests.mlperf.samples import Samples
from loadtests.report import Report

CALLERS = 8  # requests under way at once where all rows are there from the start
AT_ONCE = 64  # samples told to LoadGen in one call: it crashes where one call ends thousands (mlcommons/inference issue 1337)

Query = tuple[int, int, float]
"""LoadGen's id, the number of the row, and when it was issued."""


class HttpSut:
    """Sends what LoadGen issues, and tells it what is answered.

    LoadGen calls from threads of its own; the requests are sent by the event loop in which this was made, which is woken once
    for all that was issued meanwhile. Answers are compared with what is right after the run, so as not to slow it down.
    """

    def __init__(self, address: tuple[str, int], samples: Samples, batch: int = 0) -> None:
        """`batch`: rows a request, put together from what is issued at once; 0: each row is sent as soon as it is issued."""
        self._samples = samples
        self._batch = batch
        self._calls = samples.calls()
        self._pool = Pool(address)
        self._loop = asyncio.get_running_loop()
        self._issued: deque[Query] = deque()
        self._woken = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._answers: dict[tuple[int, int, bytes], tuple[Call, Response, list[float]]] = {}
        self._lost = Report()

    def issue(self, queries: Sequence[loadgen.QuerySample]) -> None:
        """Take queries from LoadGen, in its thread."""
        now = time.monotonic()
        self._issued.extend((query.id, query.index, now) for query in queries)
        if not self._woken:
            self._woken = True
            self._loop.call_soon_threadsafe(self._wake)

    def flush(self) -> None:
        """LoadGen has no more; nothing is held back here."""

    async def report(self) -> Report:
        """What became of every request of a run that is over; a request of many rows counts once."""
        await asyncio.gather(*self._under_way)
        self._pool.close()
        report = Report() + self._lost
        for call, response, times in self._answers.values():
            verdict = call.judge(response)
            for seconds in times:
                report.record(call.model, verdict, seconds)
        report.sent = len(report.right) + len(report.refused) + report.lost.total()
        return report

    def _wake(self) -> None:
        """Send what was issued, in the event loop."""
        self._woken = False  # before looking: what is issued from here on wakes again
        issued = []
        while self._issued:
            issued.append(self._issued.popleft())
        if not self._batch:
            for query in issued:
                self._start(self._one(query))
            return
        batches = self._batches(issued)
        for _ in range(CALLERS):
            self._start(self._several(batches))

    def _batches(self, issued: Sequence[Query]) -> Iterator[list[Query]]:
        """Rows of one shape together, as many as a request takes."""
        alike: defaultdict[tuple[tuple[int, ...], ...], list[Query]] = defaultdict(list)
        for query in issued:
            alike[self._samples.rows[query[1]].shape].append(query)
        for queries in alike.values():
            for first in range(0, len(queries), self._batch):
                yield queries[first : first + self._batch]

    async def _several(self, batches: Iterator[list[Query]]) -> None:
        for queries in batches:  # shared: each caller takes the next one
            await self._exchange(self._samples.call([number for _, number, _ in queries]), queries)

    async def _one(self, query: Query) -> None:
        await self._exchange(self._calls[query[1]], [query])

    async def _exchange(self, call: Call, queries: Sequence[Query]) -> None:
        try:
            response = await self._pool.exchange(call.request)
        except OSError as error:  # TimeoutError among them
            why = f"no answer within {HUNG:g} s" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
            self._lost.record(call.model, ("lost", why), 0.0)
        else:
            seconds = time.monotonic() - queries[0][2]
            key = (id(call), response.status, response.body)
            self._answers.setdefault(key, (call, response, []))[2].append(seconds)
        finally:  # LoadGen waits for every sample
            for first in range(0, len(queries), AT_ONCE):
                ended = queries[first : first + AT_ONCE]
                loadgen.QuerySamplesComplete([loadgen.QuerySampleResponse(number, 0, 0) for number, _, _ in ended])

    def _start(self, sending: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(sending)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
