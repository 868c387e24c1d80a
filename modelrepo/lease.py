"""Who uses a version: a shared lock, so that nobody removes what somebody serves.

What is locked is the version's folder, which needs no right to write, or a file that stands for it. The kernel lets go of the locks
of a process that dies. Locks on folders are seen on one machine; those on files wherever the file system passes them on, as NFS 4
does.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

log = logging.getLogger("modelrepo.lease")

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class Leases:
    """What this process uses, each named by the folder or file that is locked."""

    def __init__(self) -> None:
        self._held: dict[Path, int] = {}
        self._mutex = threading.Lock()

    def hold(self, locked: Path) -> bool:
        """Use it; False where it is not there. Waits while somebody removes it. Raises OSError."""
        with self._mutex:
            held = self._held.get(locked)
            if held is not None and _is(locked, held):
                return True
        while True:
            descriptor = _open(locked)
            if descriptor is None:
                return False
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH)
            except OSError as error:
                if error.errno not in WITHOUT_LOCKS:
                    os.close(descriptor)
                    raise
                log.info("%s cannot be locked (%s): whoever prunes it does not see that it is used", locked, error.strerror)
            if _is(locked, descriptor):
                break
            os.close(descriptor)  # it was removed, or replaced, while we waited
        with self._mutex:
            before = self._held.pop(locked, None)
            self._held[locked] = descriptor
        if before is not None:
            os.close(before)
        return True

    def retain(self, used: set[Path]) -> list[Path]:
        """Use these still, and others no more; returns those others."""
        with self._mutex:
            released = {locked: self._held.pop(locked) for locked in list(self._held) if locked not in used}
        for descriptor in released.values():
            os.close(descriptor)
        return list(released)


@contextmanager
def unused(locked: Path) -> Iterator[bool]:
    """Whether it is there and nobody uses it; where so, nobody begins to before the block ends. Raises OSError."""
    descriptor = _open(locked)
    if descriptor is None:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield _is(locked, descriptor)
    finally:
        os.close(descriptor)


def _open(locked: Path) -> int | None:
    try:
        return os.open(locked, os.O_RDWR if locked.is_file() else os.O_RDONLY)
    except FileNotFoundError:
        return None


def _is(locked: Path, descriptor: int) -> bool:
    """Whether what was opened is what lies there now."""
    try:
        return os.path.samestat(locked.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
