"""explain.onnx of one version: opened when somebody first asks what happens inside, closed when nobody has asked for a while."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from modelrepo.manifest import Manifest
from modelrepo.repository import ModelVersion
from modelrepo.tensors import Array, Tensors
from runtime import goldens
from runtime.internals_session import InternalsSession
from runtime.session import SessionError
from service.errors import Refused, Unavailable, Unprocessable

log = logging.getLogger("quartet.explainer")

MOST_WAITING = 4  # requests of one version, with the one that runs
IDLE_SECONDS = 300.0
NICENESS = 10  # of the thread: what serves goes first


class Explainer:
    """Runs one request after the other in a thread of low priority, beside the sessions that serve. Belongs to the event loop."""

    def __init__(self, published: ModelVersion, golden_rows: tuple[Tensors, Tensors]) -> None:
        self._published = published
        self._goldens = golden_rows
        self._session: InternalsSession | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._idle: asyncio.TimerHandle | None = None

    async def explain(self, inputs: Mapping[str, Array], names: Sequence[str]) -> Tensors:
        """The model's outputs and the internals of these names, for complete and checked inputs of one batch.

        Raises Refused where enough is waiting, Unavailable where explain.onnx cannot be used, Unprocessable where it cannot compute
        these rows.
        """
        if self._waiting >= MOST_WAITING:
            raise Refused(f"{self._waiting} requests for internals of {self._published.name!r} are waiting: ask one at a time", 1)
        if self._idle is not None:
            self._idle.cancel()
        if self._thread is None:
            name = f"{self._published.name}-{self._published.version}-explain"
            self._thread = ThreadPoolExecutor(1, name, initializer=_step_back)
        loop = asyncio.get_running_loop()
        self._waiting += 1
        try:
            return await loop.run_in_executor(self._thread, self._run, inputs, names)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self._idle = loop.call_later(IDLE_SECONDS, self.close)

    def close(self) -> None:
        """Give back the session and its thread, until it is asked for again. Nobody waits for an answer by now."""
        if self._idle is not None:
            self._idle.cancel()
        session, self._session = self._session, None
        thread, self._thread = self._thread, None
        if thread is not None:
            if session is not None:
                thread.submit(session.close)  # memory is given back there, and not in the event loop
            thread.shutdown(wait=False)

    @property
    def is_open(self) -> bool:
        """Whether it holds a session, or is about to."""
        return self._thread is not None

    def _run(self, inputs: Mapping[str, Array], names: Sequence[str]) -> Tensors:
        if self._session is None:
            self._session = self._open()
        try:
            return self._session.explain(inputs, names)
        except SessionError as error:
            raise Unprocessable(f"the model cannot compute these rows: {str(error).splitlines()[0]}") from error

    def _open(self) -> InternalsSession:
        """A session that answers the golden rows. Raises Unavailable."""
        manifest = self._published.manifest
        assert manifest.internals is not None  # else nobody may ask
        path = self._published.path / manifest.internals.file.path
        try:
            session = InternalsSession(path, manifest.signature, manifest.internals.outputs)
            goldens.check(session, *self._goldens, _tolerance(manifest), manifest.task.unit)
        except SessionError as error:
            log.warning("%s cannot be used: %s", path, error)
            raise Unavailable(f"the internals of {self._published.name!r} cannot be had here: {error}") from error
        log.info("%s is open", path)
        return session


def _tolerance(manifest: Manifest) -> float:
    """How far golden rows may come out from PyTorch's: as far as those of the fp32 file on the CPU, which every version has."""
    plain = (c for c in manifest.candidates if c.artifact == manifest.onnx.file.path and c.device == "cpu")
    return max(candidate.golden_tolerance for candidate in plain)


def _step_back() -> None:
    """Let threads that serve have the cores first, where the system knows priorities of single threads."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
