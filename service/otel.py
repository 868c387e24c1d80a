"""Traces by OpenTelemetry: spans of each sampled request, with its decoding, queueing, computing and encoding, and of each batch.

A batch is computed for several requests, which have traces of their own: its span is the root of another, linked to those of its
requests, and the computing of each request is linked to it. Spans are sent over OTLP, by HTTP and protobuf, from a thread of
their own; where that cannot keep up, or nobody takes them, they are dropped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from threading import Thread

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import PROCESS_PID, SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, format_span_id, format_trace_id, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from modelrepo.tensors import ShapeRange
from service import tracing
from service.batch import BatchFacts, Work

FLUSH_SECONDS = 3.0  # that the last spans get to be sent while the process ends
SAID_AGAIN = 60.0  # seconds until the same trouble with sending is told once more
TELLERS = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")

log = logging.getLogger("quartet.otel")


class Tracing:
    """Begins and sends spans."""

    def __init__(self) -> None:
        own: dict[str, str | int] = {SERVICE_NAME: "quartet", SERVICE_VERSION: version("quartet"), PROCESS_PID: os.getpid()}
        resource = (
            Resource.create().merge(Resource(own)).merge(OTELResourceDetector().detect())
        )  # the environment has the last word
        self._exporter = OTLPSpanExporter()
        processor = BatchSpanProcessor(self._exporter)
        self._requests = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._batches = TracerProvider(ALWAYS_ON, resource, shutdown_on_exit=False)
        for provider in (self._requests, self._batches):
            provider.add_span_processor(processor)
        self._tracer = self._requests.get_tracer("quartet", version("quartet"))
        self._batch_tracer = self._batches.get_tracer("quartet", version("quartet"))
        self._propagator = TraceContextTextMapPropagator()
        for name in TELLERS:
            logging.getLogger(name).addFilter(SELDOM)

    def begin(self, path: str, route: str, given: tuple[str, str] | None, arrived: float) -> Traced | None:
        """The trace of a request that arrived at that time of `time.monotonic`, None where it is not sampled.

        `given` are the headers traceparent and tracestate.
        """
        return self._begun(f"POST {route}", {"http.request.method": "POST", "http.route": route, "url.path": path}, given, arrived)

    def begin_call(self, method: str, given: tuple[str, str] | None, arrived: float) -> Traced | None:
        """The same for a request over gRPC; `method` is the full name, without the first slash."""
        return self._begun(method, {"rpc.system.name": "grpc", "rpc.method": method}, given, arrived)

    def _begun(self, name: str, attributes: Mapping[str, str], given: tuple[str, str] | None, arrived: float) -> Traced | None:
        parent = Context()
        if given is not None:
            parent = self._propagator.extract({"traceparent": given[0], "tracestate": given[1]}, parent)
        span = self._tracer.start_span(name, parent, SpanKind.SERVER, attributes, start_time=_epoch(arrived))
        return Traced(self, span) if span.is_recording() else None

    def child(self, name: str, of: Span, start: float, links: Sequence[Link] = ()) -> Span:
        """A span within another, begun at that time of `time.monotonic`."""
        return self._tracer.start_span(name, set_span_in_context(of, Context()), links=links, start_time=_epoch(start))

    def batch(self, attributes: Mapping[str, str | int | float], start: float, links: Sequence[Link]) -> Span:
        """The span of a batch."""
        return self._batch_tracer.start_span("batch", Context(), attributes=attributes, links=links, start_time=_epoch(start))

    def of(self, model: str, version: str, backend: str, batch: ShapeRange) -> ModelTracer:
        """What traces the batches of one version; `batch` is its batch axis."""
        return ModelTracer(self, {"quartet.model": model, "quartet.version": version, "quartet.backend": backend}, batch)

    async def stop(self) -> None:
        """Send what is left, for at most FLUSH_SECONDS: in a thread that does not keep the process from ending."""
        sent, loop = asyncio.Event(), asyncio.get_running_loop()

        def shut_down() -> None:
            self._batches.shutdown()
            self._requests.shutdown()
            try:
                loop.call_soon_threadsafe(sent.set)
            except RuntimeError:  # the loop did not wait
                return

        Thread(target=shut_down, name="otel shutdown", daemon=True).start()
        try:
            await asyncio.wait_for(sent.wait(), FLUSH_SECONDS)
        except TimeoutError:
            log.warning("the last spans could not be sent within %g s", FLUSH_SECONDS)
            self._exporter.shutdown()  # type: ignore[no-untyped-call]  # which ends its waiting for another try


class Traced:
    """One sampled request."""

    def __init__(self, tracing: Tracing, span: Span) -> None:
        self.span = span
        self._tracing = tracing

    @property
    def trace_id(self) -> str:
        """In hexadecimal digits."""
        return format_trace_id(self.span.get_span_context().trace_id)

    @property
    def response(self) -> str:
        """The value of the header traceresponse (W3C, draft): which trace, and which span of it, the answer belongs to."""
        context = self.span.get_span_context()
        return f"00-{self.trace_id}-{format_span_id(context.span_id)}-{context.trace_flags & 1:02x}"

    def note(self, **attributes: str | int | bool) -> None:
        """Facts about it."""
        self.span.set_attributes({f"quartet.{name}": value for name, value in attributes.items()})

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A span around a block."""
        span = self._tracing.child(name, self.span, time.monotonic())
        try:
            yield
        except BaseException as error:
            span.set_status(Status(StatusCode.ERROR, type(error).__name__))  # a message could repeat what was sent
            raise
        finally:
            span.end()

    def end(self, status: int) -> None:
        """It was answered with that status, or its caller left."""
        self._end("http.response.status_code", status, failed=status >= 500)

    def end_call(self, code: str, failed: bool) -> None:
        """The same over gRPC: the name of the code, and whether the fault was this server's."""
        self._end("rpc.response.status_code", code, failed)

    def _end(self, attribute: str, code: str | int, failed: bool) -> None:
        self.span.set_attribute(attribute, code)
        if failed:
            self.span.set_attribute("error.type", str(code))
            self.span.set_status(Status(StatusCode.ERROR))
        self.span.end()


