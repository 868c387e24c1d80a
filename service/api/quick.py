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
from service import errors
from service.api.explanation import explain, server_timing
from service.api.head import Head
from service.batch import Answer, Work
from service.codec import encoding, v2
from service.codec.instances import Instances
from service.errors import Refused, ServiceError, shut_down
from service.keys.guard import Guard, Principal
from service.metrics import Metrics
from service.model import ServedModel
from service.registry import Registry

log = logging.getLogger("quartet.api")

LONG_BODY = 64 * 1024  # bytes; decoding as much JSON takes a millisecond or so, a thread hop a tenth of one
LONG_BINARY = 1024 * 1024  # bytes of a body that is mostly raw numbers, which are not even copied
WORTH_ENCODING = 1024  # bytes of an answer; what is shorter fits a packet as it is
JSON = "application/json"
BINARY = "application/octet-stream"


class Connection(Protocol):
    """Where an answer goes."""

    @property
    def alone(self) -> bool:
        """Whether there is no other."""

    def reply(self, call: Call | Denied, status: int, content: bytes, headers: dict[str, str]) -> None:
        """Write the answer to a call, and go on with the next request."""


class Quick:
    """The quick way into the registry's models."""

    def __init__(
        self, registry: Registry, metrics: Metrics, max_body_bytes: int, guard: Guard | None = None, shares: bool = False
    ) -> None:
        """`shares`: what a page of another site asks needs headers in its answer, which the long way adds."""
        self._registry = registry
        self._metrics = metrics
        self._max_body_bytes = max_body_bytes
        self._guard = guard
        self._shares = shares

    def fits(self, head: Head) -> bool:
        """Whether a body is short enough to be decoded in the event loop."""
        if self._shares and head.foreign:
            return False
        return head.length <= min(self._max_body_bytes, LONG_BODY if head.json_length is None else LONG_BINARY)

    def take(self, connection: Connection, head: Head, body: bytes, arrived: float) -> Call | Denied | None:
        """Queue a whole request, which arrived at that time of `time.monotonic`; None where it has to go the long way.

        A refusal is answered at once: it must cost less than an answer.
        """
        model = self._registry.find(head.name, head.version)
        if model is None:
            return None
        principal = None
        if self._guard is not None:
            try:
                principal = self._guard.admit(head.digest, "infer", head.name)
            except ServiceError as refusal:
                self._metrics.answers(head.interface).add(refusal.status, time.monotonic() - arrived)
                return Denied(connection, refusal, not self.stopping)
        call = Call(connection, self, model, head, arrived, principal)
        try:
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
            return None
        return call

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

    response_started = response_complete = True
    disconnected = False

    def __init__(self, connection: Connection, refusal: ServiceError, keep_alive: bool) -> None:
        """Answers it."""
        self.keep_alive = keep_alive
        connection.reply(self, refusal.status, errors.body(refusal), {"content-type": JSON, **refusal.headers})

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
        "_model",
        "_plain",
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
        self._read: v2.Request | Instances
        self._plain = False
        self.keep_alive = True
        self.response_complete = False
        self.disconnected = False

    def start(self, body: bytes) -> None:
        """Decode and queue. Raises what is wrong with it, with nothing done yet."""
        head, model = self._head, self._model
        inputs: Mapping[str, Array]
        timeout, priority = head.timeout, head.priority
        if head.interface == "infer":
            plain = model.plain.decode(body, model.max_rows) if head.json_length is None else None
            if plain is not None:
                self._plain = True
                self._read, rows, length = plain
                inputs, timeout, priority = plain.request.inputs, None, 0
            else:
                signature = model.manifest.signature
                self._read = request = v2.decode(body, head.json_length, signature, model.max_rows, model.reader.texts)
                inputs, rows, length = request.inputs, 0, None
                timeout, priority = request.timeout, request.priority
        else:
            read = model.reader.quick(body, head.content_type, head.query, model.max_rows)
            if read is None:
                raise Declined("it takes long to decode")
            self._read, inputs, rows, length = read, read.inputs, read.rows, read.length
        if not rows:
            inputs, rows, length = model.checked(inputs)
        if rows > model.manifest.signature.batch.max:
            raise Declined("it takes several batches")
        model.enter()
        try:
            self._work = model.batcher.offer(self, inputs, rows, length, timeout or model.timeout, priority, self._connection.alone)
        except BaseException:
            model.leave()
            raise

    def answered(self, work: Work, answer: Answer) -> None:
        """Write the answer."""
        headers = {"content-type": JSON}
        read, model = self._read, self._model
        try:
            explanation = explain(model, answer) if read.explain else None
            if explanation is not None:
                headers["server-timing"] = server_timing(explanation)
            if isinstance(read, Instances):
                content = model.predictions.encode(answer.ran, answer.start, answer.stop, read.top_k, explanation)
            elif self._plain and (plain := model.plain_answers.encode(answer.ran, answer.start, answer.stop, read.id)):
                content = plain
            else:
                content, length = v2.encode(read, model.name, model.version, answer.outputs, explanation, answer.ran.finite)
                if length is not None:
                    headers["content-type"], headers[v2.HEADER_LENGTH] = BINARY, str(length)
        except Exception as error:  # noqa: BLE001 - the last line of defence, as in `inference.py`
            self.failed(None, error)
            return
        if model.taps:
            model.show(work.inputs, answer)
        if len(content) < WORTH_ENCODING:
            self._end(200, content, headers)
            return
        headers["vary"] = "accept-encoding"
        coding = self._head.coding
        if coding is None:
            self._end(200, content, headers)
        elif len(content) <= LONG_BODY:
            self._encoded(content, headers, coding, encoding.shorter(content, coding))
        else:
            future = asyncio.get_running_loop().run_in_executor(None, encoding.shorter, content, coding)
            future.add_done_callback(lambda done: self._encoded(content, headers, coding, done.result()))

    def failed(self, _work: Work | None, error: Exception) -> None:
        """Write the error."""
        failure = errors.translate(error)
        if failure is not error and type(failure) is ServiceError:
            log.error("%s %s failed", self._head.interface, self._head.name, exc_info=error)
        self._end(failure.status, errors.body(failure), {"content-type": JSON, **failure.headers})

    def left(self) -> None:
        """The connection broke: the rows are taken back, if they still wait."""
        self.disconnected = self.response_complete = True
        if self._work is not None:
            self._model.batcher.withdraw(self._work)
        self._quick.cancelled(self._model)
        self._model.leave()
        if self._principal is not None:
            self._principal.end()

    def give_up(self) -> None:
        """The time for draining is over."""
        if self._work is not None:
            self._model.batcher.withdraw(self._work)
        log.warning("%s %s was given up while shutting down", self._head.interface, self._head.name)
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

    def _end(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.response_complete = True
        self._model.answers(self._head.interface).add(status, time.monotonic() - self._arrived)
        self._model.leave()
        if self._principal is not None:
            self._principal.end()
        if self._quick.stopping:
            self.keep_alive = False
        self._connection.reply(self, status, content, headers)
