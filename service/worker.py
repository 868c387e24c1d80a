"""A session and the thread that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

from modelrepo.tensors import Tensors
from runtime.session import Session

T = TypeVar("T")


class Worker:
    """One session with a thread of its own, which a batch may also pass by: `session.run` in the caller's thread.

    A daemon: a session that hangs for good must not keep the process from ending. The thread closes the session.
    """

    def __init__(self, session: Session, check: Callable[[Session], None], name: str) -> None:
        """`check` runs golden rows through the session and raises SessionError where it is no longer itself."""
        self.session = session
        self._check = check
        self._jobs: SimpleQueue[tuple[Callable[[], Any], asyncio.AbstractEventLoop, Callable[[Any], None]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    def run(self, inputs: Tensors) -> Tensors:
        """Run one batch, in whatever thread calls."""
        return self.session.run(inputs)

    def check(self) -> Exception | None:
        """What is wrong with the session itself, if anything."""
        try:
            self._check(self.session)
        except Exception as error:  # noqa: BLE001 - backends raise what they like
            return error
        return None

    def start(self, job: Callable[[], T], loop: asyncio.AbstractEventLoop, done: Callable[[T], None]) -> None:
        """Run `job`, which must not raise, in the thread, then `done` with its result in the event loop."""
        self._jobs.put((job, loop, done))

    def close(self) -> None:
        """Close the session after what was started, without waiting for it."""
        self._jobs.put(None)

    def join(self) -> None:
        """Wait until the session is closed."""
        self._thread.join()

    def _work(self) -> None:
        for job, loop, done in iter(self._jobs.get, None):
            result = job()
            try:
                loop.call_soon_threadsafe(done, result)
            except RuntimeError:  # the loop is closed: the process is ending, and nobody waits
                break
        self.session.close()
