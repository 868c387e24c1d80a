"""What comes again and again, in a dictionary that stays small."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Remembered(dict[K, V]):
    """At most so many entries."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def remember(self, key: K, value: V) -> None:
        """Keep it. All else is forgotten where there is no more room: what is still in use comes back at once."""
        if len(self) >= self._most:
            self.clear()
        self[key] = value
