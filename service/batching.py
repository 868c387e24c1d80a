"""Dynamic batching: rows of different callers share one run of the session.

Nothing waits on a timer. While the session runs one batch the next one fills; a session that is idle starts at the end of
the event loop's present turn, with all that arrived in it. A batch that is known to run faster than a thread could be woken
for it runs right there; any other in the session's own thread. Forming, merging and splitting are pure functions; the Batcher
adds only time and order. It knows no HTTP and no ONNX.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field

import numpy as np

from modelrepo.tensors import Array, Signature, Tensors
from service.errors import QueueFull, Unavailable, too_many_rows

log = logging.getLogger("quartet.batching")

INLINE_SECONDS = 200e-6  # about what it costs to hand a batch to a thread and back


@dataclass(eq=False, slots=True)
class Work:
    """Rows of one caller that run together. `inputs` are complete and checked; `length` is None without sequences.

    `queued` turns false when the work is taken into a batch, or given up by its caller.
    """

    inputs: Mapping[str, Array]
    rows: int
    length: int | None
    answer: asyncio.Future[Tensors]
    arrived: float = field(default_factory=time.perf_counter)
    queued: bool = True


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """One batch, told to whoever keeps the metrics: durations in seconds, `padding` as the share of positions padded."""

    rows: int
    waits: tuple[float, ...]
    seconds: float
    padding: float


def form(queue: deque[Work], limit: int) -> list[Work]:
    """Take work from the front of the queue until `limit` rows are reached; what its caller gave up is left behind."""
    batch: list[Work] = []
    rows = 0
    while queue and (not queue[0].queued or rows + queue[0].rows <= limit):
        work = queue.popleft()
        if work.queued:
            work.queued = False
            batch.append(work)
            rows += work.rows
    return batch


def bucket_length(signature: Signature, works: Sequence[Work]) -> int | None:
    """The bucket that holds the longest sequence of a batch, to which all are padded; None without sequences."""
    return signature.length.bucket(max(work.length or 0 for work in works)) if signature.length else None


def merge(signature: Signature, works: Sequence[Work]) -> Tensors:
    """The inputs of all works as one batch; sequences are zero-padded to the bucket that holds the longest."""
    longest = bucket_length(signature, works)
    if longest is None:
        if len(works) == 1:
            return dict(works[0].inputs)
        return {spec.name: np.concatenate([work.inputs[spec.name] for work in works]) for spec in signature.inputs}
    return {
        spec.name: np.concatenate([spec.resized(work.inputs[spec.name], longest) for work in works]) for spec in signature.inputs
    }


def split(outputs: Tensors, works: Sequence[Work]) -> list[Tensors]:
    """Each work's own rows of the batch's outputs, in order."""
    ends = np.cumsum([work.rows for work in works])[:-1]
    parts = {name: np.split(array, ends) for name, array in outputs.items()}
    return [{name: parts[name][index] for name in parts} for index in range(len(works))]


def padding(signature: Signature, works: Sequence[Work]) -> float:
    """The share of a batch's positions that hold no caller's data: 0 without sequences."""
    bucket = bucket_length(signature, works)
    if bucket is None or signature.mask is None:
        return 0.0
    real = sum(int(work.inputs[signature.mask.name].sum()) for work in works)
    return 1 - real / (bucket * sum(work.rows for work in works))


class Batcher:
    """The queue in front of one session. All methods belong to the event loop's thread; the session runs in `executor`."""

    def __init__(
        self,
        signature: Signature,
        run: Callable[[Tensors], Tensors],
        executor: Executor,
        max_queue_rows: int,
        observe: Callable[[BatchFacts], None],
        abandon: Callable[[int], None],
        costs: Mapping[tuple[int, int | None], float],
    ) -> None:
        """`costs` holds the seconds of a batch by its buckets of rows and length, measured while nothing else ran."""
        self._signature = signature
        self._run = run
        self._executor = executor
        self._max_queue_rows = max_queue_rows
        self._observe = observe
        self._abandon = abandon
        self._costs = costs
        self._queue: deque[Work] = deque()
        self.waiting_rows = 0
        """Rows in the queue."""
        self._busy = False
        self._starting = False
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._seconds_per_row = 0.0

    async def submit(self, inputs: Mapping[str, Array], rows: int, length: int | None) -> Tensors:
        """Queue the rows and wait for their outputs; more rows than one batch holds are split and joined again.

        Raises QueueFull, PayloadTooLarge for rows that would not even fit an empty queue, Unavailable while draining, and
        whatever the session raised for these rows.
        """
        if self._draining:
            raise Unavailable("the model is shutting down: send the request to another instance")
        if rows > self._max_queue_rows:
            raise too_many_rows(rows, self._max_queue_rows)
        waiting = self.waiting_rows
        if waiting + rows > self._max_queue_rows:
            seconds = max(1, math.ceil(waiting * self._seconds_per_row))
            raise QueueFull(
                f"{waiting} rows are waiting and {rows} more would exceed {self._max_queue_rows}: try again in {seconds} s",
                seconds,
            )
        loop = asyncio.get_running_loop()
        limit = self._signature.batch.max
        works = [
            Work(
                {name: array[start : start + limit] for name, array in inputs.items()} if rows > limit else inputs,
                min(limit, rows - start),
                length,
                loop.create_future(),
            )
            for start in range(0, rows, limit)
        ]
        self._queue.extend(works)
        self.waiting_rows += rows
        self._idle.clear()
        self._start_soon(loop)
        try:
            if len(works) == 1:
                return await works[0].answer
            answers = await asyncio.gather(*(work.answer for work in works))
        finally:
            for work in works:
                if work.queued:  # the caller left, or another part of the request failed
                    work.queued = False
                    self.waiting_rows -= work.rows
                    self._abandon(work.rows)
        return {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}

    async def drain(self) -> None:
        """Refuse new work and wait until all that was accepted is answered."""
        self._draining = True
        await self._idle.wait()

    def _start_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start a batch once everything that arrives in this turn of the loop is queued."""
        if not self._busy and not self._starting:
            self._starting = True
            loop.call_soon(self._start, loop)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._starting = False
        works = form(self._queue, self._signature.batch.max)
        self.waiting_rows -= sum(work.rows for work in works)
        if not works:
            self._idle.set()
            return
        self._busy = True
        started = time.perf_counter()
        if self._cost(works) < INLINE_SECONDS:
            self._finish(loop, works, started, self._answers(works))
            return
        running = loop.run_in_executor(self._executor, self._answers, works)
        running.add_done_callback(lambda done: self._finish(loop, works, started, done.result()))

    def _cost(self, works: list[Work]) -> float:
        """Seconds the batch should take; forever where its bucket was not measured."""
        rows = self._signature.batch.bucket(sum(work.rows for work in works))
        return self._costs.get((rows, bucket_length(self._signature, works)), math.inf)

    def _answers(self, works: list[Work]) -> list[Tensors | Exception]:
        """Run works as one batch; if it fails, halve it until only the work at fault gets the error. In the executor."""
        try:
            return [*split(self._run(merge(self._signature, works)), works)]
        except Exception as error:  # noqa: BLE001 - whatever the backend raises belongs to these callers, not to the loop
            if len(works) == 1:
                log.warning("a request of %d rows failed: %s", works[0].rows, error)
                return [error]
            middle = len(works) // 2
            return self._answers(works[:middle]) + self._answers(works[middle:])

    def _finish(
        self, loop: asyncio.AbstractEventLoop, works: list[Work], started: float, answers: list[Tensors | Exception]
    ) -> None:
        self._busy = False
        self._start_soon(loop)  # the session must not idle while answers are written
        seconds = time.perf_counter() - started
        rows = sum(work.rows for work in works)
        self._seconds_per_row += 0.2 * (seconds / rows - self._seconds_per_row)
        self._observe(BatchFacts(rows, tuple(started - work.arrived for work in works), seconds, padding(self._signature, works)))
        for work, answer in zip(works, answers, strict=True):
            if work.answer.done():
                continue  # its caller left while it ran
            if isinstance(answer, Exception):
                work.answer.set_exception(answer)
            else:
                work.answer.set_result(answer)
