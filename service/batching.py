"""Dynamic batching: rows of different callers share one run of a session.

Nothing polls, and unless `max_queue_delay` is set nothing waits on a timer. While a session runs one batch the next one fills; an
idle session starts at the end of the event loop's present turn, with all that arrived in it. A batch that is known to run faster
than a thread could be woken for it runs right there; any other in the session's own thread. The Batcher adds only time and order to
the pure functions of `batch.py`; it knows no HTTP and no ONNX.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import insort
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import numpy as np

from modelrepo.tensors import Array, Signature
from service.batch import Answer, BatchFacts, Reason, Work, bucket_length, form, padding
from service.compute import Outcome, compute
from service.errors import DeadlineExceeded, Refused, Unavailable, too_many_rows
from service.worker import Worker

INLINE_SECONDS = 200e-6  # about what it costs to hand a batch to a thread and back
PRIORITIES = 4  # 1 is served first, 4 last and without one; a lower one waits no longer for it than the seconds below
HEAD_START = 0.1  # seconds by which one priority may overtake the next


@dataclass(frozen=True)
class Limits:
    """How much may wait and how long. Times in seconds; `watchdog` is how long a batch may run, at most."""

    queue_rows: int
    queue_delay: float = 0.0
    watchdog: float = math.inf
    refusal: int = 429  # the status, or 503


class Observer(Protocol):
    """Whoever keeps the metrics."""

    def batch(self, facts: BatchFacts) -> None:
        """A batch ran."""

    def abandoned(self, rows: int) -> None:
        """Their caller left while they were queued."""

    def refused(self, reason: str, rows: int) -> None:
        """They were turned away on arrival: `queue` or `deadline`."""

    def expired(self, rows: int) -> None:
        """They were accepted, and not answered in time."""


@dataclass(eq=False, slots=True)
class _Running:
    """A batch on a worker."""

    worker: Worker
    works: list[Work]
    reason: Reason
    started: float
    expected: float
    alarm: asyncio.TimerHandle | None = None
    given_up: bool = False


class Batcher:
    """The queue in front of a model's sessions. All methods belong to the event loop's thread.

    Times are `time.monotonic`'s: uvloop's own clock stands still within a turn of the loop, and ticks in milliseconds.
    """

    def __init__(
        self,
        signature: Signature,
        costs: Mapping[tuple[int, int | None], float],
        limits: Limits,
        observer: Observer,
        lost: Callable[[Worker, Exception], None],
        whole_buckets: bool = False,
    ) -> None:
        """`costs` holds the seconds of a batch by its buckets of rows and length, measured while nothing else ran.

        `lost` is told of a worker whose session died or hangs: it is used no more. `whole_buckets` fills batches up to their
        bucket, for sessions that are quickest at the sizes they were made for.
        """
        self._signature = signature
        self._costs = costs
        self._limits = limits
        self._observe = observer
        self._lost = lost
        self._whole_buckets = whole_buckets
        self._per_row = _per_row(costs)
        self._slowness = 1.0  # how much longer batches take than when their costs were measured
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._running: list[_Running] = []
        self._queue: list[Work] = []
        self.waiting_rows = 0
        """Rows in the queue."""
        self._waiting_seconds = 0.0
        self._starting = False
        self._window: asyncio.TimerHandle | None = None
        self._draining = False
        self._broken: Exception | None = None
        self._empty = asyncio.Event()
        self._empty.set()

    # Callers

    async def submit(
        self, inputs: Mapping[str, Array], rows: int, length: int | None, timeout: float = math.inf, priority: int = 0
    ) -> Answer:
        """Queue the rows and wait for their outputs; more rows than one batch holds are split and joined again.

        `timeout`, in seconds, covers queue and computing; `priority` is 1 (first) to 4 (last, and 0). Raises Refused where the
        queue is full or the answer could not come in time, DeadlineExceeded where it did not, PayloadTooLarge for rows that would
        not fit an empty queue, Unavailable while draining or without a session, and Unprocessable for rows the session fails on.
        """
        loop = asyncio.get_running_loop()
        now = time.monotonic()
        order = now + HEAD_START * min((priority or PRIORITIES) - 1, PRIORITIES - 1)
        self._admit(rows, length, timeout, order)
        limit = self._signature.batch.max
        deadline = now + timeout
        works = [
            Work(
                {name: array[start : start + limit] for name, array in inputs.items()} if rows > limit else inputs,
                min(limit, rows - start),
                length,
                loop.create_future(),
                now,
                order,
                deadline,
            )
            for start in range(0, rows, limit)
        ]
        for work in works:
            self._enqueue(work)
        self._empty.clear()
        self._start_soon(loop)
        alarm = loop.call_later(timeout, self._expire, works, timeout) if timeout < math.inf else None
        try:
            if len(works) == 1:
                return await works[0].answer
            answers = await asyncio.gather(*(work.answer for work in works))
        finally:
            if alarm is not None:
                alarm.cancel()
            for work in works:
                if work.queued:  # the caller left, or another part of the request failed
                    self._dequeue(work)
                    self._observe.abandoned(work.rows)
        outputs = {name: np.concatenate([answer.outputs[name] for answer in answers]) for name in answers[0].outputs}
        return replace(answers[-1], outputs=outputs, waited=max(answer.waited for answer in answers))

    def refuse_where_full(self, rows: int = 1) -> None:
        """Turn rows away for which the queue has no room: one at least, before a request is even decoded. Raises Refused."""
        waiting, most = self.waiting_rows, self._limits.queue_rows
        if waiting + rows <= most:
            return
        self._observe.refused("queue", rows)
        seconds = self._retry_after()
        message = f"{waiting} rows are waiting and {rows} more would exceed {most}: try again in {seconds} s"
        raise Refused(message, seconds, self._limits.refusal)

    def predicted_wait(self, order: float = math.inf) -> float:
        """Seconds until rows that arrive now would start to run; with `order`, those before which only works of a lower one run."""
        now = time.monotonic()
        if not self._workers:
            return math.inf
        busy = sum(max(0.0, running.started + running.expected - now) for running in self._running)
        ahead = self._waiting_seconds
        if self._queue and order < self._queue[-1].order:
            ahead = sum(self._share(work) for work in self._queue if work.order <= order)
        return (busy + ahead * self._slowness) / len(self._workers)

    def _admit(self, rows: int, length: int | None, timeout: float, order: float) -> None:
        """Turn away what cannot be served. Raises Unavailable, PayloadTooLarge or Refused."""
        if self._draining:
            raise Unavailable("the model is shutting down: send the request to another instance")
        if self._broken is not None:
            raise self._broken
        limits = self._limits
        if rows > limits.queue_rows:
            raise too_many_rows(rows, limits.queue_rows)
        self.refuse_where_full(rows)
        # An idle session runs what comes, however badly it was predicted: that is how predictions get better.
        if timeout == math.inf or (not self._queue and self._idle):
            return
        wait = self.predicted_wait(order)
        needed = wait + self._cost(rows, length) * self._slowness
        if needed > timeout and needed < math.inf:
            self._observe.refused("deadline", rows)
            raise Refused(
                f"the answer would take about {needed * 1e3:.0f} ms, {wait * 1e3:.0f} of them waiting, and the timeout is "
                f"{timeout * 1e3:.0f} ms: try again in {self._retry_after()} s, or allow more time",
                self._retry_after(),
                limits.refusal,
            )

    def _retry_after(self) -> int:
        """Whole seconds until the queue should have drained, as HTTP has them: 1 at least."""
        wait = self.predicted_wait()
        return max(1, math.ceil(wait)) if wait < math.inf else 1

    def _enqueue(self, work: Work) -> None:
        if not self._queue or work.order >= self._queue[-1].order:
            self._queue.append(work)
        else:
            insort(self._queue, work, key=lambda queued: queued.order)
        work.queued = True
        self.waiting_rows += work.rows
        self._waiting_seconds += self._share(work)

    def _dequeue(self, work: Work) -> None:
        self._queue.remove(work)
        work.queued = False
        self._account(work)

    def _account(self, work: Work) -> None:
        self.waiting_rows -= work.rows
        self._waiting_seconds = self._waiting_seconds - self._share(work) if self.waiting_rows else 0.0

    def _expire(self, works: list[Work], timeout: float) -> None:
        for work in works:
            if work.answer.done():
                continue
            where = "waiting for a session" if work.queued else "while it ran"
            if work.queued:
                self._dequeue(work)
            self._observe.expired(work.rows)
            work.answer.set_exception(DeadlineExceeded(f"no answer within the timeout of {timeout * 1e3:.0f} ms; it ended {where}"))

    # Sessions

    def add(self, worker: Worker) -> None:
        """Give a session to the batcher: at first, or in place of a lost one."""
        self._workers.append(worker)
        self._idle.append(worker)
        self._start_soon(asyncio.get_running_loop())

    @property
    def workers(self) -> list[Worker]:
        """The sessions in use."""
        return list(self._workers)

    async def drain(self) -> None:
        """Refuse new work and wait until all that was accepted is answered."""
        self._draining = True
        await self._empty.wait()

    def fail(self, error: Exception | None) -> None:
        """Answer everything that waits, and all that comes, with an error, where no session is left; None takes it back."""
        self._broken = error
        if error is None:
            return
        for work in list(self._queue):
            self._dequeue(work)
            if not work.answer.done():
                work.answer.set_exception(error)
        self._settle()

    def _start_soon(self, loop: asyncio.AbstractEventLoop, reason: Reason = "idle") -> None:
        """Start batches once everything that arrives in this turn of the loop is queued."""
        if self._idle and not self._starting:
            self._starting = True
            loop.call_soon(self._start, loop, reason)

    def _start(self, loop: asyncio.AbstractEventLoop, reason: Reason) -> None:
        self._starting = False
        while self._idle and self._queue and not self._starting:  # after a batch in this thread the loop has its turn first
            if reason != "window" and not self._due(loop):
                return
            now = time.monotonic()
            works = form(self._queue, self._signature.batch.max, now, self._cost if self._signature.length else None)
            for work in works:
                self._account(work)
            if not works:
                break
            rows = sum(work.rows for work in works)
            self._run(loop, works, "full" if rows >= self._signature.batch.max else reason)
        self._settle()

    def _due(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Whether a batch may leave: it is full, or its first work has waited `queue_delay`. If not, it will be woken."""
        if not self._limits.queue_delay or self.waiting_rows >= self._signature.batch.max:
            return True
        due = min(work.arrived for work in self._queue) + self._limits.queue_delay
        left = due - time.monotonic()
        if left <= 0:
            return True
        if self._window is not None:
            self._window.cancel()
        self._window = loop.call_later(left, self._start, loop, "window")
        return False

    def _run(self, loop: asyncio.AbstractEventLoop, works: list[Work], reason: Reason) -> None:
        worker = self._idle.pop()
        rows = sum(work.rows for work in works)
        seconds = self._cost(rows, bucket_length(self._signature, works))
        running = _Running(worker, works, reason, time.monotonic(), 0.0 if seconds == math.inf else seconds * self._slowness)
        self._running.append(running)
        job = partial(compute, worker, self._signature, works, self._whole_buckets)
        if seconds < INLINE_SECONDS:
            self._finish(loop, running, seconds, job())
            return
        if self._limits.watchdog < math.inf:
            running.alarm = loop.call_later(self._limits.watchdog, self._give_up, loop, running)
        worker.start(job, loop, partial(self._finish, loop, running, seconds))

    def _finish(self, loop: asyncio.AbstractEventLoop, running: _Running, expected: float, outcome: Outcome) -> None:
        if running.given_up:  # it came after all, when its works had been handed to another
            return
        self._running.remove(running)
        if running.alarm is not None:
            running.alarm.cancel()
        if outcome.lost is None:
            self._idle.append(running.worker)
            self._start_soon(loop, "freed")  # the session must not idle while answers are written
        works = running.works
        if 0 < expected < math.inf:
            self._slowness += 0.1 * ((outcome.merging + outcome.computing) / expected - self._slowness)
        rows = sum(work.rows for work in works)
        waits = tuple(running.started - work.arrived for work in works)
        length = bucket_length(self._signature, works)
        share = padding(self._signature, works, outcome.size)
        facts = BatchFacts(rows, outcome.size, length, waits, outcome.merging, outcome.computing, share, running.reason)
        self._observe.batch(facts)
        for work, answer, waited in zip(works, outcome.answers, waits, strict=True):
            if work.answer.done():
                continue  # its caller left, or its time ended, while it ran
            if not isinstance(answer, Exception):
                work.answer.set_result(Answer(answer, waited, facts))
            elif outcome.lost is None:
                work.answer.set_exception(answer)
            else:
                self._again(work)
        if outcome.lost is not None:
            self._drop(running.worker, outcome.lost)
        self._settle()

    def _give_up(self, loop: asyncio.AbstractEventLoop, running: _Running) -> None:
        """A batch runs past the watchdog: its session is taken to hang."""
        running.given_up = True
        self._running.remove(running)
        for work in running.works:
            if not work.answer.done():
                self._again(work)
        self._drop(running.worker, TimeoutError(f"a batch did not end within {self._limits.watchdog:g} s"))
        self._start_soon(loop)
        self._settle()

    def _again(self, work: Work) -> None:
        """Queue a work that was on a session when it was lost; the second time it is taken to be the reason."""
        if work.retried or self._broken is not None:
            work.answer.set_exception(Unavailable("the session was lost while it computed these rows, and is replaced: try again"))
            return
        work.retried = True
        self._enqueue(work)

    def _drop(self, worker: Worker, error: Exception) -> None:
        self._workers.remove(worker)
        worker.close()
        self._lost(worker, error)

    def _settle(self) -> None:
        if not self._running and not self.waiting_rows:
            self._empty.set()

    def _cost(self, rows: int, length: int | None) -> float:
        """Seconds a batch should take by its measured cost; forever where its bucket was not measured."""
        signature = self._signature
        bucket = signature.length.bucket(length or 0) if signature.length else None
        return self._costs.get((signature.batch.bucket(min(rows, signature.batch.max)), bucket), math.inf)

    def _share(self, work: Work) -> float:
        """Seconds that a work adds to a full batch of its like."""
        length = self._signature.length.bucket(work.length or 0) if self._signature.length else None
        return work.rows * self._per_row.get(length, 0.0)


def _per_row(costs: Mapping[tuple[int, int | None], float]) -> dict[int | None, float]:
    """Seconds a row takes in the batch size that is best for it, by length bucket."""
    best: dict[int | None, float] = {}
    for (rows, length), seconds in costs.items():
        best[length] = min(best.get(length, math.inf), seconds / rows)
    return best
