"""A server process and all that it starts: begun, waited for, weighed, and ended without leaving anything behind."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from loadtests.calls import Response
from loadtests.server import NotStarted, free_port

START = 90.0  # seconds until the first answer
STOP = 8.0  # seconds to end in peace
PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """From now on processes whose parent has died become our children, so that none escapes `Process`. Linux only."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


class Process:
    """A server on a port of its own. `with` starts it and, in the end, whatever happens, ends it and its descendants."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path, log: Path, port: int) -> None:
        """`environment` is added to ours; `log` is added to."""
        self.port = port
        self.start_seconds = float("nan")
        self._command, self._environment, self._folder, self._log = command, environment, folder, log

    def __enter__(self) -> Self:
        self._before = descendants()
        self._started = time.monotonic()
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                env={**{name: value for name, value in os.environ.items() if not name.startswith("QUARTET_")}, **self._environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us, who then end it
            )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.send_signal(signal.SIGTERM)
        end = time.monotonic() + STOP
        while (alive := self._alive()) and time.monotonic() < end:
            time.sleep(0.05)
        while alive:
            for process in alive:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            time.sleep(0.02)
            alive = self._alive()

    def wait(self, request: bytes) -> Response:
        """The first answer with status 200; `start_seconds` is then how long it took. Raises NotStarted."""
        end = self._started + START
        last = "no answer"
        while time.monotonic() < end:
            if self._process.poll() is not None:
                last = f"it ended with status {self._process.returncode}"
                break
            try:
                response = self.ask(request)
            except (OSError, http.client.HTTPException) as error:
                last = f"{type(error).__name__}: {error}"
            else:
                self.start_seconds = time.monotonic() - self._started
                if response.status == 200:
                    return response
                if response.status in (415, 422):  # waiting will not help
                    raise NotStarted(f"status {response.status}: {response.body[:200].decode(errors='replace')}")
                last = f"status {response.status}: {response.body[:200].decode(errors='replace')}"
            time.sleep(0.02)
        raise NotStarted(f"{last}; its log {self._log} ends\n    " + "\n    ".join(self.log_tail()))

    def ask(self, request: bytes) -> Response:
        """Send a whole request over a connection of its own. Raises OSError or HTTPException."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=30) as connection:
            connection.sendall(request)
            response = http.client.HTTPResponse(connection)
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Response(response.status, headers, response.read())

    def memory(self) -> dict[str, float]:
        """MiB of the process and its descendants: resident, where what they share counts once for each, and its fair share."""
        totals = {"resident": 0, "proportional": 0}
        for process in self._alive():
            with contextlib.suppress(OSError):  # it has just ended
                lines = dict(line.split(":", 1) for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:])
                totals["resident"] += int(lines["Rss"].split()[0])
                totals["proportional"] += int(lines["Pss"].split()[0])
        return {kind: kib / 1024 for kind, kib in totals.items()}

    def log_tail(self) -> list[str]:
        """The last lines that it wrote."""
        return self._log.read_text(errors="replace").splitlines()[-6:]

    def _alive(self) -> set[int]:
        self._process.poll()
        # Twice: /proc is not read at one moment, and the children of one that has just died are, for that moment, nobody's.
        return (descendants() | descendants()) - self._before


def descendants() -> set[int]:
    """Our children, theirs, and so on; those that have ended are buried on the way."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with contextlib.suppress(OSError):  # it has just ended
                state, parent = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[:2]
                children.setdefault(int(parent), []).append((int(entry), state))
    found: set[int] = set()
    waiting = [os.getpid()]
    while waiting:
        above = waiting.pop()
        for child, state in children.get(above, ()):
            waiting.append(child)
            if state != "Z":
                found.add(child)
            elif above == os.getpid():
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(child, os.WNOHANG)
    return found


def two_free_ports() -> int:
    """A port that is free, as the next one is."""
    while True:
        port = free_port()
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port + 1)):
            return port
