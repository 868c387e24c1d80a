"""Facts about the code and libraries of a run."""

from __future__ import annotations

import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

LIBRARIES = ("torch", "numpy", "scikit-learn")


def git() -> tuple[str | None, bool | None]:
    """Commit of this code and whether it was changed since; (None, None) where it is not a git checkout."""
    try:
        commit, status = (
            subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(status)


def versions(libraries: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Python's version and those of the given libraries."""
    return {"python": platform.python_version(), **{name: version(name) for name in libraries}}
