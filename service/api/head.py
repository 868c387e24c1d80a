"""What the request line and headers of a request to the inference paths say."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from service.codec import encoding, v2
from service.errors import InvalidRequest
from service.identity import HEADER, usable
from service.keys.credentials import SECRET, presented
from service.rollout.split import STICKY

PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/(infer)|/models/([^/]+)(?:/versions/([^/]+))?/(predict)")

Headers = dict[str, str]


@dataclass(frozen=True, slots=True)
class Head:
    """A request whose body may be taken as it is. `coding` is what its answer may be compressed with.

    `timeout` is in seconds, None for the server's own; `priority` is 1 for the highest, 0 for the default. Requests with the same
    `sticky` key go to the same of two versions. `digest` is the hash of the API key that was shown; `secret`: the head holds
    something that nobody else is to have; `foreign`: a page in a browser sent it.
    """

    name: str
    version: str | None
    interface: str
    query: str
    content_type: str
    json_length: str | None
    coding: str | None
    timeout: float | None
    priority: int
    request_id: str | None
    trace: tuple[str, str] | None  # traceparent and tracestate
    sticky: str | None
    digest: bytes | None
    secret: bool
    foreign: bool

    @property
    def path(self) -> str:
        """Where it was sent to, without a query."""
        version = "" if self.version is None else f"/versions/{self.version}"
        return f"{'/v2' if self.interface == 'infer' else ''}/models/{self.name}{version}/{self.interface}"


def target(path: str) -> tuple[str, str | None, str] | None:
    """Model, version and interface that a path names; None for any other path."""
    match = PATH.fullmatch(path)
    if match is None:
        return None
    return (match[1], match[2], match[3]) if match[3] else (match[4], match[5], match[6])


def read(method: bytes, url: bytes, headers: Iterable[tuple[bytes, bytes]]) -> tuple[Head, int] | None:
    """A POST without a content coding, and the bytes of its body; None for any other request, and for one at fault.

    The names of the headers are in lower case.
    """
    if method != b"POST" or b"%" in url or b"#" in url or not url.startswith(b"/"):
        return None
    path, _, query = url.decode("latin-1").partition("?")
    found = target(path)
    if found is None:
        return None
    given: Headers = {}
    for name, value in headers:
        key = name.decode("latin-1")
        if key in given and key == "accept-encoding":
            value = given[key].encode("latin-1") + b"," + value
        given[key] = value.decode("latin-1")
    length = given.get("content-length", "")
    if (
        not length.isdecimal()
        or len(length) > 9
        or not given.keys().isdisjoint(("transfer-encoding", "content-encoding", "expect", "upgrade"))
    ):
        return None
    try:
        timeout, priority = urgency(given)
    except InvalidRequest:
        return None
    coding = encoding.of_answer(given["accept-encoding"]) if "accept-encoding" in given else None
    json_length = given.get(v2.HEADER_LENGTH)
    content_type, request_id, trace = given.get("content-type", ""), usable(given.get(HEADER)), propagated(given)
    secret = not SECRET.isdisjoint(given)
    head = Head(
        *(*found, query, content_type, json_length, coding, timeout, priority),
        request_id=request_id,
        trace=trace,
        sticky=given.get(STICKY),
        digest=presented(given) if secret else None,
        secret=secret,
        foreign="origin" in given,
    )
    return head, int(length)


def route(version: str | None, interface: str) -> str:
    """The path of an interface with the names of its parts, as the OpenAPI document has it."""
    return f"{'/v2' if interface == 'infer' else ''}/models/{{model}}{'' if version is None else '/versions/{version}'}/{interface}"


def propagated(headers: Headers) -> tuple[str, str] | None:
    """The headers traceparent and tracestate; None without the first."""
    parent = headers.get("traceparent")
    return None if parent is None else (parent, headers.get("tracestate", ""))


def urgency(headers: Headers) -> tuple[float | None, int]:
    """From the headers Quartet-Timeout-Ms (here seconds, None for the server's own) and Quartet-Priority (1 first, 4 last).

    Raises InvalidRequest.
    """
    timeout, priority = headers.get("quartet-timeout-ms"), headers.get("quartet-priority", "0")
    if timeout is not None and not re.fullmatch(r"\d{1,12}(\.\d{1,6})?", timeout, re.ASCII):
        raise InvalidRequest(f"the header Quartet-Timeout-Ms is {timeout!r}; it takes a number of milliseconds")
    if not re.fullmatch(r"[0-9]", priority, re.ASCII):
        raise InvalidRequest(f"the header Quartet-Priority is {priority!r}; it takes 1 (first) to 4")
    return None if timeout is None else float(timeout) / 1e3, int(priority)
