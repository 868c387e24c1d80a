"""Errors as gRPC has them: one table from the statuses of `service/errors.py`."""

from __future__ import annotations

from typing import NoReturn

import grpc

from service.access import GONE
from service.errors import Refused, ServiceError
from service.rpc.call import Context, Told

CODES = {
    200: grpc.StatusCode.OK,
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    405: grpc.StatusCode.UNIMPLEMENTED,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    409: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.INVALID_ARGUMENT,  # not RESOURCE_EXHAUSTED, after which clients try the same again
    415: grpc.StatusCode.INVALID_ARGUMENT,
    422: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    431: grpc.StatusCode.INVALID_ARGUMENT,
    GONE: grpc.StatusCode.CANCELLED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.UNAVAILABLE,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
PUSHBACK = "grpc-retry-pushback-ms"
"""Trailing metadata that a client with a retry policy waits for (gRPC proposal A6)."""
LONGEST = 1000  # characters of a message: clients refuse trailers of more than 8 KiB, and a character may take 12 bytes of them


async def refuse(context: Context, failure: ServiceError, told: Told = ()) -> NoReturn:
    """End a call with an error. What HTTP says in headers is trailing metadata, such as `retry-after` in seconds, and `told`."""
    message = str(failure)
    metadata = [*told, *((name.lower(), value) for name, value in failure.headers.items())]
    if isinstance(failure, Refused):
        metadata.append((PUSHBACK, str(1000 * failure.retry_after)))
    await context.abort(
        CODES[failure.status], message if len(message) <= LONGEST else f"{message[: LONGEST - 1]}…", tuple(metadata)
    )
