"""`python -m service --repository models`."""

from __future__ import annotations

import logging
import signal
import socket
import sys

import uvicorn

from modelrepo.errors import QuartetError
from service import settings
from service.api.examples import copy_paste_calls
from service.api.inference import InferenceFirst
from service.app import create_app
from service.protocol import Protocol
from service.settings import Settings, SettingsError


class Server(uvicorn.Server):
    """uvicorn around our lifespan: models load before it opens the port, and close after its last answer."""

    def __init__(self, app: InferenceFirst, chosen: Settings) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=Protocol,
                ws="none",
                lifespan="off",  # entered below, where an error can end the process with a message instead of a traceback
                access_log=False,
                proxy_headers=False,  # nothing here looks at the caller's address
                server_header=False,
                log_config=None,
                timeout_graceful_shutdown=chosen.drain_seconds,
            )
        )
        self._app = app
        self._show_calls = chosen.show_calls

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Load, serve, drain."""
        async with self._app.lifespan():
            # uvicorn raises the signal again after its clean shutdown; by then it is no reason to die of.
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: None)
            await super().serve(sockets)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Open the port; then tell a person how to use it."""
        assert sockets is not None  # `main` gives the one it bound
        try:
            sockets[0].listen(self.config.backlog)
        except OSError as error:  # two servers may bind the same address, only one may listen
            host, port = sockets[0].getsockname()[:2]
            raise cannot_listen(host, port, error) from None
        await super().startup(sockets)
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        models = self._app.registry.models()
        url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        logging.getLogger("quartet").info("serving %d models on %s", len(models), url)
        if self._show_calls:
            print(copy_paste_calls(models, url), flush=True)


def bind(host: str, port: int) -> socket.socket:
    """A socket on the address, taken before any model is loaded; it listens only once all are. Raises SettingsError."""
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
    except KeyboardInterrupt:  # while loading; once it serves, the server takes the signal itself
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
