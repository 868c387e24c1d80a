"""The two inference interfaces, as plain ASGI endpoints ahead of FastAPI's routing, dependencies and middleware.

`POST /v2/models/{model}[/versions/{version}]/infer`      Open Inference Protocol
`POST /models/{model}[/versions/{version}]/predict`       instances in, labels and probabilities or values out

They stand in the OpenAPI document all the same (`openapi.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from service import errors, identity, tracing
from service.access import GONE, path_of
from service.api.explanation import Explanation, explain, server_timing
from service.api.head import Headers, propagated, route, target, urgency
from service.api.quick import BINARY, JSON, LONG_BODY, WORTH_ENCODING, Quick
from service.api.sharing import sharing
from service.codec import encoding, v2
from service.errors import Forbidden, MethodNotAllowed, PayloadTooLarge, ServiceError, Unauthorized, shut_down
from service.health import TRUSTED
from service.keys.credentials import presented
from service.keys.demand import demand
from service.keys.guard import Guard, Principal
from service.metrics import Metrics
from service.model import ServedModel
from service.origins import may_order
from service.protocol import GONE as LEFT
from service.registry import Registry
from service.rollout.split import STICKY
from service.telemetry import Telemetry
from service.tracing import TRACED

if TYPE_CHECKING:
    from service.otel import Traced, Tracing

if TYPE_CHECKING:
    from service.rpc.server import RpcServer

log = logging.getLogger("quartet.api")

ASKS_A_PERSON = {"WWW-Authenticate": 'Basic realm="quartet", Bearer realm="quartet"'}  # a browser shows a form for the first
SHORT_ENCODED = 1024  # bytes, of which deflate makes a thousand times as many at most

P = ParamSpec("P")
T = TypeVar("T")

Answer = tuple[bytes, Headers]
Interface = Callable[[ServedModel, bytes, Headers, str], Awaitable[Answer]]  # the last is the query string


class ClientGone(Exception):
    """The connection broke before the body had arrived; there is nobody to answer."""


class InferenceFirst:
    """The application: inference paths are answered here, all others by `rest`."""

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        max_body_bytes: int,
        rest: FastAPI,
        telemetry: Telemetry,
        guard: Guard | None = None,
        origins: tuple[str, ...] = (),
    ) -> None:
        """Pages of `origins`, sites other than this one, may ask too."""
        self.registry = registry
        self.telemetry = telemetry
        self.quick = Quick(registry, metrics, max_body_bytes, telemetry, guard, shares=bool(origins))
        self.metrics = metrics
        self.guard = guard
        self.rpc: RpcServer | None = None
        """Answers beside it over gRPC, if that is wanted; whoever runs the application opens and closes it."""
        self._origins = origins
        self._dispatch = sharing(self._watched, origins) if origins else self._watched
        self._max_body_bytes = max_body_bytes
        self.rest = rest
        self._interfaces: dict[str, Interface] = {"infer": infer, "predict": predict_instances}

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        """Loaded and proven inside, drained and closed after: for a server that does not speak ASGI's lifespan protocol."""
        return self.rest.router.lifespan_context(self.rest)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        await self._dispatch(scope, receive, send)

    async def _watched(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on, and let those know who watch."""
        if scope["type"] != "http":
            await self._hand_on(scope, receive, send)
            return
        headers = _headers(scope)
        request, traced = identity.of(headers), None
        identity.current.set(request)
        if self.telemetry.access is not None:
            send = self.telemetry.access.noting(scope, send)
        found = target(scope["path"])
        if found is None:
            await self._let_in(scope, headers, receive, send)
            return
        if self.telemetry.tracing is not None:
            traced = _begun(scope, self.telemetry.tracing, route(*found[1:]), propagated(headers))
            tracing.current.set(traced)
        if traced is None:
            await self._answer(found, scope, headers, receive, send)
            return
        request.trace_id = traced.trace_id
        status = GONE
        try:
            status = await self._answer(found, scope, headers, receive, send)
        finally:
            traced.end(status)

    async def _answer(
        self, found: tuple[str, str | None, str], scope: Scope, headers: Headers, receive: Receive, send: Send
    ) -> int:
        """Answer a request to an inference path; the status."""
        started = time.perf_counter()
        name, version, interface = found
        request = identity.current.get()
        assert request is not None
        labels = ("", "")
        model: ServedModel | None = None
        failure: ServiceError | None = None
        principal: Principal | None = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(scope["method"], "POST")
            if self.guard is not None:
                principal = self.guard.admit(presented(headers), "infer", name)
            query = scope.get("query_string", b"").decode("latin-1")
            body = await self._read(headers, receive)
            model = self.registry.route(name, version, headers.get(STICKY)) or self.registry.get(name, version)
            labels = request.model, request.version = model.name, model.version
            if model.cache is None:  # a kept answer needs no room
                model.batcher.refuse_where_full()  # before the work of decoding: refusing must cost less than answering
            with model.called(), _unless_gone(scope, receive):
                content, answer_headers = await self._interfaces[interface](model, body, headers, query)
        except ClientGone:
            self.metrics.cancelled.labels(*labels).inc()
            if self.telemetry.access is not None:
                self.telemetry.access.left(scope, time.perf_counter() - started)
            return GONE
        except asyncio.CancelledError:  # the time for draining is over
            request.needed()
            log.warning("%s %s was given up while shutting down", interface, name)
            failure = shut_down()
        except Exception as error:  # the last line of defence: a caller gets an answer, never a stack trace
            failure = errors.translate(error)
            if failure is not error and type(failure) is ServiceError:
                request.needed()
                log.exception("%s %s failed", interface, name)
        finally:
            if principal is not None:
                principal.end()
        status = 200
        if failure is not None:
            status, content, answer_headers = failure.status, errors.body(failure), {"content-type": JSON, **failure.headers}
        answers = self.metrics.answers(interface) if model is None else model.answers(interface)
        answers.add(status, time.perf_counter() - started)
        if self.registry.stopping:
            answer_headers = {**answer_headers, "connection": "close"}  # so that the caller turns to another instance
        if request.answered is not None:
            answer_headers[identity.HEADER] = request.answered
        if (traced := tracing.current.get()) is not None:
            if model is not None:
                traced.note(model=model.name, version=model.version)
            answer_headers["traceresponse"] = traced.response
        await _respond(scope, send, status, content, answer_headers)
        return status

    async def _let_in(self, scope: Scope, headers: Headers, receive: Receive, send: Send) -> None:
        """Hand on what may come in: with a key where there are keys, and otherwise no order from another site's page."""
        if TRUSTED in scope.get("extensions", {}):
            await self._hand_on(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        reads = method in ("GET", "HEAD")
        demanded = demand(method, path)
        principal: Principal | None = None
        try:
            if self.guard is None:
                if not reads and not may_order(headers.get("origin"), headers.get("host"), self._origins):
                    raise Forbidden(f"a page of {headers['origin']} may give no orders here: see --cors-origins")
            elif demanded is not None:
                principal = self.guard.admit(presented(headers, basic=reads), *demanded)
                if (request := identity.current.get()) is not None:
                    request.key = principal.name
                if demanded[0] == "admin":
                    log.info("%s %r by key %r", method, path, principal.name)
        except ServiceError as error:
            visits = reads and "text/html" in headers.get("accept", "")  # not a page's script, whose caller no form is to surprise
            told = {"content-type": JSON, **error.headers, **(ASKS_A_PERSON if visits and isinstance(error, Unauthorized) else {})}
            await _respond(scope, send, error.status, errors.body(error), told)
            return
        try:
            await self._hand_on(scope, receive, send)
        finally:
            if principal is not None:
                principal.end()

    async def _hand_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let FastAPI answer, with a body that has arrived whole and within the limit."""
        if scope.get("method") == "HEAD":  # answered as a GET, whose body the server leaves out
            scope = {**scope, "method": "GET"}
        if scope.get("method") != "POST":
            await self.rest(scope, receive, send)
            return
        try:
            body = await self._read(_headers(scope), receive)
        except ClientGone:
            return
        except ServiceError as error:
            await _respond(scope, send, error.status, errors.body(error), {"content-type": JSON, **error.headers})
            return
        message: Message | None = {"type": "http.request", "body": body}

        async def read() -> Message:
            nonlocal message
            read, message = message, None
            return await receive() if read is None else read

        # tritonclient names no type, curl the wrong one: all bodies there are JSON.
        others = [(name, value) for name, value in scope["headers"] if name != b"content-type"]
        await self.rest({**scope, "headers": [*others, (b"content-type", JSON.encode())]}, read, send)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body, inflated where it was compressed. The limit holds before and after.

        Raises PayloadTooLarge as soon as it is known to be, UnsupportedEncoding, InvalidRequest for a damaged stream.
        """
        limit = self._max_body_bytes
        coding = encoding.of_request(headers["content-encoding"]) if "content-encoding" in headers else None
        announced = headers.get("content-length", "").lstrip("0") or "0"  # the HTTP parser lets only digits through
        if len(announced) > len(str(limit)) or int(announced) > limit:
            raise PayloadTooLarge(f"the body has {announced} bytes; at most {limit} are read: send fewer rows at a time")
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > limit:
                raise PayloadTooLarge(f"the body is longer than {limit} bytes: send fewer rows at a time")
            if not message.get("more_body", False):
                break
        body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
        if coding is None:
            return body
        if len(body) <= SHORT_ENCODED:
            return encoding.decode(body, coding, limit)
        return await asyncio.to_thread(encoding.decode, body, coding, limit)


def _begun(scope: Scope, tracing: Tracing, route: str, given: tuple[str, str] | None) -> Traced | None:
    """The trace of a request: the quick way has begun it, or it begins here."""
    extensions = scope.get("extensions") or {}
    if TRACED in extensions:
        traced: Traced | None = extensions[TRACED]
        return traced
    return tracing.begin(path_of(scope), route, given, time.monotonic())


def _headers(scope: Scope) -> Headers:
    return {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}


@contextmanager
def _unless_gone(scope: Scope, receive: Receive) -> Iterator[None]:
    """A block that ends with ClientGone where the connection breaks meanwhile: its rows are taken back out of the queue.

    Our own protocol calls back (`protocol.GONE`); under any other a task listens for ASGI's disconnect message.
    """
    answering = asyncio.current_task()
    assert answering is not None
    left = False

    def leave() -> None:
        nonlocal left
        left = True
        answering.cancel()

    async def listen() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        leave()

    callbacks: set[Callable[[], None]] | None = scope.get("extensions", {}).get(LEFT)
    listening = None
    if callbacks is None:
        listening = asyncio.ensure_future(listen())
    else:
        callbacks.add(leave)
    try:
        yield
    except asyncio.CancelledError:
        if not left:
            raise
        answering.uncancel()
        raise ClientGone from None
    finally:
        if listening is not None:
            listening.cancel()
        if callbacks is not None:
            callbacks.discard(leave)


async def infer(model: ServedModel, body: bytes, headers: Headers, _query: str) -> Answer:
    """The Open Inference Protocol."""
    with tracing.stage("decode"):
        request = await _decoded(
            body, v2.decode, headers.get(v2.HEADER_LENGTH), model.manifest.signature, model.max_rows, model.reader.texts
        )
    if (caller := identity.current.get()) is not None:
        caller.found(request.id)
    answer = await model.infer(request.inputs, request.timeout, request.priority, request.id)
    explanation = explain(model, answer) if request.explain else None
    with tracing.stage("encode"):
        content, header_length = v2.encode(request, model.name, model.version, answer.outputs, explanation, answer.ran.finite)
    if header_length is None:
        return content, {"content-type": JSON, **_timing(explanation)}
    return content, {"content-type": BINARY, v2.HEADER_LENGTH: str(header_length), **_timing(explanation)}


async def predict_instances(model: ServedModel, body: bytes, headers: Headers, query: str) -> Answer:
    """Instances in, predictions out."""
    reader, content_type = model.reader, headers.get("content-type", "")
    with tracing.stage("decode"):
        read = reader.quick(body, content_type, query, model.max_rows) if len(body) <= LONG_BODY else None
        if read is None:
            read = await asyncio.to_thread(reader.decode, body, content_type, query, model.max_rows)
    answer = await model.infer(read.inputs, *urgency(headers))
    explanation = explain(model, answer) if read.explain else None
    with tracing.stage("encode"):
        content = model.predictions.encode(answer.ran, answer.start, answer.stop, read.top_k, explanation)
    return content, {"content-type": JSON, **_timing(explanation)}


def _timing(explanation: Explanation | None) -> Headers:
    return {} if explanation is None else {"server-timing": server_timing(explanation)}


async def _decoded(body: bytes, decode: Callable[Concatenate[bytes, P], T], *more: P.args, **options: P.kwargs) -> T:
    """The decoded body; a long one is decoded in a thread, so that the event loop answers others meanwhile."""
    if len(body) <= LONG_BODY:
        return decode(body, *more, **options)
    return await asyncio.to_thread(decode, body, *more, **options)


async def _respond(scope: Scope, send: Send, status: int, content: bytes, headers: Headers) -> None:
    """Send an answer, compressed where the client likes that and it helps. Errors never are: not every client inflates them."""
    pairs = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    if status == 200 and len(content) >= WORTH_ENCODING:
        pairs.append((b"vary", b"accept-encoding"))
        accepted = b",".join(value for key, value in scope["headers"] if key == b"accept-encoding")
        if (coding := encoding.of_answer(accepted.decode("latin-1"))) is not None:
            encoded = await _decoded(content, encoding.shorter, coding)
            if encoded is not None:
                content = encoded
                pairs.append((b"content-encoding", coding.encode()))
    pairs.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
