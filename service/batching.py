"""Dynamic batching: rows of different callers share one run of a session.

Nothing polls, and unless `max_queue_delay` is set nothing waits on a timer. While a session runs one batch the next one fills; an
idle session starts at the end of the event loop's present turn, with all that arrived in it. A batch that is known to run faster
than a thread could be woken for it, or that holds up nobody for long, runs right there; any other in the session's own thread. The
Batcher adds only time and order to the pure functions of `batch.py`; it knows no HTTP and no ONNX.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from modelrepo.tensors import Array, Signature, Tensors
from service.admission import Admission, Limits, Observer, Running, Tracer
from service.backlog import Backlog
from service.batch import Answer, BatchFacts, Caller, Ran, Reason, Work, padding, widest
from service.compute import Outcome, compute
from service.costs import Costs
from service.errors import DeadlineExceeded, Unavailable
from service.parting import part
from service.worker import Worker

INLINE_SECONDS = 200e-6  # about what it costs to hand a batch to a thread and back
INLINE_ALONE_SECONDS = 2e-3  # the same for the only caller there is: a new connection, or a probe, waits no longer than that
PRIORITIES = 4  # 1 is served first, 4 last and without one; a lower one waits no longer for it than the seconds below
HEAD_START = 0.1  # seconds by which one priority may overtake the next
LAST = HEAD_START * (PRIORITIES - 1)


class Batcher:
    """The queue in front of a model's sessions. All methods belong to the event loop's thread.

    Times are `time.monotonic`'s: uvloop's own clock stands still within a turn of the loop, and ticks in milliseconds.
    """

    def __init__(
        self,
        signature: Signature,
        measured: Mapping[tuple[int, int | None], float],
        limits: Limits,
        observer: Observer,
        lost: Callable[[Worker, Exception], None],
        whole_buckets: bool = False,
        tracer: Tracer | None = None,
    ) -> None:
        """`measured` holds the seconds of a batch by its buckets of rows and length, while nothing else ran.

        `lost` is told of a worker whose session died or hangs: it is used no more. `whole_buckets` fills batches up to their
        bucket, for sessions that are quickest at the sizes they were made for.
        """
        self._loop = asyncio.get_running_loop()
        self._signature = signature
        self._limits = limits
        self._observe = observer
        self._lost = lost
        self._tracer = tracer
        self._whole_buckets = whole_buckets
        self._max_rows = signature.batch.max
        self._costs = Costs(signature, measured, whole_buckets)
        self._backlog = Backlog(self._max_rows, self._costs, apart=signature.length is not None)
        self._workers: list[Worker] = []
        self._idle: list[Worker] = []
        self._running: list[Running] = []
        self._admission = Admission(limits, self._costs, self._backlog, self._workers, self._running, observer)
        self._starting = False
        self._window: asyncio.TimerHandle | None = None
        self._alarm: asyncio.TimerHandle | None = None  # for the deadline that comes first
        self._alarmed = math.inf
        self._draining = False
        self._broken: Exception | None = None
        self._empty = asyncio.Event()

    # Callers

    def offer(
        self,
        caller: Caller,
        inputs: Mapping[str, Array],
        rows: int,
        length: int | None = None,
        timeout: float = math.inf,
        priority: int = 0,
        alone: bool = False,
    ) -> Work:
        """Queue rows that fit one batch; `caller` is told what became of them.

        `alone` says that nobody else can arrive in this turn of the loop: an idle session starts at once, and the caller may be
        told before this returns.

        `timeout`, in seconds, covers queue and computing; `priority` is 1 (first) to 4 (last, and 0). Raises Refused where the
        queue is full or the answer could not come in time, and Unavailable while draining or without a session. The caller gets
        DeadlineExceeded where it did not come in time, and Unprocessable for rows the session fails on.
        """
        now = time.monotonic()
        order = _order(now, priority) if priority else now + LAST
        bucket = None if length is None else self._costs.bucket(length)
        self._admit(rows, self._costs.of(rows, bucket), timeout, order)
        work = Work(inputs, rows, bucket, caller, now, order, now + timeout)
        self._queue(work, alone)
        return work

    async def submit(
        self, inputs: Mapping[str, Array], rows: int, length: int | None, timeout: float = math.inf, priority: int = 0
    ) -> Answer:
        """Queue the rows and wait for their outputs; more rows than one batch holds, and lengths that run sooner apart, are
        split and joined again.

        Raises what `offer` raises or tells, and PayloadTooLarge for rows that would not fit an empty queue.
        """
        now = time.monotonic()
        order = _order(now, priority)
        parts = part(self._signature, self._costs, inputs, rows, length)
        self._admit(rows, sum(self._costs.of(each.rows, each.bucket) for each in parts), timeout, order)
        traced = None if self._tracer is None else self._tracer.current()
        works: list[Work] = []
        awaited: list[_Awaited] = []
        for each in parts:
            awaited.append(_Awaited(self._loop.create_future()))
            works.append(Work(each.inputs, each.rows, each.bucket, awaited[-1], now, order, now + timeout, traced=traced))
            self._queue(works[-1])
        try:
            if len(works) == 1:
                return await awaited[0].future
            answers = await asyncio.gather(*(caller.future for caller in awaited))
        finally:
            for work in works:
                self.withdraw(work)  # the caller left, or another part of the request failed
        joined: Tensors = {}
        for name, array in answers[0].outputs.items():
            joined[name] = np.empty((rows, *array.shape[1:]), array.dtype)
            for each, answer in zip(parts, answers, strict=True):
                joined[name][each.at] = answer.outputs[name]
        return Answer(Ran(joined), 0, rows, max(answer.waited for answer in answers), answers[-1].batch)

    def apart(self, inputs: Mapping[str, Array], rows: int, length: int | None) -> bool:
        """Whether complete inputs are several batches for `submit`: too many rows, or lengths that run sooner apart."""
        return len(part(self._signature, self._costs, inputs, rows, length)) > 1

    def withdraw(self, work: Work) -> None:
        """Its caller has left: rows that wait are dropped, what runs has nobody to be told."""
        if work.caller is None:
            return
        work.caller = None
        if work.queued:
            self._backlog.remove(work)
            self._observe.abandoned(work.rows)
            self._settle()

    @property
    def waiting_rows(self) -> int:
        """Rows in the queue."""
        return self._backlog.rows

    @property
    def waiting(self) -> int:
        """Requests in the queue; one that was split counts once for each part."""
        return len(self._backlog)

    def refuse_where_full(self, rows: int = 1) -> None:
        """Turn rows away for which the queue has no room: one at least, before a request is even decoded. Raises Refused."""
        self._admission.refuse_where_full(rows)

    def predicted_wait(self) -> float:
        """Seconds until rows that arrive now would start to run; forever without a session."""
        return self._admission.predicted_wait()

    def _admit(self, rows: int, seconds: float, timeout: float, order: float) -> None:
        """Turn away what cannot be served. Raises Unavailable, PayloadTooLarge or Refused."""
        if self._draining:
            raise Unavailable("the model is shutting down: send the request to another instance")
        if self._broken is not None:
            raise self._broken
        if self._idle and not self._backlog.rows:
            # An idle session runs what comes, however badly it was predicted: that is how predictions get better.
            timeout = math.inf
        self._admission.admit(rows, seconds, timeout, order)

    def _queue(self, work: Work, alone: bool = False) -> None:
        self._backlog.add(work)
        if self._idle and not self._starting:
            if alone:
                self._start("idle", alone)
            else:
                self._start_soon("idle")
        if work.deadline < self._alarmed:
            self._watch(work.deadline)

    def _watch(self, deadline: float) -> None:
        """Wake up at the first deadline: a timer for each request would cost more than the rest of its queueing."""
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarmed = deadline
        self._alarm = self._loop.call_later(max(0.0, deadline - time.monotonic()), self._expire)

    def _expire(self) -> None:
        """Answer those whose time is over, and look for who is next."""
        self._alarm, self._alarmed = None, math.inf
        now = time.monotonic()
        following = math.inf
        for work in [*self._backlog, *(work for running in self._running for work in running.works)]:
            if work.caller is None:
                continue
            if work.deadline > now:
                following = min(following, work.deadline)
                continue
            where = "waiting for a session" if work.queued else "while it ran"
            if work.queued:
                self._backlog.remove(work)
            self._observe.expired(work.rows)
            timeout = work.deadline - work.arrived
            _fail(work, DeadlineExceeded(f"no answer within the timeout of {timeout * 1e3:.0f} ms; it ended {where}"))
        if following < self._alarmed:
            self._watch(following)
        self._settle()

    # Sessions

    def add(self, worker: Worker) -> None:
        """Give a session to the batcher: at first, or in place of a lost one."""
        self._workers.append(worker)
        self._idle.append(worker)
        self._start_soon("idle")

    @property
    def workers(self) -> list[Worker]:
        """The sessions in use."""
        return list(self._workers)

    async def drain(self) -> None:
        """Refuse new work and wait until all that was accepted is answered."""
        self._draining = True
        self._settle()
        await self._empty.wait()

    def fail(self, error: Exception | None) -> None:
        """Answer everything that waits, and all that comes, with an error, where no session is left; None takes it back."""
        self._broken = error
        if error is None:
            return
        for work in list(self._backlog):
            self._backlog.remove(work)
            _fail(work, error)
        self._settle()

    def _start_soon(self, reason: Reason) -> None:
        """Start batches once everything that arrives in this turn of the loop is queued."""
        if self._idle and self._backlog.rows and not self._starting:
            self._starting = True
            self._loop.call_soon(self._start, reason)

    def _start(self, reason: Reason, alone: bool = False) -> None:
        self._starting = False
        while self._idle and self._backlog.rows and not self._starting:  # after a batch in this thread the loop has its turn first
            now = time.monotonic()
            if reason != "window" and self._limits.queue_delay and not self._due(now):
                return
            works = self._backlog.take(now, self._fair_share())
            if not works:
                break
            self._run(works, reason, INLINE_ALONE_SECONDS if alone else INLINE_SECONDS)

    def _fair_share(self) -> int:
        """Rows of the next batch, at most: a session that took all that waits would leave the others nothing to do."""
        sessions = len(self._workers)
        if sessions < 2:
            return self._max_rows
        under_way = sum([running.rows for running in self._running])
        return -(-(self._backlog.rows + under_way) // sessions)

    def _due(self, now: float) -> bool:
        """Whether a batch may leave: it is full, or its first work has waited `queue_delay`. If not, it will be woken."""
        if self._backlog.rows >= self._max_rows:
            return True
        left = min(work.arrived for work in self._backlog) + self._limits.queue_delay - now
        if left <= 0:
            return True
        if self._window is not None:
            self._window.cancel()
        self._window = self._loop.call_later(left, self._start, "window")
        return False

    def _run(self, works: list[Work], reason: Reason, inline: float) -> None:
        """Run a batch: in this thread, if it takes less than `inline` seconds."""
        worker = self._idle.pop()
        rows = sum([work.rows for work in works])
        seconds = self._costs.of(rows, widest(works))
        started = time.monotonic()
        expected = 0.0 if seconds == math.inf else seconds * self._costs.slowness
        running = Running(worker, works, rows, "full" if rows >= self._max_rows else reason, started, expected)
        self._running.append(running)
        if seconds < inline:
            outcome = compute(worker, self._signature, works, rows, self._whole_buckets)
            if self._ended(running, seconds, outcome):
                self._start_soon("freed")  # what arrived meanwhile comes first into the next
                self._tell(running, outcome)
            return
        if self._limits.watchdog < math.inf:
            running.alarm = self._loop.call_later(self._limits.watchdog, self._give_up, running)
        job = partial(compute, worker, self._signature, works, rows, self._whole_buckets)
        worker.start(job, self._loop, partial(self._finish, running, seconds))

    def _finish(self, running: Running, expected: float, outcome: Outcome) -> None:
        """A batch comes back from its thread."""
        if self._ended(running, expected, outcome):
            self._start("freed")  # the session must not idle while answers are written
            self._tell(running, outcome)

    def _ended(self, running: Running, expected: float, outcome: Outcome) -> bool:
        """Take a batch off its worker; False where it came after all, when its works had been handed to another."""
        if running.given_up:
            return False
        self._running.remove(running)
        if running.alarm is not None:
            running.alarm.cancel()
        if outcome.lost is None:
            self._idle.append(running.worker)
        self._costs.took(expected, outcome.merging + outcome.computing)
        return True

    def _tell(self, running: Running, outcome: Outcome) -> None:
        """Each caller what became of its rows."""
        works, rows, started = running.works, running.rows, running.started
        waits = tuple([started - work.arrived for work in works])
        share = padding(self._signature, works, rows, outcome.size)
        facts = BatchFacts(rows, outcome.size, widest(works), waits, outcome.merging, outcome.computing, share, running.reason)
        if self._tracer is not None:
            self._tracer.ran(works, started, facts, outcome.lost)
        for work, answer, waited in zip(works, outcome.answers, waits, strict=True):
            caller = work.caller
            if caller is None:
                continue  # it left, or its time ended, while it ran
            if type(answer) is tuple:
                work.caller = None
                ran, start = answer
                caller.answered(work, Answer(ran, start, start + work.rows, waited, facts))
            elif outcome.lost is not None:
                self._again(work)
            else:
                assert isinstance(answer, Exception)
                _fail(work, answer)
        self._observe.batch(facts)  # while the answers are on their way
        if outcome.lost is not None:
            self._drop(running.worker, outcome.lost)
        self._settle()

    def _give_up(self, running: Running) -> None:
        """A batch runs past the watchdog: its session is taken to hang."""
        running.given_up = True
        self._running.remove(running)
        for work in running.works:
            if work.caller is not None:
                self._again(work)
        self._drop(running.worker, TimeoutError(f"a batch did not end within {self._limits.watchdog:g} s"))
        self._start_soon("freed")
        self._settle()

    def _again(self, work: Work) -> None:
        """Queue a work that was on a session when it was lost; the second time it is taken to be the reason."""
        if work.retried or self._broken is not None:
            _fail(work, Unavailable("the session was lost while it computed these rows, and is replaced: try again"))
            return
        work.retried = True
        self._queue(work)

    def _drop(self, worker: Worker, error: Exception) -> None:
        self._workers.remove(worker)
        worker.close()
        self._lost(worker, error)

    def _settle(self) -> None:
        if self._draining and not self._running and not self._backlog.rows:
            self._empty.set()


class _Awaited:
    """A caller that is a coroutine."""

    __slots__ = ("future",)

    def __init__(self, future: asyncio.Future[Answer]) -> None:
        self.future = future

    def answered(self, _work: Work, answer: Answer) -> None:
        if not self.future.done():
            self.future.set_result(answer)

    def failed(self, _work: Work, error: Exception) -> None:
        if not self.future.done():
            self.future.set_exception(error)


def _order(now: float, priority: int) -> float:
    """Where a work that arrives now stands in the queue."""
    return now + HEAD_START * (priority - 1 if 0 < priority < PRIORITIES else PRIORITIES - 1)


def _fail(work: Work, error: Exception) -> None:
    caller, work.caller = work.caller, None
    if caller is not None:
        caller.failed(work, error)
