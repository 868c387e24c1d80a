"""Inference over gRPC: one request, or a stream of them whose answers come in their order.

Messages are parsed here rather than by grpc, so that one that cannot be is answered with a reason. A call's deadline is the
request's timeout, where its own is not sooner; when it passes, or the caller cancels or is gone, the rows are taken back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import ParamSpec, TypeVar

from service import errors, identity, tracing
from service.access import GONE
from service.api.explanation import explain
from service.api.head import Headers, propagated
from service.api.quick import LONG_BINARY, LONG_BODY
from service.errors import ServiceError, shut_down
from service.identity import Identity
from service.keys.credentials import presented
from service.keys.guard import Guard, Principal
from service.model import ServedModel
from service.registry import Registry
from service.rollout.split import STICKY
from service.rpc import codec
from service.rpc.call import PATH, Context, Told, metadata
from service.rpc.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from service.rpc.status import CODES, refuse
from service.telemetry import Telemetry

log = logging.getLogger("quartet.rpc")

AT_ONCE = 256
"""Requests of one stream that are answered at a time; the others stay with the client, which gRPC tells to wait."""
STRICT = "triton_grpc_error"
"""Metadata by which Triton's clients ask that an error end their stream with its code, instead of being one answer among others."""
FINAL = "triton_final_response"
"""Parameter by which a stream says that a request has all its answers: here each one has."""

P = ParamSpec("P")
T = TypeVar("T")


