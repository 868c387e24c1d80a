"""The two inference interfaces, as plain ASGI endpoints ahead of FastAPI's routing, dependencies and middleware.

`POST /v2/models/{model}[/versions/{version}]/infer`      Open Inference Protocol
`POST /models/{model}[/versions/{version}]/predict`       instances in, labels and probabilities or values out

They stand in the OpenAPI document all the same (`openapi.py`).
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Concatenate, ParamSpec, TypeVar

from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from service import errors
from service.codec import predictions, tensor, v2
from service.errors import InvalidRequest, MethodNotAllowed, PayloadTooLarge, ServiceError, Unavailable, UnsupportedMediaType
from service.metrics import Metrics
from service.registry import Registry, ServedModel

log = logging.getLogger("quartet.api")

PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/(infer)|/models/([^/]+)(?:/versions/([^/]+))?/(predict)")
JSON = "application/json"
BINARY = "application/octet-stream"
LONG_BODY = 64 * 1024  # bytes; decoding as many takes some milliseconds, a thread hop a tenth of one

P = ParamSpec("P")
T = TypeVar("T")

Headers = dict[str, str]
Answer = tuple[bytes, Headers]
Interface = Callable[[ServedModel, bytes, Headers, str], Awaitable[Answer]]  # the last is the query string


class ClientGone(Exception):
    """The connection broke before the body had arrived; there is nobody to answer."""


class InferenceFirst:
    """The application: inference paths are answered here, all others by `rest`."""

    def __init__(self, registry: Registry, metrics: Metrics, max_body_bytes: int, rest: FastAPI) -> None:
        self.registry = registry
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self.rest = rest
        self._interfaces: dict[str, Interface] = {"infer": infer, "predict": predict_instances}

    def lifespan(self) -> AbstractAsyncContextManager[object]:
        """Loaded and proven inside, drained and closed after: for a server that does not speak ASGI's lifespan protocol."""
        return self.rest.router.lifespan_context(self.rest)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        match = PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if match is None:
            if scope.get("method") == "HEAD":  # answered as a GET, whose body the server leaves out
                scope = {**scope, "method": "GET"}
            await self.rest(scope, receive, send)
            return
        started = time.perf_counter()
        name, version, interface = (match[1], match[2], match[3]) if match[3] else (match[4], match[5], match[6])
        labels = ("", "")
        failure: ServiceError | None = None
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed(scope["method"], "POST")
            headers = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
            query = scope.get("query_string", b"").decode("latin-1")
            body = await self._read(headers, receive)
            model = self.registry.get(name, version)
            labels = (model.name, model.version)
            content, answer_headers = await self._interfaces[interface](model, body, headers, query)
        except ClientGone:
            return
        except asyncio.CancelledError:  # the time for draining is over
            log.warning("%s %s was given up while shutting down", interface, name)
            failure = Unavailable("the server shut down before it could answer: send the request to another instance")
        except Exception as error:  # the last line of defence: a caller gets an answer, never a stack trace
            failure = errors.translate(error)
            if failure is not error and type(failure) is ServiceError:
                log.exception("%s %s failed", interface, name)
        status = 200
        if failure is not None:
            status, content, answer_headers = failure.status, errors.body(failure), {"content-type": JSON, **failure.headers}
        self._metrics.requests.labels(*labels, interface, status).inc()
        self._metrics.request_seconds.labels(*labels, interface).observe(time.perf_counter() - started)
        await _respond(send, status, content, answer_headers)

    async def _read(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises PayloadTooLarge as soon as it is known to be, UnsupportedMediaType for encoded bodies."""
        limit = self._max_body_bytes
        if (encoding := headers.get("content-encoding", "identity")) != "identity":
            raise UnsupportedMediaType(f"content encoding {encoding!r} is not decoded here: send the body as it is")
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
                return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def infer(model: ServedModel, body: bytes, headers: Headers, _query: str) -> Answer:
    """The Open Inference Protocol."""
    request = await _decoded(body, v2.decode, headers.get(v2.HEADER_LENGTH), model.max_rows)
    for spec in model.manifest.signature.inputs:
        given = request.inputs.get(spec.name)
        if given is not None and given.dtype != spec.numpy_dtype:
            found, expected = tensor.datatype(given.dtype), tensor.datatype(spec.dtype)
            raise InvalidRequest(f"input {spec.name!r} has datatype {found}; the model takes {expected}")
    outputs = await model.infer(request.inputs)
    content, header_length = v2.encode(request, model.name, model.version, outputs)
    if header_length is None:
        return content, {"content-type": JSON}
    return content, {"content-type": BINARY, v2.HEADER_LENGTH: str(header_length)}


async def predict_instances(model: ServedModel, body: bytes, headers: Headers, query: str) -> Answer:
    """Instances in, predictions out."""
    reader, content_type = model.reader, headers.get("content-type", "")
    read = reader.quick(body, content_type, query, model.max_rows) if len(body) <= LONG_BODY else None
    if read is None:
        read = await asyncio.to_thread(reader.decode, body, content_type, query, model.max_rows)
    outputs = await model.infer(read.inputs)
    task = model.manifest.task
    explanation = {"backend": model.provider, "artifact": model.artifact.file.path} if read.explain else None
    content = predictions.encode(model.name, model.version, task, outputs[task.output], read.top_k, explanation)
    return content, {"content-type": JSON}


async def _decoded(body: bytes, decode: Callable[Concatenate[bytes, P], T], *more: P.args, **options: P.kwargs) -> T:
    """The decoded body; a long one is decoded in a thread, so that the event loop answers others meanwhile."""
    if len(body) <= LONG_BODY:
        return decode(body, *more, **options)
    return await asyncio.to_thread(decode, body, *more, **options)


async def _respond(send: Send, status: int, content: bytes, headers: Headers) -> None:
    pairs = [(key.lower().encode(), value.encode()) for key, value in headers.items()]
    pairs.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": content})
