"""Files that may be replaced while the service runs."""

from __future__ import annotations

from pathlib import Path

Look = tuple[int, int, int, int] | None


class Watched:
    """Some files, as they looked the last time. Links are followed, as a volume of Kubernetes swaps one to change all its files."""

    def __init__(self, *paths: Path) -> None:
        self._paths = paths
        self._seen = self._look()

    def changed(self) -> bool:
        """Whether any looks different from the last time it was asked."""
        now = self._look()
        if now == self._seen:
            return False
        self._seen = now
        return True

    def _look(self) -> list[Look]:
        return [_of(path) for path in self._paths]


def _of(path: Path) -> Look:
    try:
        found = path.stat()
    except OSError:  # gone, for the moment or for good: whoever reads it says so
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size
