"""Every call, as a conversation: what it sends, and what it makes of the answer."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from quartet_client import wire
from quartet_client.answers import Array, Metadata, Outputs, Predictions, Value
from quartet_client.core import Conversation, Deadline, Pause, Send, Settings, exchange
from quartet_client.errors import InvalidAnswer, NotFound, Unavailable, Unreachable

T = TypeVar("T")

POLL = (0.1, 1.0)  # seconds between looks at a server that is not ready: at first, and the most


def infer(
    settings: Settings,
    model: str,
    inputs: Mapping[str, Array],
    *,
    outputs: Sequence[str] = (),
    version: str | int | None = None,
    timeout: float | None = None,
    priority: int = 0,
    sticky_key: str | None = None,
    parameters: Mapping[str, Value] | None = None,
    headers: Mapping[str, str] | None = None,
    binary: bool = True,
) -> Conversation[Outputs]:
    """Tensors to tensors, over the Open Inference Protocol.

    `inputs` hold rows [rows, …] in the model's datatypes, arrays of str for a model of texts; the mask may be left out. `outputs`
    names those that are wanted, all if none. `timeout` is in seconds, retries included, None for the client's; `priority` is 1
    (first) to 4; requests with the same `sticky_key` go to the same of two versions. `parameters` are the protocol's, such as
    `explain`; `headers` go with this request, such as `traceparent`. Without `binary`, tensors travel as JSON.

    Raises ClientError, and ValueError for what cannot be sent.
    """
    deadline = _deadline(settings, timeout)
    more = {**(parameters or {}), **({"priority": priority} if priority else {})}

    def send(left: float) -> Send:
        said = more if left == math.inf else {**more, "timeout": max(1, round(left * 1e6))}
        described, content = wire.infer_body(inputs, outputs, said, binary)
        return _post(settings, f"/v2{_path(model, version)}/infer", described, content, left, 0, sticky_key, headers)

    reply = yield from exchange(deadline, settings.retries, send)
    return _read(lambda: wire.read_infer(reply.headers, reply.content))


def predict(
    settings: Settings,
    model: str,
    instances: Iterable[Any] | None = None,
    *,
    texts: Iterable[str] | None = None,
    images: Iterable[bytes | Path] | None = None,
    top_k: int | None = None,
    version: str | int | None = None,
    timeout: float | None = None,
    priority: int = 0,
    sticky_key: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Conversation[Predictions]:
    """Instances to labels and probabilities, or values: one of `instances`, `texts` and `images`.

    An instance is one row: numbers, an array, or an object by column name. An image is the content of a PNG or JPEG file, or its
    path. `top_k` limits how many labels are listed. The rest is as in `infer`; raises what that does.
    """
    given = [rows for rows in (instances, texts, images) if rows is not None]
    if len(given) != 1:
        raise ValueError(f"predict got {len(given)} of instances, texts and images; it takes one")
    rows = [row.read_bytes() if isinstance(row, Path) else row for row in given[0]]
    deadline = _deadline(settings, timeout)
    described, content = wire.predict_body(rows, top_k)

    def send(left: float) -> Send:
        return _post(settings, f"{_path(model, version)}/predict", described, content, left, priority, sticky_key, headers)

    reply = yield from exchange(deadline, settings.retries, send)
    return _read(lambda: wire.read_predictions(reply.content))


def models(settings: Settings, *, timeout: float | None = None) -> Conversation[list[str]]:
    """Names of the models that serve. Raises ClientError."""
    document = yield from get(settings, "/v2/models", timeout=timeout)
    return _read(lambda: [str(name) for name in document["models"]])


def metadata(
    settings: Settings, model: str, *, version: str | int | None = None, timeout: float | None = None
) -> Conversation[Metadata]:
    """A model's inputs, outputs and versions, and what answers. Raises ClientError."""
    document = yield from get(settings, f"/v2{_path(model, version)}", timeout=timeout)
    return _read(lambda: wire.read_metadata(document))


def get(settings: Settings, path: str, *, timeout: float | None = None) -> Conversation[Any]:
    """The JSON at any other path, such as /v2/models/stats. Raises ClientError."""
    deadline = _deadline(settings, timeout)
    reply = yield from exchange(deadline, settings.retries, _get(settings, path))
    return _read(lambda: json.loads(reply.content))


def ready(
    settings: Settings, model: str | None = None, *, version: str | int | None = None, timeout: float | None = None
) -> Conversation[bool]:
    """Whether all models are loaded and proven, or one is; asked once. Raises ClientError where nobody says either."""
    path = "/v2/health/ready" if model is None else f"/v2{_path(model, version)}/ready"
    try:
        yield from exchange(_deadline(settings, timeout), 0, _get(settings, path))
    except (Unavailable, NotFound):
        return False
    return True


def wait_ready(settings: Settings, timeout: float | None = None) -> Conversation[None]:
    """Return when the server is ready, which need not have been started yet. Raises DeadlineExceeded with what it waits for."""
    deadline = _deadline(settings, timeout)
    pause, longest = POLL
    while True:
        try:
            yield from exchange(deadline, 0, _get(settings, "/v2/health/ready"))
            return
        except (Unavailable, Unreachable) as error:
            if not deadline.allows(pause):
                raise deadline.exceeded(str(error)) from None
        yield Pause(pause)
        pause = min(2 * pause, longest)


def _deadline(settings: Settings, timeout: float | None) -> Deadline:
    return Deadline(settings.timeout if timeout is None else timeout)


def _get(settings: Settings, path: str) -> Callable[[float], Send]:
    return lambda left: Send("GET", path, settings.headers, b"", left)


def _path(model: str, version: str | int | None) -> str:
    found = f"/models/{quote(model, safe='')}"
    return found if version is None else f"{found}/versions/{quote(str(version), safe='')}"


def _post(
    settings: Settings,
    path: str,
    described: Mapping[str, str],
    content: bytes,
    left: float,
    priority: int,
    sticky_key: str | None,
    headers: Mapping[str, str] | None,
) -> Send:
    found = {**settings.headers, **{name.lower(): value for name, value in described.items()}}
    if left != math.inf:
        found["quartet-timeout-ms"] = f"{left * 1e3:.3f}"
    if priority:
        found["quartet-priority"] = str(priority)
    if sticky_key is not None:
        found["quartet-sticky-key"] = sticky_key
    found |= {name.lower(): value for name, value in (headers or {}).items()}
    return Send("POST", path, found, content, left)


def _read(read: Callable[[], T]) -> T:
    try:
        return read()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidAnswer(f"the answer is none of Quartet's ({type(error).__name__}: {error})") from None
