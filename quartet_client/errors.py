"""Everything that a call may raise.

ClientError
├── Unreachable             no answer: refused, broken, no such host (a ConnectionError, too)
├── DeadlineExceeded        no answer in time, by this clock or the server's (a TimeoutError, too)
├── InvalidAnswer           an answer that is none of Quartet's
└── Refusal                 the server said no; `status`, and `retry_after` in seconds where it said when
    ├── InvalidRequest      400, 415: not what the model takes
    ├── Unauthorized        401
    ├── Forbidden           403
    ├── NotFound            404
    ├── TooLarge            413: more rows or bytes than are taken at once
    ├── Unprocessable       422: values that the model cannot take
    ├── Overloaded          429
    ├── Unavailable         502, 503: loading, shutting down, or behind a proxy that found nobody
    └── ServerError         any other status
"""

from __future__ import annotations


class ClientError(Exception):
    """Base: a call that brought no answer."""


class Unreachable(ClientError, ConnectionError):
    """Nobody answered."""


class DeadlineExceeded(ClientError, TimeoutError):
    """The time of the call ended before its answer came."""


class InvalidAnswer(ClientError):
    """Somebody else answered, or something in between changed the answer."""


class Refusal(ClientError):
    """The server answered with an error, whose message this has."""

    def __init__(self, message: str, status: int, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
        """Seconds after which the server expects to have room, if it said so."""


class InvalidRequest(Refusal):
    """Not what the model takes: a name, datatype, shape, parameter or kind of body."""


class Unauthorized(Refusal):
    """The server wants a key, or does not know this one."""


class Forbidden(Refusal):
    """The key is not for that."""


class NotFound(Refusal):
    """No such model, version or path."""


class TooLarge(Refusal):
    """More rows or bytes than the server takes at once: send several requests."""


class Unprocessable(Refusal):
    """Values that the model cannot take."""


class Overloaded(Refusal):
    """Too much is waiting, or the answer could not come in time."""


class Unavailable(Refusal):
    """The server is loading, shutting down, or has nobody behind it."""


class ServerError(Refusal):
    """The server failed, or answered with a status that it has no reason to."""


KINDS: dict[int, type[Refusal]] = {
    400: InvalidRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    413: TooLarge,
    415: InvalidRequest,
    422: Unprocessable,
    429: Overloaded,
    502: Unavailable,
    503: Unavailable,
}
