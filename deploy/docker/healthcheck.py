"""Docker's health check: exit status 0 where the service in this container is ready.

It runs every few seconds beside the service, within the same CPU quota: a plain socket, as importing an HTTP client takes five
times as long. Where the service asks clients for certificates, it needs its --health-port for this.
"""

import os
import socket
import sys

HEALTH_PORT = int(os.environ.get("QUARTET_SERVE_HEALTH_PORT", "0"))


def ready(port: int) -> bool:
    """Whether the readiness probe answers 200 on this port. Raises OSError where nobody answers in time."""
    with opened(port) as connection:
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).split(b" ", 2)[1:2] == [b"200"]


def opened(port: int) -> socket.socket:
    """A connection, with TLS where the service has it on this port; whose certificate it is does not matter within a container."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=2)
    if HEALTH_PORT or "QUARTET_SERVE_TLS_CERTIFICATE" not in os.environ:
        return connection
    import ssl

    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


if __name__ == "__main__":
    try:
        sys.exit(0 if ready(HEALTH_PORT or int(os.environ["QUARTET_SERVE_PORT"])) else "not ready")
    except OSError as error:
        sys.exit(f"no answer: {error}")
