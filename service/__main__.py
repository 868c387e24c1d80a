"""`python -m service --repository models`."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import socket
import sys
import time
from functools import partial
from types import FrameType
from typing import cast

import uvicorn

from modelrepo.errors import QuartetError
from service import settings
from service.api.examples import copy_paste_calls
from service.api.inference import InferenceFirst
from service.app import create_app
from service.protocol import Protocol, Shared
from service.settings import Settings, SettingsError

log = logging.getLogger("quartet")


class Server(uvicorn.Server):
    """uvicorn around our registry.

    The files of all models are checked before the port opens; while they load the server is alive and not ready, and says how far
    it is. One that cannot be loaded ends the process.
    """

    def __init__(self, app: InferenceFirst, chosen: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=partial(  # type: ignore[arg-type]  # any factory will do
                    Protocol,
                    max_header_bytes=chosen.max_header_bytes,
                    read_timeout=chosen.read_timeout,
                    quick=app.quick,
                    shared=Shared(),
                ),
                ws="none",
                lifespan="off",  # the registry is started below, where an error can end the process with a message
                access_log=False,
                proxy_headers=False,  # nothing here looks at the caller's address
                server_header=False,
                log_config=None,
                timeout_graceful_shutdown=chosen.drain_seconds,
            )
        )
        self._registry = app.registry
        self._settings = chosen
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
        if self._failure is not None:
            raise self._failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port."""
        assert sockets is not None  # `main` gives the one it bound
        try:
            sockets[0].listen(self.config.backlog)
        except OSError as error:  # two servers may bind the same address, only one may listen
            host, port = sockets[0].getsockname()[:2]
            raise cannot_listen(host, port, error) from None
        await super().startup(sockets)
        self._loading.add_done_callback(self._loaded)  # which tells the port

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second."""
        if counter % 5 == 0:
            now = time.monotonic()
            for connection in self._connections():
                connection.tick(now)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let requests in flight end, and tell those that did not in time."""
        await super().shutdown(sockets)
        for connection in self._connections():
            connection.give_up()

    def _connections(self) -> list[Protocol]:
        return cast(list[Protocol], list(self.server_state.connections))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Not ready from now on; SIGTERM leaves those who route requests time to notice, a second signal does not."""
        waits = sig == signal.SIGTERM and not self._registry.stopping and self._registry.ready
        self._registry.stopping = True
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
        gc.collect()
        gc.freeze()  # what lives as long as the process; to look through it again and again stops all requests for 60 ms each time
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        models = self._registry.models()
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        log.info("serving %d models on %s", len(models), url)
        if self._settings.show_calls:
            print(copy_paste_calls(models, url), flush=True)


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, taken before any model is opened; it listens only once all are. Raises SettingsError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name no resolver would take
        raise cannot_listen(host, port, error) from None
    return listener


def cannot_listen(host: str, port: int, error: Exception) -> SettingsError:
    """The address is taken, or not ours."""
    reason = error.strerror if isinstance(error, OSError) else error
    return SettingsError(f"cannot listen on {host}:{port} ({reason}): give another --port or --host")


def main(arguments: list[str]) -> int:
    """Serve until SIGTERM or SIGINT; 0 after a clean shutdown, 1 with a message where start-up fails."""
    try:
        chosen = settings.read(arguments)
        logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
        logging.getLogger("quartet").setLevel(logging.INFO)
        with bind(chosen.host, chosen.port) as listener:
            Server(create_app(chosen), chosen).run([listener])
    except QuartetError as error:
        print(f"service: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # before it listens; from then on the server takes the signal itself
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
