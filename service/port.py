"""The address that is listened on."""

from __future__ import annotations

import socket

from service.settings import SettingsError


def bind(host: str, port: int, option: str = "--port", shared: bool = False) -> socket.socket:
    """A socket on the address, taken before any model is opened; it listens only once all are. Raises SettingsError.

    Those that are `shared` may have the same port.
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


def cannot_listen(host: str, port: int, error: Exception, option: str = "--port") -> SettingsError:
    """The address is taken, or not ours."""
    reason = error.strerror if isinstance(error, OSError) else error
    return SettingsError(f"cannot listen on {host}:{port} ({reason}): give another {option} or --host")
