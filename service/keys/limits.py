"""How much a key may use: a rate with bursts, and requests at a time, over all workers of a service."""

from __future__ import annotations

import mmap
import os
import time
from array import array
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import TooManyRequests
from service.keys.file import Key

DUE = 0  # the slot with the time, by time.monotonic, at which requests taken so far are worked off at the key's rate
RUNNING = 1  # the first of the slots with requests under way, one slot for each worker


if TYPE_CHECKING:  # Python 3.11 has no memoryview of a type
    Numbers = array[float] | memoryview[float]


class OwnSlots:
    """Those of a service that is a single process."""

    number = 0

    def of(self, name: str) -> Numbers:
        """New ones: whoever asks keeps them."""
        return array("d", [0.0, 0.0])


class SharedSlots:
    """Those of several workers, in a file for each key that all of them map.

    There is no lock: `DUE` is read and written in two steps, so two workers may now and then let one request more through than the
    rate says. Requests under way each worker writes to a slot of its own; one that crashed clears its slot as it starts again.
    """

    def __init__(self, folder: Path, number: int, workers: int) -> None:
        self.number = number
        self._folder = folder
        self._bytes = 8 * (RUNNING + workers)

    def of(self, name: str) -> Numbers:
        """The key's numbers. On Linux time.monotonic is the same clock in all processes."""
        descriptor = os.open(self._folder / f"{name}.key", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, self._bytes)
            slots = memoryview(mmap.mmap(descriptor, self._bytes)).cast("d")
        finally:
            os.close(descriptor)
        slots[RUNNING + self.number] = 0.0
        return slots


class Limits:
    """The limits of a key, as a leaky bucket kept in one number (the generic cell rate algorithm of ATM)."""

    def __init__(self, key: Key, slots: Numbers, number: int) -> None:
        self._slots = slots
        self._mine = RUNNING + number
        self._alone = len(slots) == RUNNING + 1
        self.set(key)

    def set(self, key: Key) -> None:
        """Hold to these from now on; what has been used stays used."""
        self._name = key.name
        self._interval = 0.0 if key.rate is None else 1 / key.rate
        self._depth = 0.0 if key.rate is None else key.at_once / key.rate
        self._concurrency = key.concurrency

    def take(self) -> None:
        """A request comes. Raises TooManyRequests, with nothing taken."""
        slots = self._slots
        running = slots[self._mine]
        if self._concurrency is not None and (running if self._alone else sum(slots[RUNNING:])) >= self._concurrency:
            raise TooManyRequests("concurrency", f"key {self._name!r} has {self._concurrency} requests under way, its limit", 1)
        if self._interval:
            now = time.monotonic()
            before = slots[DUE]
            due = (before if before > now else now) + self._interval
            over = due - now - self._depth
            if over > 1e-9:
                rate = f"{1 / self._interval:g} requests a second, {self._depth / self._interval:.0f} at once"
                raise TooManyRequests("rate", f"key {self._name!r} has {rate}: wait {over:.3g} s", ceil(over))
            slots[DUE] = due
        slots[self._mine] = running + 1

    def end(self) -> None:
        """A request is over. One that began before the key had limits was not counted."""
        running = self._slots[self._mine]
        if running > 0:
            self._slots[self._mine] = running - 1

    def undo(self) -> None:
        """A request never was."""
        self.end()
        self._slots[DUE] -= self._interval
