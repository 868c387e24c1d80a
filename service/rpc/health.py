"""grpc.health.v1, by which load balancers, meshes and Kubernetes' probes ask a gRPC server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from service.rpc.call import Context

NAME = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
STATUS: dict[bool, int] = {True: HealthCheckResponse.SERVING, False: HealthCheckResponse.NOT_SERVING}


class Health(health_pb2_grpc.HealthServicer):
    """The server and its one service are always in the same state."""

    def __init__(self, service: str, ready: Callable[[], Awaitable[bool]]) -> None:
        self._known = ("", service)
        self._ready = ready
        self._status: int = HealthCheckResponse.NOT_SERVING
        self._changed = asyncio.Event()
        self._ended = False

    async def Check(self, request: HealthCheckRequest, context: Context) -> HealthCheckResponse:
        """The state at this moment."""
        if request.service not in self._known:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}; known is {self._known[1]!r}")
        return HealthCheckResponse(status=STATUS[await self._ready()])

    async def Watch(self, request: HealthCheckRequest, _context: Context) -> AsyncIterator[HealthCheckResponse]:
        """The state now and whenever it changes, until the server ends."""
        if request.service not in self._known:
            yield HealthCheckResponse(status=HealthCheckResponse.SERVICE_UNKNOWN)
        told = None
        while not self._ended:
            if request.service in self._known and self._status != told:
                told = self._status
                yield HealthCheckResponse(status=told)
            else:
                await self._changed.wait()

    def tell(self, ready: bool) -> None:
        """Let those who watch know, if that is news to them."""
        if STATUS[ready] != self._status:
            self._status = STATUS[ready]
            self._wake()

    def leave(self) -> None:
        """End what is being watched."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