class ModelTracer:
    """The batches of one version."""

    def __init__(self, tracing: Tracing, attributes: Mapping[str, str], batch: ShapeRange) -> None:
        self._tracing = tracing
        self._attributes = attributes
        self._batch = batch

    def current(self) -> Traced | None:
        """The request whose rows are being queued, if it is sampled."""
        return tracing.current.get()

    def ran(self, works: Sequence[Work], started: float, facts: BatchFacts, lost: Exception | None) -> None:
        """A batch ran from that time of `time.monotonic` until now; `lost` is what was wrong with its session."""
        sampled = [(work, work.traced) for work in works if isinstance(work.traced, Traced)]
        if not sampled:
            return
        attributes: dict[str, str | int | float] = {
            **self._attributes,
            "quartet.requests": len(works),
            "quartet.rows": facts.rows,
            "quartet.bucket": self._batch.bucket(facts.size),
            "quartet.padding_share": facts.padding,
            "quartet.reason": facts.reason,
            "quartet.pad_ms": facts.merging * 1e3,
            "quartet.compute_ms": facts.computing * 1e3,
        }
        if facts.length is not None:
            attributes["quartet.length"] = facts.length
        links = [Link(traced.span.get_span_context()) for _, traced in sampled]
        batch = self._tracing.batch(attributes, started, links)
        ended = _epoch(started + facts.merging + facts.computing)
        for work, traced in sampled:
            self._tracing.child("queue", traced.span, work.arrived).end(_epoch(started))
            span = self._tracing.child("compute", traced.span, started, [Link(batch.get_span_context())])
            span.set_attributes(attributes)
            if lost is not None:
                span.set_status(Status(StatusCode.ERROR, type(lost).__name__))
            span.end(ended)
        if lost is not None:
            batch.set_status(Status(StatusCode.ERROR, type(lost).__name__))
        batch.end()


class _Seldom(logging.Filter):
    """Trouble with sending is told once a minute, however many batches of spans meet it."""

    def __init__(self) -> None:
        super().__init__()
        self._last = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._last < SAID_AGAIN:
            return False
        self._last = now
        return True


SELDOM = _Seldom()


def _epoch(moment: float) -> int:
    """A time of `time.monotonic` in nanoseconds since the epoch, as spans have it."""
    return time.time_ns() - round((time.monotonic() - moment) * 1e9)
