"""Several worker processes that serve the same models on the same port.

Each worker is a whole service of its own, with its own sessions; the kernel spreads connections over their sockets
(SO_REUSEPORT). What concerns all of them goes through `siblings.py`. This process only starts them, passes signals on, and starts
one again that crashed.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import tempfile
import time
from multiprocessing import connection, get_context
from multiprocessing.context import SpawnProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from types import FrameType

from runtime import cuda
from service.port import Address, address, reserve, reserve_rpc
from service.settings import Settings

log = logging.getLogger("quartet.supervisor")

RETRY_SECONDS = (1.0, 60.0)  # before a crashed worker is started again: the first time, and the most, doubling in between
STEADY_SECONDS = 60.0  # a worker that lived as long did not crash over its start


class Supervisor:
    """`run` returns when every worker has ended."""

    def __init__(self, chosen: Settings) -> None:
        self._settings = chosen
        self._context = get_context("spawn")
        self._workers: dict[int, SpawnProcess] = {}
        self._ready: dict[int, Event] = {}
        self._stopping = False
        self._devices = cuda.count()

    def run(self) -> int:
        """Start the workers and watch over them; 0 after a clean end, else a status of theirs. Raises SettingsError."""
        host, port = self._settings.host, self._settings.port
        temporary = tempfile.TemporaryDirectory(prefix="quartet-")
        with reserve(host, port) as reserved, reserve_rpc(self._settings) as rpc, temporary as folder:
            self._reserved, self._rpc, self._folder = reserved, address(rpc), Path(folder)
            for each in (signal.SIGTERM, signal.SIGINT):
                signal.signal(each, self._pass_on)
            for number in range(self._settings.workers):
                self._ready[number] = self._context.Event()
                self._start(number)
            return self._watch()

    def _start(self, number: int) -> None:
        with self._bind_same() as listener:
            arguments = (self._settings, listener, self._rpc, number, self._folder, self._ready[number])
            gpu = _gpu(number, self._devices)
            worker = self._context.Process(target=_begin, args=(gpu, *arguments), name=f"worker {number}")
            worker.start()
        self._workers[number] = worker

    def _bind_same(self) -> socket.socket:
        """A socket on the very port that is reserved, which may have been any free one."""
        reserved = self._reserved
        listener = socket.socket(reserved.family, reserved.type, reserved.proto)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(reserved.getsockname())
        return listener

    def _watch(self) -> int:
        status = 0
        pauses = dict.fromkeys(self._workers, RETRY_SECONDS[0])
        started = dict.fromkeys(self._workers, time.monotonic())
        first = set(self._workers)  # those that have not been started again
        while self._workers:
            ended = connection.wait([worker.sentinel for worker in self._workers.values()])
            for number, worker in list(self._workers.items()):
                if worker.sentinel not in ended:
                    continue
                worker.join()
                del self._workers[number]
                code = worker.exitcode or 0
                if self._stopping:
                    if code == -signal.SIGTERM and any(event.is_set() for event in self._ready.values()):
                        code = 0  # it was still starting, and had nothing to lose
                    status = status or (code if code >= 0 else 128 - code)  # as a shell has it
                elif number in first and not self._ready[number].is_set():
                    status = abs(code) or 1  # it could not start, and has said why
                    self._stop(signal.SIGTERM)
                else:
                    if time.monotonic() - started[number] > STEADY_SECONDS:
                        pauses[number] = RETRY_SECONDS[0]
                    log.error("worker %d ended with status %d: it is started again in %g s", number, code, pauses[number])
                    time.sleep(pauses[number])
                    pauses[number] = min(2 * pauses[number], RETRY_SECONDS[1])
                    started[number] = time.monotonic()
                    first.discard(number)
                    if not self._stopping:
                        self._start(number)
        return status

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._stop(number)

    def _stop(self, number: int) -> None:
        self._stopping = True
        for worker in self._workers.values():
            if worker.pid is not None and worker.is_alive():
                os.kill(worker.pid, number)


def _gpu(number: int, devices: int) -> str | None:
    """What a worker may see of several GPUs: one of them, in turn. None where it may see what this process does."""
    if devices < 2:
        return None
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(devices)))).split(",")
    return visible[number % len(visible)]


def _begin(
    gpu: str | None, chosen: Settings, listener: socket.socket, rpc: Address | None, number: int, folder: Path, ready: Event
) -> None:
    """In the worker, before anything looks for a GPU. A process group of its own, so that Ctrl-C reaches it once."""
    os.setpgrp()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    from service.server import work  # the supervisor itself needs none of it

    raise SystemExit(work(chosen, listener, rpc, number, folder, ready))
