"""A real server process on a free port."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]


class Server:
    """A running `python -m service`; `log` holds what it wrote until it was ready."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.log: list[str] = []
        for line in process.stderr:
            self.log.append(line)
            if found := re.search(r"serving \d+ models on (https?://(\S+:\d+))", line):
                self.url, self.address = found[1], found[2]
                return
        raise AssertionError(f"the server did not start: {''.join(self.log)}")

    def stop(self, signal_number: int) -> int:
        self.process.send_signal(signal_number)
        return self.process.wait(30)


@contextmanager
def serving(repository: Path | str, *options: str) -> Iterator[Server]:
    command = [
        sys.executable,
        "-m",
        "service",
        "--repository",
        str(repository),
        "--port",
        "0",
        "--device",
        "cpu",
        "--drain-delay",
        "0",
        *options,
    ]
    with subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Server(process)
        finally:
            process.kill()