class Inference:
    """The two methods that infer. All of this belongs to the event loop."""

    def __init__(self, registry: Registry, telemetry: Telemetry, guard: Guard | None) -> None:
        self._registry = registry
        self._telemetry = telemetry
        self._metrics = telemetry.metrics
        self._guard = guard
        self._answering: set[asyncio.Task[object]] = set()
        self._reading: set[asyncio.Task[None]] = set()
        self._given_up = False

    async def infer(self, message: bytes, context: Context) -> bytes:
        """ModelInfer."""
        _, outcome = await self._outcome("ModelInfer", message, context)
        told = _told()
        if isinstance(outcome, ServiceError):
            await refuse(context, outcome, told)
        if told:
            context.set_trailing_metadata(told)
        return outcome.SerializeToString()

    async def stream(self, messages: AsyncIterable[bytes], context: Context) -> AsyncIterator[bytes]:
        """ModelStreamInfer. Ends after the answers to what has been read when the client ends it, or the server has to."""
        strict = (STRICT, "true") in (context.invocation_metadata() or ())
        slots = asyncio.Semaphore(AT_ONCE)
        outcomes: asyncio.Queue[asyncio.Task[tuple[str, ModelInferResponse | ServiceError]] | None] = asyncio.Queue()

        async def read() -> None:
            try:
                async for message in messages:
                    await slots.acquire()
                    outcomes.put_nowait(asyncio.create_task(self._outcome("ModelStreamInfer", message, context)))
            finally:
                outcomes.put_nowait(None)

        reading = asyncio.create_task(read())
        self._reading.add(reading)
        reading.add_done_callback(self._reading.discard)
        try:
            while (task := await outcomes.get()) is not None:
                id_, outcome = await task
                slots.release()
                if isinstance(outcome, ModelInferResponse):
                    codec.add_parameter(outcome, FINAL, True)
                    yield ModelStreamInferResponse(infer_response=outcome).SerializeToString()
                elif strict:
                    await refuse(context, outcome)
                else:
                    yield ModelStreamInferResponse(
                        error_message=str(outcome), infer_response=ModelInferResponse(id=id_)
                    ).SerializeToString()
            if reading.cancelled():
                await refuse(context, shut_down())
            reading.result()
        finally:
            reading.cancel()
            while not outcomes.empty():
                if (task := outcomes.get_nowait()) is not None:
                    task.cancel()

    def leave(self) -> None:
        """The server is about to end: streams take no more requests."""
        for reading in list(self._reading):
            reading.cancel()

    def give_up(self) -> None:
        """The time for draining is over: what is still under way is told so."""
        self._given_up = True
        for task in list(self._answering):
            task.cancel()

    async def _outcome(self, method: str, message: bytes, context: Context) -> tuple[str, ModelInferResponse | ServiceError]:
        """A request's id, and its answer or what was wrong. Raises CancelledError where nobody waits for it any more."""
        started = time.perf_counter()
        given = metadata(context)
        request, traced = identity.of(given), None
        identity.current.set(request)
        if self._telemetry.tracing is not None:
            traced = self._telemetry.tracing.begin_call(PATH[1:] + method, propagated(given), time.monotonic())
            tracing.current.set(traced)
        if traced is not None:
            request.trace_id = traced.trace_id
        status, size = GONE, 0
        try:
            id_, outcome = await self._answered(message, context, given, request)
            if isinstance(outcome, ServiceError):
                status = outcome.status
            else:
                status, size = 200, outcome.ByteSize() if self._telemetry.access is not None else 0
        finally:
            if traced is not None:
                if request.model is not None and request.version is not None:
                    traced.note(model=request.model, version=request.version)
                traced.end_call(CODES[status].name, failed=status >= 500)
            if self._telemetry.access is not None:
                self._telemetry.access.line("POST", PATH + method, status, time.perf_counter() - started, size, request)
        return id_, outcome

    async def _answered(
        self, message: bytes, context: Context, given: Headers, request: Identity
    ) -> tuple[str, ModelInferResponse | ServiceError]:
        started = time.perf_counter()
        id_ = name = ""
        model: ServedModel | None = None
        outcome: ModelInferResponse | ServiceError
        principal: Principal | None = None
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        try:
            parsed = await _off(len(message) > LONG_BINARY, codec.parse, ModelInferRequest, message)
            id_, name, version = parsed.id, parsed.model_name, parsed.model_version or None
            request.found(id_ or None)
            if self._guard is not None:
                principal = self._guard.admit(presented(given), "infer", name)
            model = self._registry.route(name, version, given.get(STICKY)) or self._registry.get(name, version)
            request.model, request.version = model.name, model.version
            if model.cache is None:  # a kept answer needs no room
                model.batcher.refuse_where_full()  # before the work of decoding: refusing must cost less than answering
            with model.called():
                outcome = await self._answer(model, parsed, len(message), context.time_remaining())
        except asyncio.CancelledError:
            if not self._given_up:
                self._metrics.cancelled.labels(*(("", "") if model is None else (model.name, model.version))).inc()
                raise
            task.uncancel()
            request.needed()
            log.warning("infer %s was given up while shutting down", name)
            outcome = shut_down()
        except Exception as error:  # the last line of defence: a caller gets an answer, never a stack trace
            outcome = errors.translate(error)
            if outcome is not error and type(outcome) is ServiceError:
                request.needed()
                log.exception("infer %s failed", name)
        finally:
            self._answering.discard(task)
            if principal is not None:
                principal.end()
        status = outcome.status if isinstance(outcome, ServiceError) else 200
        answers = self._metrics.answers("grpc") if model is None else model.answers("grpc")
        answers.add(status, time.perf_counter() - started)
        return id_, outcome

    async def _answer(
        self, model: ServedModel, parsed: ModelInferRequest, size: int, remaining: float | None
    ) -> ModelInferResponse:
        """`size` is that of the message in bytes, `remaining` the seconds until the call's deadline."""
        long = size > (LONG_BINARY if parsed.raw_input_contents else LONG_BODY)
        with tracing.stage("decode"):
            request = await _off(long, codec.decode, parsed, model.manifest.signature, model.max_rows, model.reader.texts)
        timeout = request.timeout
        if remaining is not None:
            timeout = min(timeout or remaining, max(remaining, 1e-6))
        answer = await model.infer(request.inputs, timeout, request.priority, request.id)
        explanation = explain(model, answer) if request.explain else None
        with tracing.stage("encode"):
            return codec.encode(request, model.name, model.version, answer.outputs, explanation)


def _told() -> Told:
    """What an answer says of its request: its id, and the span that it belongs to."""
    request, traced = identity.current.get(), tracing.current.get()
    told = []
    if request is not None and request.answered is not None:
        told.append((identity.HEADER, request.answered))
    if traced is not None:
        told.append(("traceresponse", traced.response))
    return tuple(told)


async def _off(long: bool, function: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """Call a function; one that takes `long` in a thread, so that the event loop answers others meanwhile."""
    if long:
        return await asyncio.to_thread(function, *arguments, **options)
    return function(*arguments, **options)
