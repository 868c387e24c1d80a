"""One version of a model that answers: its files' facts, its sessions, and the batcher in front of them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from modelrepo.tensors import Array
from runtime.session import Session
from service import tracing
from service.admission import Limits
from service.batch import Answer
from service.batching import Batcher
from service.budget import Budget
from service.codec.plain import PlainAnswers, PlainRequests
from service.codec.predictions import Predictions
from service.errors import Unavailable
from service.explainer import Explainer
from service.loading import Loaded
from service.metrics import Answers, Metrics
from service.response_cache import Counts, ResponseCache
from service.settings import Settings
from service.statistics import Statistics
from service.tap import Tap
from service.worker import Worker

if TYPE_CHECKING:
    from service.drift import Drift
    from service.otel import Tracing

log = logging.getLogger("quartet.model")

LONG_INPUTS = 64 * 1024  # bytes of which a thread makes the cache's key: 40 microseconds or so, more than it costs to ask it
RETRY_SECONDS = (1.0, 60.0)  # between attempts to replace a session: the first, and the most, doubling in between


class ServedModel:
    """Made inside the event loop, which all its methods belong to."""

    def __init__(self, loaded: Loaded, settings: Settings, metrics: Metrics, traces: Tracing | None = None) -> None:
        way = loaded.way
        self.name = way.published.name
        self.version = str(way.published.version)
        self.published = way.published
        self.manifest = way.published.manifest
        self.artifact = way.artifact
        self.candidate = way.candidate
        self.provider = loaded.sessions[0].provider
        self.max_rows = settings.max_queue_rows
        self.skipped = way.skipped
        self.goldens = way.goldens
        self.reader = loaded.reader
        self.plain = PlainRequests(self.manifest.signature)
        self.plain_answers = PlainAnswers(self.name, self.version, self.manifest.signature)
        self.predictions = Predictions(self.name, self.version, self.manifest.task)
        self.explainer = Explainer(way.published, way.goldens)
        self.statistics = Statistics()
        self.fault: str | None = None
        """Why no session can be had at present."""
        self.taps: tuple[Tap, ...] = ()
        """Who looks at its answered requests."""
        self._metrics = metrics
        size = Budget.parse(settings.response_cache_bytes).of(self.name)
        self.cache = self._cache(size) if size else None
        """Its answers to requests that may come again."""
        self.drift: Drift | None = None
        """How its inputs drift, where that is looked for."""
        self._way = way
        self.timeout = settings.timeout_ms / 1e3 or math.inf
        """Seconds that a request may take which does not say."""
        interfaces = ("infer", "predict") if settings.grpc_port is None else ("infer", "predict", "grpc")
        self._answers = {
            each: metrics.answers(each, self.name, self.version, self.statistics, self.provider) for each in interfaces
        }
        self._replacements: set[asyncio.Task[None]] = set()
        self._callers = 0
        self._closing = False
        self._left = asyncio.Event()
        self.batcher = Batcher(
            self.manifest.signature,
            loaded.costs,
            Limits(
                settings.max_queue_rows,
                settings.max_queue_delay_ms / 1e3,
                settings.watchdog_seconds or math.inf,
                settings.overload_status,
            ),
            metrics.observer(self.name, self.version, self.statistics, self.provider),
            self._lost,
            # ONNX Runtime's CPU kernels take any size; others plan, compile or capture each size as they first meet it.
            whole_buckets=(way.candidate.backend, way.candidate.device) != ("onnxruntime", "cpu"),
            tracer=None if traces is None else traces.of(self.name, self.version, self.provider, self.manifest.signature.batch),
        )
        for session in loaded.sessions:
            self._add(session)

    def answers(self, interface: str) -> Answers:
        """What counts the answers given over `infer`, `predict` or, where it is on, `grpc`."""
        return self._answers[interface]

    def latencies(self) -> tuple[int, ...]:
        """As those of `Answers`, over all interfaces."""
        return tuple(map(sum, zip(*(answers.latencies for answers in self._answers.values()), strict=True)))

    @property
    def ready(self) -> bool:
        """Whether there is a session to answer with."""
        return bool(self.batcher.workers)

    def enter(self) -> None:
        """A request is under way: `close` waits until it has left."""
        self._callers += 1

    def leave(self) -> None:
        """A request has its answer."""
        self._callers -= 1
        if not self._callers and self._closing:
            self._left.set()

    @contextmanager
    def called(self) -> Iterator[None]:
        """A block within which a request is under way."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    async def infer(
        self, inputs: Mapping[str, Array], timeout: float | None = None, priority: int = 0, request_id: str | None = None
    ) -> Answer:
        """Outputs for the rows of `inputs`; the mask may be left out.

        `timeout` in seconds, None for the server's; `request_id` is the caller's own name for it. Raises SignatureError, and what
        `Batcher.submit` raises.
        """
        complete, rows, length = self.checked(inputs)
        cache, answer, key = self.cache, None, b""
        if cache is not None:
            large = sum(array.nbytes for array in complete.values()) > LONG_INPUTS
            key = await asyncio.to_thread(cache.key, complete) if large else cache.key(complete)
            answer = cache.get(key)
        if answer is None:
            answer = await self.batcher.submit(complete, rows, length, timeout or self.timeout, priority)
            if cache is not None:
                cache.put(key, answer)
        elif (traced := tracing.current.get()) is not None:
            traced.note(cached=True)
        if self.taps:
            self.show(complete, answer, request_id)
        return answer

    def show(self, inputs: Mapping[str, Array], answer: Answer, request_id: str | None = None) -> None:
        """Let the taps look at an answered request; one that fails is told of, and looks no more."""
        for tap in self.taps:
            try:
                tap.saw(inputs, answer, request_id)
            except Exception:  # no caller's answer hangs on it
                log.exception("%s:%s: %s looks at no more requests", self.name, self.version, type(tap).__name__)
                self.taps = tuple(other for other in self.taps if other is not tap)
                tap.close()

    def checked(self, inputs: Mapping[str, Array]) -> tuple[Mapping[str, Array], int, int | None]:
        """Complete inputs, their rows and, for sequences, their length. Raises SignatureError."""
        signature = self.manifest.signature
        complete = signature.complete(inputs)
        rows, length = signature.check(complete)
        signature.check_values(complete)
        return complete, rows, length

    async def close(self) -> None:
        """Answer what was accepted, then give back the sessions. No new request may find the model by now."""
        self._closing = True
        if self._callers:
            await self._left.wait()
        await self.batcher.drain()
        for task in self._replacements:
            task.cancel()
        workers = self.batcher.workers
        for worker in workers:
            worker.close()
        for worker in workers:
            await asyncio.to_thread(worker.join)
        for tap in self.taps:
            tap.close()
        self.explainer.close()
        if self.cache is not None:
            self.cache.clear()

    def _cache(self, size: int) -> ResponseCache:
        labels, metrics = (self.name, self.version), self._metrics
        counts = Counts(*(each.labels(*labels) for each in (metrics.cache_hits, metrics.cache_misses, metrics.cache_evictions)))
        return ResponseCache(self.manifest.signature, size, counts, self.statistics)

    def _add(self, session: Session) -> None:
        self.batcher.add(Worker(session, self._way.check, f"{self.name}-{self.version}"))

    def _lost(self, worker: Worker, error: Exception) -> None:
        log.error("%s:%s: a session is lost, it is replaced: %s", self.name, self.version, error)
        self._metrics.sessions_lost.labels(self.name, self.version).inc()
        self.fault = f"a session is being replaced: {error}"
        task = asyncio.ensure_future(self._replace())
        self._replacements.add(task)
        task.add_done_callback(self._replacements.discard)

    async def _replace(self) -> None:
        """Open another session, however long it takes."""
        pause, longest = RETRY_SECONDS
        while True:
            try:
                session = await asyncio.to_thread(self._way.open)
                break
            except Exception as error:  # whatever it is, it is told and tried again
                self.fault = f"a lost session cannot be replaced, tried every {pause:g} s: {error}"
                log.exception("%s:%s: %s", self.name, self.version, self.fault)
                if not self.batcher.workers:
                    self.batcher.fail(Unavailable(f"model {self.name!r} has no session: {self.fault}"))
            await asyncio.sleep(pause)
            pause = min(2 * pause, longest)
        self.fault = None
        self.batcher.fail(None)
        self._add(session)
        log.info("%s:%s: a new session serves", self.name, self.version)
