"""A server in a container, as confined as the chart runs it: read-only, without privileges, half a gigabyte, one core."""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from loadtests.server import START, NotStarted, Server

CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--memory", "512m", "--cpus", "1")


class Docker:
    """A command that speaks to a Docker engine: docker, podman or a path."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __call__(self, *arguments: str) -> str:
        """What the command prints. Raises subprocess.CalledProcessError, whose `stderr` says why."""
        return subprocess.run([self._command, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    def inspect(self, what: str) -> dict[str, Any]:
        """All that the engine knows of a container or an image."""
        facts: list[dict[str, Any]] = json.loads(self("inspect", what))
        return facts[0]


class Container(Server):
    """`docker run` of an image with a repository mounted. `async with` waits until it is ready, and removes it in the end.

    Its methods are those of `Server` that ask over HTTP.
    """

    seconds_to_ready: float
    """From the start of its process to the first 200 of the readiness probe."""

    def __init__(self, docker: Docker, image: str, repository: Path) -> None:
        self._docker = docker
        self._run = ("run", "--detach", *CONFINED, "--publish", "127.0.0.1::8000", "--volume", f"{repository}:/models:ro", image)

    async def __aenter__(self) -> Self:
        self.name = await asyncio.to_thread(self._docker, *self._run)
        try:
            self.port = int((await asyncio.to_thread(self._docker, "port", self.name, "8000/tcp")).rsplit(":", 1)[1])
            self.address = ("127.0.0.1", self.port)
            end = time.monotonic() + START
            while not await self.ready():
                if time.monotonic() > end or not self._docker.inspect(self.name)["State"]["Running"]:
                    raise NotStarted("\n    ".join(("the container is not ready", *self.log().splitlines()[-5:])))
                await asyncio.sleep(0.02)
            ready = datetime.now().astimezone()
            started = datetime.fromisoformat(self._docker.inspect(self.name)["State"]["StartedAt"])
            self.seconds_to_ready = (ready - started).total_seconds()
        except BaseException:
            await self.__aexit__(None, None, None)
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self._docker, "rm", "--force", self.name)

    def log(self) -> str:
        """What it wrote so far."""
        return self._docker("logs", self.name)

    async def python(self, code: str) -> str:
        """What this code prints inside the container."""
        return await asyncio.to_thread(self._docker, "exec", self.name, "python", "-c", code)

    async def terminate(self) -> int:
        """SIGTERM, as `docker stop` sends it, and the exit status; 137 where it had to be killed after 40 seconds."""
        await asyncio.to_thread(self._docker, "stop", "--time", "40", self.name)
        return int(self._docker.inspect(self.name)["State"]["ExitCode"])
