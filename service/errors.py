"""Every error a caller can get, with its status.

    ServiceError                   500
    ├── InvalidRequest             400  not the protocol: broken JSON, missing keys, wrong dtype or shape
    ├── Unauthorized               401  no key, or none that is known; WWW-Authenticate says what is asked for
    ├── Forbidden                  403  the server takes no orders about its models from here, or not with this key
    ├── UnknownModel               404  no such model, version or path
    ├── MethodNotAllowed           405
    ├── RequestTimeout             408  the request did not arrive in time
    ├── Conflict                   409  an order that does not fit how things stand
    ├── PayloadTooLarge            413  more bytes or rows than the server takes in one request
    ├── UnsupportedMediaType       415  a body the server does not read
    │   └── UnsupportedEncoding         a content encoding it does not decode; Accept-Encoding says which it does
    ├── Unprocessable              422  understood, but the model cannot take it or JSON cannot carry the answer
    ├── Refused                    429  (or 503, a setting) too much is waiting; Retry-After says when to come back
    │   └── TooManyRequests            what the caller's key may use is used up
    ├── HeadersTooLarge            431  more bytes of headers than the server reads
    ├── Unavailable                503  not ready, shutting down, or a session is being replaced
    └── DeadlineExceeded           504  accepted, and not answered within the request's timeout

The body is always `{"error": "<message>"}`, as the Open Inference Protocol has it. What is not foreseen here becomes an
opaque 500, with the traceback in the log only.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from modelrepo.errors import OutOfRange, QuartetError, SignatureError


class ServiceError(QuartetError):
    """Base: an error with an HTTP status."""

    status = 500

    @property
    def headers(self) -> dict[str, str]:
        """Response headers that go with the error."""
        return {}


class InvalidRequest(ServiceError):
    """The request is not what the protocol says."""

    status = 400


class Unauthorized(ServiceError):
    """No key was shown, or none that is known."""

    status = 401

    @property
    def headers(self) -> dict[str, str]:
        """How a key is shown."""
        return {"WWW-Authenticate": 'Bearer realm="quartet"'}


class Forbidden(ServiceError):
    """The server does not do that for callers."""

    status = 403


class UnknownModel(ServiceError):
    """No such model, version or path."""

    status = 404


class MethodNotAllowed(ServiceError):
    """The path exists; this method does not."""

    status = 405

    def __init__(self, method: str, allowed: str) -> None:
        super().__init__(f"{method} is not for this path: send {allowed}")
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        """The methods that are."""
        return {"Allow": self.allowed}


class RequestTimeout(ServiceError):
    """The request did not arrive in time."""

    status = 408


class Conflict(ServiceError):
    """An order that does not fit how things stand."""

    status = 409


class PayloadTooLarge(ServiceError):
    """More bytes or rows than the server takes in one request."""

    status = 413


class UnsupportedMediaType(ServiceError):
    """A body the server does not read."""

    status = 415


class UnsupportedEncoding(UnsupportedMediaType):
    """The body is encoded in a way the server does not decode."""

    def __init__(self, message: str, decoded: Iterable[str]) -> None:
        super().__init__(message)
        self.decoded = ", ".join(decoded)

    @property
    def headers(self) -> dict[str, str]:
        """The encodings that are."""
        return {"Accept-Encoding": self.decoded}


class Unprocessable(ServiceError):
    """A well-formed request that cannot be answered."""

    status = 422


class Refused(ServiceError):
    """Turned away on arrival: too many rows wait, or too many for the answer to come in time."""

    def __init__(self, message: str, retry_after: int, status: int = 429) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.status = status

    @property
    def headers(self) -> dict[str, str]:
        """Seconds until the queue should have drained."""
        return {"Retry-After": str(self.retry_after)}


class TooManyRequests(Refused):
    """What a key may use is used up; `reason` is rate or concurrency."""

    def __init__(self, reason: str, message: str, retry_after: int) -> None:
        super().__init__(message, retry_after)
        self.reason = reason


class HeadersTooLarge(ServiceError):
    """More bytes of headers than the server reads."""

    status = 431


class Unavailable(ServiceError):
    """The server or the model does not answer now."""

    status = 503


class DeadlineExceeded(ServiceError):
    """The request's time ended before its answer came."""

    status = 504


def too_many_rows(rows: int, limit: int) -> PayloadTooLarge:
    """The refusal of a request that could not be queued even if nothing else waited."""
    return PayloadTooLarge(f"the request has {rows} rows; at most {limit} are taken at once: send them in several requests")


def shut_down() -> Unavailable:
    """What callers are told whose answer did not come before the server had to end."""
    return Unavailable("the server shut down before it could answer: send the request to another instance")


class _Body(msgspec.Struct):
    error: str


def translate(error: Exception) -> ServiceError:
    """The error a caller sees: tensors that do not fit get a status of their own, the unforeseen becomes an opaque 500."""
    match error:
        case ServiceError():
            return error
        case OutOfRange():
            return Unprocessable(str(error))
        case SignatureError():
            return InvalidRequest(str(error))
    return ServiceError("internal error; the server's log has the details")


def body(error: ServiceError) -> bytes:
    """The response body."""
    return msgspec.json.encode(_Body(str(error)))
