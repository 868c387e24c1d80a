"""One process that serves: uvicorn around our registry, by itself or as a worker among several."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import parent_process
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn
from starlette.types import ASGIApp

from modelrepo.errors import QuartetError
from service import headers, logs, tls
from service.api.examples import copy_paste_calls
from service.api.inference import InferenceFirst
from service.api.quick import Quick
from service.app import create_app
from service.balance import Balance
from service.health import from_workers, only_health
from service.port import Address, bind, cannot_listen
from service.protocol import Protocol, Shared
from service.settings import Settings
from service.siblings import Siblings, socket_of

log = logging.getLogger("quartet")

SWITCH_SECONDS = 0.1e-3  # a session's thread that has its outputs waits as long for the interpreter, instead of Python's 5 ms


@dataclass(frozen=True)
class Worker:
    """One of several processes that serve on a port: its number, where its siblings find it, and what it sets once it is ready."""

    number: int
    folder: Path
    ready: Event


class Server(uvicorn.Server):
    """uvicorn around our registry.

    The files of all models are checked before the port opens; while they load the server is alive and not ready, and says how far
    it is. One of several workers opens the port when it is ready. What cannot be loaded ends the process.
    """

    def __init__(
        self, app: InferenceFirst, chosen: Settings, worker: Worker | None = None, rpc_address: Address | None = None
    ) -> None:
        """`rpc_address` is where the application's gRPC server listens, if it has one."""
        self._tls = tls.of(chosen, app.metrics)
        self._balance = None
        if worker is not None and self._tls is None:  # a connection that is encrypted already cannot change hands
            self._balance = Balance(worker.folder, worker.number, chosen.workers)
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(  # type: ignore[arg-type]  # any factory will do
                    Protocol,
                    max_header_bytes=chosen.max_header_bytes,
                    read_timeout=chosen.read_timeout,
                    quick=app.quick,
                    shared=Shared(),
                    balance=self._balance,
                ),
                ws="none",
                lifespan="off",  # the registry is started below, where an error can end the process with a message
                access_log=False,
                proxy_headers=False,  # nothing here looks at the caller's address
                server_header=False,
                log_config=None,
                timeout_graceful_shutdown=chosen.drain_seconds,
                headers=headers.of_answers(tls=self._tls is not None),
                **({} if self._tls is None else self._tls.options()),
            )
        )
        self._app = app
        self._registry = app.registry
        self._telemetry = app.telemetry
        self._rpc = app.rpc
        self._rpc_address = rpc_address
        self._settings = chosen
        self._worker = worker
        self._failure: BaseException | None = None

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the repository, listen, load, serve, drain. Raises what kept the models from being loaded."""
        self._loop = asyncio.get_running_loop()
        self._loading = await self._registry.start()
        try:
            await super().serve(sockets)
        finally:
            self._loading.cancel()
            await self._registry.close()
            await self._telemetry.stop()
        if self._failure is not None:
            raise self._failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port."""
        assert sockets is not None  # `serve` gives the one it bound
        if self._worker is not None:  # who has the port gets requests, and the others can answer until it can
            await self._loading
        try:
            sockets[0].listen(self.config.backlog)
        except OSError as error:  # two servers may bind the same address, only one may listen
            host, port = sockets[0].getsockname()[:2]
            raise cannot_listen(host, port, error) from None
        await super().startup(sockets)
        if self._rpc is not None:
            assert self._rpc_address is not None
            await self._rpc.open(*self._rpc_address)
        if self._worker is not None:
            await self._meet(self._worker)
        if self._settings.health_port:
            await self._listen_to_probes(self._settings.host, self._settings.health_port)
        self._loading.add_done_callback(self._loaded)  # which tells the port

    async def _meet(self, worker: Worker) -> None:
        """Listen for the other workers, and end with the process that started all of them."""
        path = socket_of(worker.folder, worker.number)
        path.unlink(missing_ok=True)  # of a worker before this one, which crashed
        self.servers.append(await self._loop.create_unix_server(self._connected(from_workers(self._app)), path))
        if self._balance is not None:
            make = cast(Callable[..., Protocol], self.config.http_protocol_class)
            self._balance.listen(partial(make, **self._made_with(), adopted=True))
        parent = parent_process()
        assert parent is not None
        self._loop.add_reader(parent.sentinel, self._orphaned, parent.sentinel)

    async def _listen_to_probes(self, host: str, port: int) -> None:
        """Answer them on a port of their own, without TLS. Raises SettingsError."""
        listener = bind(host, port, "--health-port", shared=self._worker is not None)
        protocol = self._connected(only_health(self._app))
        self.servers.append(await self._loop.create_server(protocol, sock=listener, backlog=self.config.backlog))

    def _connected(self, answers: ASGIApp) -> Callable[[], asyncio.Protocol]:
        """Makes connections to something other than the whole application: none of their requests goes the quick way into it."""
        make = cast(Callable[..., Protocol], self.config.http_protocol_class)
        nothing = Quick(self._registry, self._app.metrics, -1, self._telemetry)

        def connected() -> asyncio.Protocol:
            protocol = make(**self._made_with(), quick=nothing, shared=Shared(), balance=None)
            protocol.app = answers
            return protocol

        return connected

    def _made_with(self) -> dict[str, Any]:
        """What uvicorn gives to each connection."""
        return {"config": self.config, "server_state": self.server_state, "app_state": {}, "_loop": self._loop}

    def _orphaned(self, sentinel: int) -> None:
        self._loop.remove_reader(sentinel)
        log.error("the process that started this worker is gone: it ends")
        self.handle_exit(signal.SIGTERM, None)

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 5 == 0:
            now = time.monotonic()
            for connection in self._connections():
                connection.tick(now)
            if self._app.guard is not None:
                self._app.guard.refresh()
            if self._tls is not None and self.config.ssl is not None:
                self._tls.refresh(self.config.ssl)
            if self._rpc is not None:
                self._rpc.tick()
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests in flight end, and tell those that did not in time."""
        if self._balance is not None:
            self._balance.close()
        closing = asyncio.ensure_future(self._rpc.close(self._settings.drain_seconds)) if self._rpc is not None else None
        await super().shutdown(sockets)
        for connection in self._connections():
            connection.give_up()
        if closing is not None:
            await closing

    def _connections(self) -> list[Protocol]:
        return cast(list[Protocol], list(self.server_state.connections))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not ready from now on; SIGTERM leaves those who route requests time to notice, a second signal does not."""
        waits = sig == signal.SIGTERM and not self._registry.stopping and self._registry.ready
        self._registry.stopping = True
        if self._rpc is not None:
            self._loop.call_soon_threadsafe(self._rpc.tick)
        if not waits:
            self.should_exit = True
            return
        log.info("SIGTERM: not ready any more; answering for %g s more", self._settings.drain_delay)
        self._loop.call_soon_threadsafe(self._loop.call_later, self._settings.drain_delay, setattr, self, "should_exit", True)

    def _loaded(self, loading: asyncio.Task[None]) -> None:
        """Tell a person how to use it, or end with what went wrong."""
        if loading.cancelled():
            return
        if error := loading.exception():
            self._failure, self.should_exit = error, True
            return
        if self.should_exit:  # a signal came meanwhile, and the port may be closed again
            return
        self._telemetry.start()
        sys.setswitchinterval(SWITCH_SECONDS)
        gc.collect()
        gc.freeze()  # what lives as long as the process; to look through it again and again stops all requests for 60 ms each time
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        models = self._registry.models()
        url = f"http{'' if self._tls is None else 's'}://{f'[{host}]' if ':' in host else host}:{port}"
        if self._rpc_address is not None:
            log.info("gRPC on %s:%d", *self._rpc_address)
        log.info("serving %d models on %s", len(models), url)
        if self._worker is not None:
            self._worker.ready.set()
        if self._settings.show_calls and (self._worker is None or self._worker.number == 0):
            if self._settings.playground:
                print(f"See what the models do, in a browser: {url}/\n")
            print(copy_paste_calls(models, url, keyed=self._app.guard is not None), flush=True)


def serve(chosen: Settings, listener: socket.socket, rpc: Address | None = None, worker: Worker | None = None) -> int:
    """In this process, by itself or as one worker of several. Raises QuartetError where start-up fails."""
    siblings = Siblings() if worker is None else Siblings(worker.folder, worker.number, chosen.workers)
    Server(create_app(chosen, siblings), chosen, worker, rpc).run([listener])
    return 0


def work(chosen: Settings, listener: socket.socket, rpc: Address | None, number: int, folder: Path, ready: Event) -> int:
    """What a process of the supervisor's does; the same statuses as `main`."""
    logs.to_stderr(chosen.log_format, number)
    try:
        return serve(chosen, listener, rpc, Worker(number, folder, ready))
    except QuartetError as error:
        logs.fatal(error, chosen.log_format, number)
        return 1
