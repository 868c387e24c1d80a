"""A real server process, started on a port of its own and watched from outside."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtests.calls import Response, post
from loadtests.client import Pool

ROOT = Path(__file__).parents[1]
START = 60.0  # seconds a server may take until it is ready


class NotStarted(Exception):
    """The server ended, or was not ready in time; the message holds the end of its log."""


class Server:
    """`python -m service` with these options. `async with` waits until it is ready, and kills it in the end."""

    def __init__(self, repository: Path, log: Path, *options: str, port: int | None = None, device: str = "cpu") -> None:
        """`log` is the file that its output is added to; `port` a free one where none is given; `device` as the service has it."""
        self.port = port or free_port()
        self.address = ("127.0.0.1", self.port)
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [sys.executable, "-m", "service", "--repository", str(repository), "--port", str(self.port)]
        self._command += ["--device", device, *options]
        self._log = log

    async def __aenter__(self) -> Self:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("QUARTET_SERVE_")}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, cwd=ROOT, stdout=log, stderr=log, env=environment)
        end = time.monotonic() + START
        while True:
            if self._process.poll() is not None or time.monotonic() > end:
                self._process.kill()
                tail = "\n    ".join(self._log.read_text(errors="replace").splitlines()[-5:])
                raise NotStarted(f"{' '.join(self._command[1:])}\n    {tail}")
            if await self.ready():
                return self
            await asyncio.sleep(0.05)

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()
        await asyncio.to_thread(self._process.wait)

    async def ready(self) -> bool:
        """Whether the readiness probe answers 200."""
        try:
            return (await self.get("/v2/health/ready")).status == 200
        except OSError:
            return False

    async def get(self, path: str) -> Response:
        """GET over a connection of its own."""
        return await self._once(f"GET {path} HTTP/1.1\r\nHost: quartet\r\n\r\n".encode())

    async def post(self, path: str, body: dict[str, Any] | None = None) -> Response:
        """POST JSON over a connection of its own."""
        return await self._once(post(path, json.dumps(body or {}).encode()))

    async def _once(self, request: bytes) -> Response:
        pool = Pool(self.address)
        try:
            return await pool.exchange(request, timeout=60)
        finally:
            pool.close()

    async def metric(self, name: str) -> float:
        """The sum of a metric's series: `name` as it stands in /metrics, without labels."""
        lines = (await self.get("/metrics")).body.decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.split("{")[0].split(" ")[0] == name)

    async def observed(self, name: str, at_most: str) -> float:
        """How many values of a histogram, over all its series, were no more than a bound, written as it stands in /metrics."""
        lines = (await self.get("/metrics")).body.decode().splitlines()
        return sum(
            float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}_bucket{{") and f'le="{at_most}"' in line
        )

    async def terminate(self) -> int:
        """SIGTERM, and the exit status."""
        self._process.send_signal(signal.SIGTERM)
        return await asyncio.to_thread(self._process.wait, 60)

    def descriptors(self) -> int:
        """Open file descriptors, sockets among them."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def processor_seconds(self) -> float:
        """What it has spent of the processor since its start."""
        user, system = Path(f"/proc/{self._process.pid}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def resident(self) -> int:
        """Resident memory in bytes."""
        return resident(self._process.pid)


def resident(process: int | None = None) -> int:
    """Resident memory of a process, this one unless another is named, in bytes."""
    pages = Path(f"/proc/{process or 'self'}/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    """A port that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])
