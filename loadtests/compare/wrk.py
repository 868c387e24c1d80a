"""wrk, the client: closed loop, one thread, keep-alive connections that each wait for an answer before they send again."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

SCRIPT = Path(__file__).with_name("requests.lua")
KINDS = ("connect", "read", "write", "status", "timeout")


class WrkError(Exception):
    """wrk is missing, or did not end as it should."""


@dataclass(frozen=True)
class Load:
    """What wrk saw. Latencies are in milliseconds and those of a closed loop: nobody sends while all wait."""

    per_second: float
    """Answers of any status."""
    p50: float
    p99: float
    errors: dict[str, int]
    """By kind, those that occurred: connections that failed, reads and writes that did, status 400 and above, timeouts."""


def require() -> str:
    """The path of wrk. Raises WrkError where it is not installed."""
    found = shutil.which("wrk")
    if found is None:
        raise WrkError("wrk is not installed: apt-get install wrk")
    return found


def load(port: int, requests: Sequence[bytes], connections: int, seconds: float) -> Load:
    """Send whole HTTP requests in turn over that many connections. Raises WrkError."""
    with tempfile.TemporaryDirectory(prefix="quartet-wrk-") as folder:
        files = [Path(folder) / str(number) for number in range(len(requests))]
        for file, request in zip(files, requests, strict=True):
            file.write_bytes(request)
        command = [require(), "--threads", "1", "--connections", str(connections), "--duration", f"{max(1, round(seconds))}s"]
        command += ["--timeout", "10s", "--script", str(SCRIPT), f"http://127.0.0.1:{port}/", "--", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise WrkError(f"wrk ended with status {done.returncode}: {(done.stderr or done.stdout).strip()[-300:]}")
    return parse(done.stdout)


def parse(output: str) -> Load:
    """What our script prints at wrk's end. Raises WrkError where it is not there, or says that there was no answer."""
    line = re.search(r"^RESULT (.*)$", output, re.MULTILINE)
    if line is None:
        raise WrkError(f"wrk printed no result but {output.strip()[-300:]!r}")
    values = {name: int(value) for name, value in (pair.split("=") for pair in line[1].split())}
    errors = {kind: values[kind] for kind in KINDS if values[kind]}
    if not values["requests"]:
        raise WrkError(f"not one answer in {values['microseconds'] / 1e6:.1f} s; errors: {errors or 'none'}")
    return Load(values["requests"] / values["microseconds"] * 1e6, values["p50"] / 1e3, values["p99"] / 1e3, errors)
