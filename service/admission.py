"""Who is let into the queue: those for whom there is room, and whose answer can come in time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from service.backlog import Backlog
from service.batch import BatchFacts, Reason, Work
from service.costs import Costs
from service.errors import Refused, too_many_rows
from service.worker import Worker


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


class Tracer(Protocol):
    """Whoever traces requests and batches."""

    def current(self) -> object | None:
        """The trace of the request that is being answered, if it has one."""

    def ran(self, works: Sequence[Work], started: float, facts: BatchFacts, lost: Exception | None) -> None:
        """A batch ran from that time of `time.monotonic`; `lost` is what was wrong with its session."""


@dataclass(eq=False, slots=True)
class Running:
    """A batch on a worker."""

    worker: Worker
    works: list[Work]
    rows: int
    reason: Reason
    started: float
    expected: float
    alarm: asyncio.TimerHandle | None = None
    given_up: bool = False


class Admission:
    """Looks at a batcher's queue, sessions and running batches, which the batcher keeps."""

    def __init__(
        self,
        limits: Limits,
        costs: Costs,
        backlog: Backlog,
        workers: Sequence[Worker],
        running: Sequence[Running],
        observer: Observer,
    ) -> None:
        self._limits = limits
        self._costs = costs
        self._backlog = backlog
        self._workers = workers
        self._running = running
        self._observe = observer

    def refuse_where_full(self, rows: int = 1) -> None:
        """Turn rows away for which the queue has no room: one at least, before a request is even decoded. Raises Refused."""
        waiting, most = self._backlog.rows, self._limits.queue_rows
        if waiting + rows <= most:
            return
        self._observe.refused("queue", rows)
        seconds = self._retry_after()
        message = f"{waiting} rows are waiting and {rows} more would exceed {most}: try again in {seconds} s"
        raise Refused(message, seconds, self._limits.refusal)

    def predicted_wait(self, order: float = math.inf) -> float:
        """Seconds until rows that arrive now would start to run; with `order`, those before which only works of a lower one run."""
        if not self._workers:
            return math.inf
        now = time.monotonic()
        busy = sum(max(0.0, running.started + running.expected - now) for running in self._running)
        return (busy + self._backlog.ahead(order) * self._costs.slowness) / len(self._workers)

    def admit(self, rows: int, seconds: float, timeout: float, order: float) -> None:
        """Turn away rows that find no room, or that run for so many seconds and cannot be answered within `timeout`.

        Raises PayloadTooLarge or Refused.
        """
        limits, backlog = self._limits, self._backlog
        if backlog.rows + rows > limits.queue_rows:
            if rows > limits.queue_rows:
                raise too_many_rows(rows, limits.queue_rows)
            self.refuse_where_full(rows)
        if timeout == math.inf:
            return
        slowness = self._costs.slowness
        cost = seconds * slowness
        most = backlog.seconds * slowness + cost
        for running in self._running:
            most += running.expected
        if most <= timeout:
            return  # even if one session had to do it all
        wait = self.predicted_wait(order)
        needed = wait + cost
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
