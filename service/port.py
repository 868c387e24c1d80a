"""The address that is listened on."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec

from service.settings import Settings, SettingsError

Address = tuple[str, int]


def bind(host: str, port: int, option: str = "--port", shared: bool = False) -> socket.socket:
    """A socket on the address, taken before any model is opened; it listens only once all are. Raises SettingsError.

    Those that are `shared` may have the same port. `option` is the setting that named it.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind(address)
        except OSError:
            listener.close()
            raise
    except (OSError, UnicodeError) as error:  # UnicodeError: a host name no resolver would take
        raise cannot_listen(host, port, error, option) from None
    return listener


def reserve(host: str, port: int, option: str = "--port") -> socket.socket:
    """A socket that keeps the port for others of this service, which listen on it. Raises SettingsError where it is taken."""
    bind(host, port, option).close()  # sockets that share a port would share it with another service, too, without a word
    return bind(host, port, option, shared=True)


def reserve_rpc(chosen: Settings) -> AbstractContextManager[socket.socket | None]:
    """What keeps gRPC's port; nothing where gRPC is off. Raises SettingsError where it is taken, or gRPC is not installed."""
    if chosen.grpc_port is None:
        return nullcontext()
    if missing := [name for name in ("grpc", "grpc_health", "grpc_reflection") if find_spec(name) is None]:
        raise SettingsError(f"--grpc-port needs {missing[0]}, which is not installed: pip install 'quartet[grpc]'")
    return reserve(chosen.host, chosen.grpc_port, "--grpc-port")


def address(listener: socket.socket | None) -> Address | None:
    """Host and port of a socket, if there is one."""
    if listener is None:
        return None
    host, port = listener.getsockname()[:2]
    return host, port


def authority(host: str, port: int) -> str:
    """Both as they stand in a URL."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def cannot_listen(host: str, port: int, error: Exception, option: str = "--port") -> SettingsError:
    """The address is taken, or not ours."""
    reason = error.strerror if isinstance(error, OSError) else error
    return SettingsError(f"cannot listen on {host}:{port} ({reason}): give another {option} or --host")
