"""An environment of its own for each peer, made on demand from PyPI: their dependencies contradict each other."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
MARK = "made-from.txt"
# None of them needs PyTorch here; should one come to ask for it, it is to be the one that Quartet trains with.
CONSTRAINT = "torch<2.14\n"


class NotInstalled(Exception):
    """An environment could not be made; the message holds the end of what pip said."""


def python(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's environment, made below `folder` where it is not there or its requirements have changed since.

    A peer without requirements runs in Quartet's own. Raises NotInstalled.
    """
    requirements = PEERS / peer / "requirements.txt"
    if not requirements.exists():
        return Path(sys.executable)
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    environment = folder / peer
    interpreter, mark = environment / "bin" / "python", environment / MARK
    if mark.exists() and mark.read_text() == wanted:
        return interpreter
    shutil.rmtree(environment, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    constraint = folder / "constraint.txt"
    constraint.write_text(CONSTRAINT)
    _run(peer, [sys.executable, "-m", "venv", str(environment)])
    install = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "install", "-q", "-r", str(requirements)]
    _run(peer, install, {"PIP_CONSTRAINT": str(constraint)})
    mark.write_text(wanted)
    return interpreter


def versions(peer: str, interpreter: Path) -> dict[str, str]:
    """Versions of the packages that the peer's requirements name."""
    requirements = PEERS / peer / "requirements.txt"
    if not requirements.exists():
        return {}
    names = [line.split("==")[0].split("[")[0].strip() for line in requirements.read_text().splitlines() if line.strip()]
    code = "import sys; from importlib.metadata import version; print(*(f'{n}={version(n)}' for n in sys.argv[1:]))"
    done = subprocess.run([str(interpreter), "-c", code, *names], capture_output=True, text=True, check=True)
    return dict(pair.split("=", 1) for pair in done.stdout.split())


def _run(peer: str, command: list[str], environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})})
    if done.returncode:
        tail = "\n    ".join((done.stdout + done.stderr).strip().splitlines()[-6:])
        raise NotInstalled(f"{peer}: {' '.join(command)}\n    {tail}")
