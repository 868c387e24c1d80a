"""What one worker asks of the others, over HTTP on Unix sockets: one caller's request reaches one worker only.

Scrapes and statistics are added up, loading and unloading is done by all, and the service is ready when every worker is that takes
connections. A worker that has crashed takes none, and is not missed.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec
from fastapi import Request

from service.errors import Unavailable
from service.keys.limits import OwnSlots, SharedSlots

ASKED_BY_SIBLING = "quartet-sibling"
"""The header of such requests, which are not passed on again."""
SECONDS = 5.0  # for an answer from memory


class SiblingFailed(Unavailable):
    """A worker took the question and gave no answer."""


@dataclass(frozen=True)
class Reply:
    """What a sibling said."""

    status: int
    body: bytes

    @property
    def error(self) -> str:
        """The message of an error, which has the form of every error here."""
        return str(msgspec.json.decode(self.body)["error"])


class Siblings:
    """The other workers of a service; none where it is a single process."""

    def __init__(self, folder: Path | None = None, number: int = 0, workers: int = 1) -> None:
        self.number = number
        self.folder = folder
        self._workers = workers
        self._others = [] if folder is None else [socket_of(folder, other) for other in range(workers) if other != number]

    def slots(self) -> OwnSlots | SharedSlots:
        """Where the use of keys is counted, by all of them together."""
        return OwnSlots() if self.folder is None else SharedSlots(self.folder, self.number, self._workers)

    async def repeat(self, request: Request, timeout: float | None = SECONDS) -> list[Reply]:
        """The answers of all that can be reached to the same request, unless one of them asks it.

        Raises SiblingFailed where one breaks off, or does not answer in `timeout` seconds.
        """
        if not self._others or ASKED_BY_SIBLING in request.headers:
            return []
        return await self.ask(request.method, request.url.path, await request.body(), timeout)

    async def ask(self, method: str, path: str, body: bytes = b"", timeout: float | None = SECONDS) -> list[Reply]:
        """The answers of all that can be reached. Raises SiblingFailed as `repeat` does."""
        asked = (_ask(other, method, path, body, timeout) for other in self._others)
        replies = await asyncio.gather(*asked)
        return [reply for reply in replies if reply is not None]


def socket_of(folder: Path, number: int) -> Path:
    """Where a worker listens for its siblings."""
    return folder / f"{number}.sock"


async def _ask(other: Path, method: str, path: str, body: bytes, timeout: float | None) -> Reply | None:
    try:
        async with asyncio.timeout(timeout):
            try:
                reader, writer = await asyncio.open_unix_connection(other)
            except OSError:  # it is not there: not yet, or not any more
                return None
            try:
                head = f"{method} {path} HTTP/1.1\r\nhost: sibling\r\nconnection: close\r\n{ASKED_BY_SIBLING}: 1\r\n"
                writer.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
                status = await reader.readline()
                while await reader.readline() not in (b"\r\n", b""):
                    pass
                return Reply(int(status.split()[1]), await reader.read())
            finally:
                writer.close()
    except (OSError, IndexError, ValueError, TimeoutError) as error:
        raise SiblingFailed(f"worker {other.stem} gave no answer to {method} {path} ({error or 'not in time'})") from None
