"""How late the event loop comes to what is due: what every request waits for while something else has the loop."""

from __future__ import annotations

import asyncio
import time

from service.tally import Distribution

PERIOD = 0.1  # seconds between two looks; uvloop's timers tick in milliseconds, so less than that says nothing


class Lag:
    """A timer of the running loop that notes by how many seconds it is late, from `start` to `stop`."""

    def __init__(self, seen: Distribution) -> None:
        self._seen = seen
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Look from now on."""
        self._wait(time.monotonic())

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, now: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(PERIOD, self._look, now + PERIOD)

    def _look(self, due: float) -> None:
        now = time.monotonic()
        self._seen.observe(max(0.0, now - due))
        self._wait(now)
