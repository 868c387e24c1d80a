"""Docker's health check: exit status 0 where the service in this container is ready.

It runs every few seconds beside the service, within the same CPU quota: a plain socket, as importing an HTTP client takes five
times as long.
"""

import os
import socket
import sys


def ready(port: int) -> bool:
    """Whether the readiness probe answers 200 on this port. Raises OSError where nobody answers in time."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        connection.sendall(b"GET /v2/health/ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        return connection.recv(64).split(b" ", 2)[1:2] == [b"200"]


if __name__ == "__main__":
    try:
        sys.exit(0 if ready(int(os.environ["QUARTET_SERVE_PORT"])) else "not ready")
    except OSError as error:
        sys.exit(f"no answer: {error}")
