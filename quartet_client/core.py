"""What a call does, without doing it: conversations, which say what to send and how long to pause, and are told what came back.

Whoever drives one, blocking or not, sends and sleeps. Each call has one deadline over all its attempts, which the server is told.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from quartet_client.errors import KINDS, ClientError, DeadlineExceeded, Overloaded, Refusal, ServerError, Unavailable, Unreachable

T = TypeVar("T")

BACKOFF = (0.05, 2.0)  # seconds before trying again where the server does not say: at first, and the most, doubling in between
GATEWAY_TIMEOUT = 504


@dataclass(frozen=True)
class Send:
    """Send a request and wait for its answer, at most so many seconds."""

    method: str
    path: str
    headers: Mapping[str, str]
    content: bytes
    seconds: float


@dataclass(frozen=True)
class Pause:
    """Do nothing for a while."""

    seconds: float


@dataclass(frozen=True)
class Reply:
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    content: bytes


class Lost(Exception):
    """The connection could not be made, or broke before the whole answer was here."""


class TimedOut(Exception):
    """The seconds of a `Send` were over."""


Conversation = Generator[Send | Pause, Reply | None, T]


@dataclass(frozen=True)
class Settings:
    """Of a client: headers of every request, seconds for a call, and how often one is tried again."""

    headers: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 30.0
    retries: int = 3


class Deadline:
    """When a call's time is over. Infinite seconds are never."""

    def __init__(self, seconds: float) -> None:
        if not seconds > 0:
            raise ValueError(f"timeout is {seconds}; it takes seconds, more than 0, or math.inf")
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds from now. Raises DeadlineExceeded where there are none."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise self.exceeded()
        return left

    def allows(self, seconds: float) -> bool:
        """Whether there is more time left than that."""
        return self._end - time.monotonic() > seconds

    def exceeded(self, why: str = "") -> DeadlineExceeded:
        """The error of a call whose time is over."""
        return DeadlineExceeded(f"no answer within {self.seconds:g} s{why and f': {why}'}")


def exchange(deadline: Deadline, retries: int, send: Callable[[float], Send]) -> Conversation[Reply]:
    """An answer that is no error, after `retries` more attempts at most. `send` makes a request for the seconds that are left.

    Only what changes nothing on the server may be sent so. It is tried again where no answer came, and after 429, 502 and 503 when
    `Retry-After` says; not where that would be beyond the deadline. Raises ClientError.
    """
    backoff, longest = BACKOFF
    failure: ClientError
    for attempt in range(retries + 1):
        try:
            reply = yield send(deadline.left())
        except TimedOut:
            raise deadline.exceeded() from None
        except Lost as lost:
            failure = Unreachable(str(lost))
        else:
            assert reply is not None  # whoever drives answers a `Send` with a reply
            if reply.status < 400:
                return reply
            failure = error(reply, deadline)
        if attempt == retries or not isinstance(failure, Unreachable | Overloaded | Unavailable):
            raise failure
        asked = failure.retry_after if isinstance(failure, Refusal) else None
        # Not all those who were turned away together shall come back together.
        pause = backoff * random.uniform(0.5, 1) if asked is None else asked * random.uniform(1, 1.1)
        if not deadline.allows(pause):
            raise failure
        yield Pause(pause)
        backoff = min(2 * backoff, longest)
    raise AssertionError("the last attempt has returned or raised")


def error(reply: Reply, deadline: Deadline) -> ClientError:
    """An answer with an error as what it is raised as."""
    try:
        message = json.loads(reply.content)["error"]
    except (ValueError, KeyError, TypeError):
        message = reply.content[:200].decode(errors="replace") or f"status {reply.status} without a word"
    if reply.status == GATEWAY_TIMEOUT:
        return deadline.exceeded(message)
    return KINDS.get(reply.status, ServerError)(message, reply.status, _seconds(reply.headers.get("retry-after")))


def _seconds(retry_after: str | None) -> float | None:
    """The header's seconds, or those until its date (RFC 9110, section 10.2.3); None for anything else."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError):  # TypeError: a date without a zone
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
