"""Work of which nobody knows how long it takes, in a thread that the process does not wait for when it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Thread
from typing import Any, TypeVar

T = TypeVar("T")


async def in_daemon(function: Callable[..., T], *arguments: Any) -> T:
    """What the function returns or raises. `asyncio.to_thread` would keep a process that is to end until it is through."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # who waited was cancelled
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # it returned that

    def run() -> None:
        result, raised = None, None
        try:
            result = function(*arguments)
        except BaseException as error:  # noqa: BLE001 - raised again where it is awaited
            raised = error
        try:
            loop.call_soon_threadsafe(settle, result, raised)
        except RuntimeError:  # the loop is closed: the process is ending, and nobody waits
            return

    Thread(target=run, name=function.__name__, daemon=True).start()
    return await future
