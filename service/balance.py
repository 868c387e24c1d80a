"""New connections spread evenly over the workers of a service; the kernel spreads them by chance, be they few or many.

A worker that has more of them than another hands a new one over, before anything was read from it. What each has is in a file that
all of them map; every number in it is written by one worker only, so that there is no lock.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
from array import array
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("quartet")

FILE = "connections"


class Balance:
    """One worker's part in it, which is told of each of its connections as it is opened and closed."""

    def __init__(self, folder: Path, number: int, workers: int) -> None:
        self.number = number
        self._folder = folder
        self._all = range(workers)
        size = 8 * workers * (2 + workers)
        descriptor = os.open(folder / FILE, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(descriptor, size)
            numbers = memoryview(mmap.mmap(descriptor, size)).cast("q")
        finally:
            os.close(descriptor)
        self._open = numbers[:workers]  # connections of each worker
        self._taken = numbers[workers : 2 * workers]  # that it was handed so far
        self._given = [numbers[(2 + giver) * workers : (3 + giver) * workers] for giver in self._all]  # by one, to each
        self._open[number] = 0  # a worker before this one may have crashed
        self._taken[number] = sum(given[number] for given in self._given)
        self._socket: socket.socket | None = None
        self._adopting: set[asyncio.Task[None]] = set()

    def opened(self, adopted: bool = False) -> None:
        """A connection is this worker's from now on; one that is `adopted` was handed to it."""
        self._open[self.number] += 1
        self._taken[self.number] += adopted

    def closed(self) -> None:
        """One of its connections is gone."""
        self._open[self.number] -= 1

    def loads(self) -> list[int]:
        """The connections of each worker, with those on their way to it."""
        return [self._open[each] - self._taken[each] + sum([given[each] for given in self._given]) for each in self._all]

    def elsewhere(self, transport: asyncio.BaseTransport) -> bool:
        """Hand a new connection to the worker that has fewest, unless that is this one; whether it was, and is to be left alone."""
        loads = self.loads()
        least = min(loads)
        if self._socket is None or loads[self.number] <= least:
            return False
        other = loads.index(least)
        descriptor = array("i", [transport.get_extra_info("socket").fileno()])
        try:  # socket.send_fds would do, if it heeded the address
            self._socket.sendmsg([b"c"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)], 0, str(self._path(other)))
        except OSError:  # it has crashed, or is busy: the connection is served here
            return False
        self._given[self.number][other] += 1
        return True

    def listen(self, make: Callable[[], asyncio.Protocol]) -> None:
        """Take connections from the others from now on; `make` makes the protocol of one."""
        self._make, self._loop = make, asyncio.get_running_loop()
        self._path(self.number).unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self._path(self.number)))
        self._loop.add_reader(self._socket, self._take)

    def close(self) -> None:
        """Take what is on its way, and no more."""
        if self._socket is not None:
            self._take()
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _path(self, number: int) -> Path:
        return self._folder / f"{number}.{FILE}"

    def _take(self) -> None:
        assert self._socket is not None
        while True:
            try:
                _, descriptors, _, _ = socket.recv_fds(self._socket, 1, 1)
            except BlockingIOError:
                return
            for descriptor in descriptors:
                task = self._loop.create_task(self._adopt(socket.socket(fileno=descriptor)))
                self._adopting.add(task)
                task.add_done_callback(self._adopting.discard)

    async def _adopt(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._make, connection)
        except OSError as error:  # it broke on its way
            connection.close()
            self._taken[self.number] += 1
            log.debug("a connection could not be taken over: %s", error)
