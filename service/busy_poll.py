"""Staying awake for a moment after an answer, where one client asks again and again.

To put an event loop to sleep and to wake it up takes longer than a small model computes, and the processor's caches have forgotten
the interpreter by then. So while a process has a single connection, its loop looks for the next request for as long as that would
have cost anyway: it never spends more than twice what sleeping at once would have (competitive spinning: Karlin, Li, Manasse and
Owicki 1991). Where the next request mostly comes later than that, it sleeps at once.
"""

from __future__ import annotations

import asyncio
import time

SECONDS = 100e-6  # about what it costs to sleep and to be woken, caches included
MISSES = 8  # in a row, after which it is tried
EVERY = 64  # answers: once in so many


class BusyPoll:
    """Keeps the loop of one process awake. All methods belong to the event loop's thread."""

    def __init__(self) -> None:
        self._looking = False
        self._since = 0.0
        self._misses = 0
        self._skipped = 0

    def rest(self, loop: asyncio.AbstractEventLoop, now: float) -> None:
        """Nothing is under way since `now`, of `time.monotonic`: look for the next request for a moment."""
        self._since = now
        if self._looking:  # and it came
            self._misses = 0
            return
        if self._misses >= MISSES:
            self._skipped += 1
            if self._skipped < EVERY:
                return
            self._skipped = 0
        self._looking = True
        loop.call_soon(self._look, loop)

    def found(self) -> None:
        """A request came whose answer will take a while: its session may need this core."""
        if self._looking:
            self._looking = False
            self._misses = 0

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self._looking:
            return
        if time.monotonic() - self._since < SECONDS:
            loop.call_soon(self._look, loop)  # the loop polls its sockets in between, without waiting
        else:
            self._looking = False
            self._misses += 1
