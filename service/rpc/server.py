"""The gRPC server, in the event loop of the HTTP server and around the same registry."""

from __future__ import annotations

import asyncio

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from service.keys.guard import Guard
from service.port import authority, cannot_listen
from service.registry import Registry
from service.rollout.rollouts import Rollouts
from service.rpc import health, messages
from service.rpc.call import SERVICE
from service.rpc.credentials import credentials
from service.rpc.inference import Inference
from service.rpc.operations import Operations
from service.settings import Settings
from service.siblings import Siblings
from service.telemetry import Telemetry

KEEPALIVE_SECONDS = 60  # after which a silent client is asked whether it is still there


class RpcServer:
    """`open` listens; `tick` is to be called now and then; `close` drains."""

    def __init__(
        self,
        registry: Registry,
        rollouts: Rollouts,
        telemetry: Telemetry,
        settings: Settings,
        siblings: Siblings,
        controlled: bool,
        guard: Guard | None,
    ) -> None:
        self._registry = registry
        self._settings = settings
        self._inference = Inference(registry, telemetry, guard)
        self._health: health.Health | None = None
        self._operations = Operations(registry, rollouts, siblings, controlled, guard, telemetry.access)

    async def open(self, host: str, port: int) -> int:
        """Listen, and answer from now on; returns the port. Raises SettingsError where the address cannot be had."""
        self._server = server = grpc.aio.server(options=_options(self._settings))
        self._health = health.Health(SERVICE, self._operations.ready)
        unary = {**self._operations.methods(), "ModelInfer": self._inference.infer}
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]]
        handlers = {name: grpc.unary_unary_rpc_method_handler(method) for name, method in unary.items()}
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self._inference.stream)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        pool = messages.DESCRIPTOR.pool
        pool.AddSerializedFile(health_pb2.DESCRIPTOR.serialized_pb)
        reflection.enable_server_reflection((SERVICE, health.NAME, reflection.SERVICE_NAME), server, pool)
        where, shown = authority(host, port), credentials(self._settings)
        try:
            bound = server.add_insecure_port(where) if shown is None else server.add_secure_port(where, shown)
        except RuntimeError as error:
            raise cannot_listen(host, port, error, "--grpc-port") from None
        await server.start()
        return bound

    def tick(self) -> None:
        """Tell those who watch the server's health how it is; nobody does before it is open."""
        if self._health is not None:
            self._health.tell(self._registry.ready)

    async def close(self, seconds: float) -> None:
        """Take nothing new, and end when all that was accepted is answered, at most `seconds` from now."""
        if self._health is None:
            return  # it never was open
        self._inference.leave()
        self._health.leave()
        giving_up = asyncio.get_running_loop().call_later(seconds, self._inference.give_up)
        await self._server.stop(seconds + 1)  # one more to tell those that were given up
        giving_up.cancel()


def _options(settings: Settings) -> list[tuple[str, int]]:
    """Of grpc's core."""
    return [
        ("grpc.so_reuseport", 1),  # with the other workers, and with the socket that reserves the port
        ("grpc.max_receive_message_length", settings.max_body_bytes),  # unpacked
        ("grpc.max_send_message_length", -1),
        ("grpc.max_metadata_size", settings.max_header_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_header_bytes),
        ("grpc.server_handshake_timeout_ms", round(settings.read_timeout * 1e3)),
        ("grpc.keepalive_time_ms", KEEPALIVE_SECONDS * 1000),
        # Clients that ask whether the server is still there are let go by default if they do so every five minutes.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
    ]
