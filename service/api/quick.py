"""Short requests to the inference paths, answered without a task, a future or an ASGI message.

`Quick.take` decodes a request right where it arrived and queues its rows; the batcher calls the `Call` back, which writes its
answer to the connection. What that cannot do — a fault to report, more rows than one batch holds, a body worth a thread — it
declines, and the request goes the long way through `inference.py`, which answers all of them and says what is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping
from typing import Protocol

from modelrepo.tensors import Array
from service import errors, identity
from service.access import GONE
from service.api.explanation import explain, server_timing
from service.api.head import Head, route
from service.batch import Answer, Work
from service.codec import encoding, v2
from service.codec.instances import Instances
from service.codec.plain import Plain
from service.errors import Refused, ServiceError, shut_down
from service.identity import Identity
from service.keys.guard import Guard, Principal
from service.metrics import Metrics
from service.model import ServedModel
from service.registry import Registry
from service.telemetry import Telemetry
from service.tracing import TRACED

log = logging.getLogger("quartet.api")

LONG_BODY = 128 * 1024  # bytes; decoding as much JSON takes a millisecond or so, a thread hop a tenth of one
LONG_BINARY = 1024 * 1024  # bytes of a body that is mostly raw numbers, which are not even copied
WORTH_ENCODING = 1024  # bytes of an answer; what is shorter fits a packet as it is
JSON = "application/json"
BINARY = "application/octet-stream"


class Connection(Protocol):
    """Where an answer goes."""

    @property
    def alone(self) -> bool:
        """Whether there is no other."""

    def hand_on(self, key: str, value: object) -> None:
        """Put something among the extensions of the ASGI scope of the request that is declined."""

    def reply(self, call: Call | Denied, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        """Write the answer to a call, and go on with the next request; without headers it is JSON, and status 200."""


class Quick:
    """The quick way into the registry's models."""

    def __init__(
        self,
        registry: Registry,
        metrics: Metrics,
        max_body_bytes: int,
        telemetry: Telemetry,
        guard: Guard | None = None,
        shares: bool = False,
    ) -> None:
        """`shares`: what a page of another site asks needs headers in its answer, which the long way adds."""
        self._registry = registry
        self._tracing = telemetry.tracing
        self.access = telemetry.access
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._guard = guard
        self._shares = shares

    def longest(self, head: Head) -> int:
        """The bytes of the longest body after such a head that is decoded in the event loop; below 0 where none is."""
        if self._shares and head.foreign:
            return -1
        return min(self._max_body_bytes, LONG_BODY if head.json_length is None else LONG_BINARY)

    def take(self, connection: Connection, head: Head, body: bytes, arrived: float) -> Call | Denied | None:
        """Queue a whole request, which arrived at that time of `time.monotonic`; None where it has to go the long way.

        A refusal is answered at once: it must cost less than an answer.
        """
        model = self._registry.route(head.name, head.version, head.sticky)
        if model is None or (model.cache is not None and len(body) > LONG_BODY):  # whose key is made in a thread
            return None
        if self._tracing is not None:
            traced = self._tracing.begin(head.path, route(head.version, head.interface), head.trace, arrived)
            if traced is not None:  # the long way says what happens in between
                connection.hand_on(TRACED, traced)
                return None
        principal = None
        if self._guard is not None:
            try:
                principal = self._guard.admit(head.digest, "infer", head.name)
            except ServiceError as refusal:
                return self._denied(connection, head, refusal, arrived)
        call = Call(connection, self, model, head, arrived, principal)
        try:
            if model.cache is None:
                model.batcher.refuse_where_full()
            call.start(body)
        except Refused as refusal:
            model.enter()
            call.failed(None, refusal)
        except Exception:  # whatever it is, the long way meets it again and says it
            if call.response_complete:
                raise
            if principal is not None:
                principal.undo()
            if self._tracing is not None:
                connection.hand_on(TRACED, None)
            return None
        return call

    def _denied(self, connection: Connection, head: Head, refusal: ServiceError, arrived: float) -> Denied:
        seconds = time.monotonic() - arrived
        self._metrics.answers(head.interface).add(refusal.status, seconds)
        content, headers = errors.body(refusal), {"content-type": JSON, **refusal.headers}
        if head.request_id is not None:
            headers[identity.HEADER] = head.request_id
        if self.access is not None:
            asked = Identity(head.request_id, head.trace and head.trace[0])
            self.access.line("POST", head.path, refusal.status, seconds, len(content), asked)
        return Denied(connection, refusal.status, content, headers, not self.stopping)

    @property
    def stopping(self) -> bool:
        """Whether connections are to be closed after their answer, so that callers turn to another instance."""
        return self._registry.stopping

    def cancelled(self, model: ServedModel | None = None) -> None:
        """A caller left before its answer, or, without a model, in the middle of its request."""
        self._metrics.cancelled.labels(*(("", "") if model is None else (model.name, model.version))).inc()


