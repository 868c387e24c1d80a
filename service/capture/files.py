"""A folder of Parquet files that holds no more than it may, and in which nobody ever finds half a file.

FOLDER/MODEL/VERSION/TIME-ID.parquet: the name sorts by time. Several processes may write to one folder.
"""

from __future__ import annotations

import fcntl
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

FOLDER_MODE, FILE_MODE = 0o750, 0o640  # nobody else is to read what callers sent
PART = ".part"  # of a name that begins with a dot: not yet a file
LEFT_SECONDS = 3600  # after which such a one belongs to a process that is gone


class Files:
    """At most `most_bytes` of them; the oldest go first."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        """Raises OSError where nothing can be written there."""
        self._folder = folder
        self._most_bytes = most_bytes
        folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)
        with self._alone():
            pass

    def add(self, model: str, version: str, content: bytes) -> None:
        """A new file. Raises OSError, and has then written nothing; ValueError for one that there is no room for at all."""
        if len(content) > self._most_bytes:
            raise ValueError(f"{len(content)} bytes")
        folder = self._folder / model / version
        for each in (folder.parent, folder):
            each.mkdir(FOLDER_MODE, exist_ok=True)
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S%fZ}-{uuid.uuid4().hex[:8]}.parquet"
        part = folder / f".{name}{PART}"
        with self._alone():
            self._make_room(len(content))
            try:
                with open(part, "xb", opener=lambda path, flags: os.open(path, flags, FILE_MODE)) as stream:
                    stream.write(content)
                    stream.flush()
                    os.fsync(stream.fileno())
                part.replace(folder / name)
            finally:
                part.unlink(missing_ok=True)

    def _make_room(self, needed: int) -> None:
        """Remove the oldest files until there is room for as many bytes, and what killed processes left."""
        now = time.time()
        found = []
        for path in self._folder.rglob("*.parquet*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # somebody else removed it
            if path.suffix == PART and now - status.st_mtime > LEFT_SECONDS:
                path.unlink(missing_ok=True)
                continue
            found.append((path.name, status.st_size, path))
        left = sum(size for _, size, _ in found) + needed - self._most_bytes
        for _, size, path in sorted(found):
            if left <= 0:
                break
            path.unlink(missing_ok=True)
            left -= size

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """While no other process adds a file."""
        with (self._folder / ".lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
