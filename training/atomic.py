"""Writing a file so that a reader, or a machine that loses power, finds the old one or the new one and never half of it."""

from __future__ import annotations

import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write beside `path`, flush to the disk, rename into place. Makes the folder. Raises OSError; nothing is then changed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        if error.filename is None:  # as of a full disk, met while writing
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)  # the rename itself is durable once the folder is
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
