"""Hidden folders in which what is to appear in a repository is put together first, on the repository's own disk."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STAGING = ".staging-"


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A fresh folder inside `parent`, gone when the block ends; those of processes that were killed are removed on the way.

    Raises OSError where nothing can be written, before the block begins.
    """
    sweep(parent)
    path, lock = _locked_folder(parent)
    try:
        yield path
    finally:
        os.close(lock)
        shutil.rmtree(path, ignore_errors=True)  # gone already where it was renamed


def _locked_folder(parent: Path) -> tuple[Path, int]:
    """A new staging folder and the descriptor that holds its lock.

    Until it is locked, another process may take it for a leftover and sweep it away; then a new one is made.
    """
    while True:
        path = Path(tempfile.mkdtemp(prefix=STAGING, dir=parent))
        try:
            lock = os.open(path, os.O_RDONLY)
        except FileNotFoundError:
            continue
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            path.chmod(0o755)
            return path, lock
        os.close(lock)


def sweep(parent: Path) -> None:
    """Remove staging folders whose writer is gone: a living one holds a lock on its folder."""
    for leftover in parent.glob(STAGING + "*"):
        try:
            lock = os.open(leftover, os.O_RDONLY)
        except FileNotFoundError:
            continue  # its writer published or cleaned up just now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(leftover, ignore_errors=True)
        except BlockingIOError:
            pass  # its writer lives
        finally:
            os.close(lock)


def discard(path: Path) -> None:
    """Remove a folder beside which others read: at once for them, the disk's part later. Raises OSError."""
    with staging_folder(path.parent) as temporary:
        path.rename(temporary / path.name)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