class Declined(ServiceError):
    """The long way is the right one."""


class Denied:
    """A request that the guard turned away. To uvicorn's protocol it is a cycle that has ended."""

    response_started = True
    response_complete = True
    disconnected = False

    def __init__(self, connection: Connection, status: int, content: bytes, headers: dict[str, str], keep_alive: bool) -> None:
        """Answers it."""
        self.keep_alive = keep_alive
        connection.reply(self, status, content, headers)

    @property
    def message_event(self) -> Denied:
        """uvicorn sets it when the connection is lost."""
        return self

    def set(self) -> None:
        """Nobody waits."""


class Call:
    """One request under way. To uvicorn's protocol it is what its own request-response cycle is."""

    __slots__ = (
        "_arrived",
        "_connection",
        "_head",
        "_key",
        "_model",
        "_principal",
        "_quick",
        "_read",
        "_work",
        "disconnected",
        "keep_alive",
        "response_complete",
    )
    response_started = False

    def __init__(
        self,
        connection: Connection,
        quick: Quick,
        model: ServedModel,
        head: Head,
        arrived: float,
        principal: Principal | None = None,
    ) -> None:
        self._connection = connection
        self._quick = quick
        self._model = model
        self._head = head
        self._arrived = arrived
        self._principal = principal
        self._work: Work | None = None
        self._read: v2.Request | Instances | Plain
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False

    def start(self, body: bytes) -> None:
        """Decode and queue. Raises what is wrong with it, with nothing done yet."""
        head, model = self._head, self._model
        inputs: Mapping[str, Array]
        timeout, priority = head.timeout, head.priority
        read: Instances | Plain | None
        if head.interface == "infer":
            timeout, priority = None, 0
            read = model.plain.decode(body, model.max_rows) if head.json_length is None else None
            if read is None:
                signature = model.manifest.signature
                request = v2.decode(body, head.json_length, signature, model.max_rows, model.reader.texts)
                timeout, priority = request.timeout, request.priority
        else:
            read = model.reader.quick(body, head.content_type, head.query, model.max_rows)
            if read is None:
                raise Declined("it takes long to decode")
        if read is None:
            self._read = request
            inputs, rows, length = model.checked(request.inputs)
        else:
            self._read = read
            inputs, rows, length = read.inputs, read.rows, read.length
            if not rows:
                inputs, rows, length = model.checked(inputs)
        if rows > 1 and model.batcher.apart(inputs, rows, length):
            raise Declined("it takes several batches")
        if model.cache is not None:
            self._key = model.cache.key(inputs)
            if (kept := model.cache.get(self._key)) is not None:
                model.enter()
                self.answered(Work(inputs, rows, None, None), kept)
                return
        model.enter()
        try:
            self._work = model.batcher.offer(self, inputs, rows, length, timeout or model.timeout, priority, self._connection.alone)
        except BaseException:
            model.leave()
            raise

    def answered(self, work: Work, answer: Answer) -> None:
        """Write the answer."""
        headers: dict[str, str] | None = None
        read, model = self._read, self._model
        try:
            content = None
            if type(read) is Plain:
                content = model.plain_answers.encode(answer.ran, answer.start, answer.stop, read.id)
            if content is None:
                content, headers = self._encode(read.request() if isinstance(read, Plain) else read, answer)
        except Exception as error:  # noqa: BLE001 - the last line of defence, as in `inference.py`
            self.failed(None, error)
            return
        if model.cache is not None and not answer.cached:
            model.cache.put(self._key, answer)
        if model.taps:
            model.show(work.inputs, answer, None if isinstance(read, Instances) else read.id)
        if len(content) < WORTH_ENCODING:
            self._end(200, content, headers)
            return
        headers = headers or {"content-type": JSON}
        headers["vary"] = "accept-encoding"
        coding = self._head.coding
        if coding is None:
            self._end(200, content, headers)
        elif len(content) <= LONG_BODY:
            self._encoded(content, headers, coding, encoding.shorter(content, coding))
        else:
            future = asyncio.get_running_loop().run_in_executor(None, encoding.shorter, content, coding)
            future.add_done_callback(lambda done: self._encoded(content, headers, coding, done.result()))

    def _encode(self, read: v2.Request | Instances, answer: Answer) -> tuple[bytes, dict[str, str] | None]:
        """The body of the response; and its headers, where Content-Type is not all there is to say, or not JSON."""
        model, headers = self._model, None
        explanation = explain(model, answer) if read.explain else None
        if explanation is not None:
            headers = {"content-type": JSON, "server-timing": server_timing(explanation)}
        if isinstance(read, Instances):
            return model.predictions.encode(answer.ran, answer.start, answer.stop, read.top_k, explanation), headers
        content, length = v2.encode(read, model.name, model.version, answer.outputs, explanation, answer.ran.finite)
        if length is not None:
            headers = {**(headers or {}), "content-type": BINARY, v2.HEADER_LENGTH: str(length)}
        return content, headers

    def failed(self, _work: Work | None, error: Exception) -> None:
        """Write the error."""
        failure = errors.translate(error)
        headers = {"content-type": JSON, **failure.headers}
        if failure is not error and type(failure) is ServiceError:
            request = self._identity()
            request.needed()
            log.error("%s %s failed", self._head.interface, self._head.name, exc_info=error, extra={"about": request.about()})
            headers[identity.HEADER] = str(request.answered)
        self._end(failure.status, errors.body(failure), headers)

    def left(self) -> None:
        """The connection broke: the rows are taken back, if they still wait."""
        self.disconnected = self.response_complete = True
        if self._work is not None:
            self._model.batcher.withdraw(self._work)
        self._quick.cancelled(self._model)
        self._model.leave()
        if self._quick.access is not None:
            self._quick.access.line("POST", self._head.path, GONE, time.monotonic() - self._arrived, 0, self._identity())
        if self._principal is not None:
            self._principal.end()

    def give_up(self) -> None:
        """The time for draining is over."""
        if self._work is not None:
            self._model.batcher.withdraw(self._work)
        about = self._identity().about()
        log.warning("%s %s was given up while shutting down", self._head.interface, self._head.name, extra={"about": about})
        self.failed(None, shut_down())

    @property
    def message_event(self) -> Call:
        """uvicorn sets it when the connection is lost."""
        return self

    def set(self) -> None:
        """Nobody waits."""

    def _encoded(self, content: bytes, headers: dict[str, str], coding: str, encoded: bytes | None) -> None:
        if encoded is not None:
            headers["content-encoding"] = coding
        if not self.disconnected:
            self._end(200, content if encoded is None else encoded, headers)

    def _identity(self) -> Identity:
        head, read = self._head, getattr(self, "_read", None)
        request = Identity(head.request_id, head.trace and head.trace[0])
        request.found(None if isinstance(read, Instances) or read is None else read.id)
        request.model, request.version = self._model.name, self._model.version
        return request

    def _end(self, status: int, content: bytes, headers: dict[str, str] | None) -> None:
        """Write the answer, and count it while it is on its way; without headers it is JSON."""
        self.response_complete = True
        head, model, quick = self._head, self._model, self._quick
        seconds = time.monotonic() - self._arrived
        if head.request_id is not None:
            headers = {**(headers or {"content-type": JSON}), identity.HEADER: head.request_id}
        if self._principal is not None:
            self._principal.end()
        if quick.stopping:
            self.keep_alive = False
        self._connection.reply(self, status, content, headers)
        model.answers(head.interface).add(status, seconds)
        model.leave()
        if quick.access is not None:
            quick.access.line("POST", head.path, status, seconds, len(content), self._identity())
