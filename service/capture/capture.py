"""The sample: which requests are kept, and the thread that writes them.

A request waits for none of it: what finds the queue full is dropped, and so is what the disk does not take; both are counted.
Nothing of what callers sent is ever logged.
"""

from __future__ import annotations

import io
import logging
import math
import queue
import random
import threading
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelrepo.tensors import Array
from service.batch import Answer
from service.capture.files import Files
from service.capture.form import Form, Kept
from service.metrics import MODEL, Metrics
from service.settings import Settings, SettingsError
from service.tally import Count, Counter

if TYPE_CHECKING:
    from service.model import ServedModel

log = logging.getLogger("quartet.capture")

MOST_BYTES = 64 * 2**20  # in memory, of all models: what is beyond is dropped
FILE_BYTES = 16 * 2**20  # of rows in memory that make a file
OVERHEAD = 500  # bytes of a request besides its numbers
ID_CHARACTERS = 256  # of what a caller calls its request
JOIN_SECONDS = 4.0  # for the last files, when the server ends


@dataclass(eq=False)
class Taken:
    """The requests of one version that are not in a file yet. All but its counts belong to the writing thread."""

    name: str
    version: str
    form: Form
    captured: Count
    dropped: Mapping[str, Count]
    kept: list[Kept] = field(default_factory=list)
    bytes: int = 0
    since: float = math.inf

    def empty(self) -> None:
        """Begin a new file."""
        self.kept, self.bytes, self.since = [], 0, math.inf


class Sampler:
    """The tap of one version: keeps each request with the same chance, whatever the others do."""

    def __init__(self, capture: Capture, taken: Taken, output: str, share: float) -> None:
        self._capture = capture
        self._taken = taken
        self._output = output
        self._never = math.log1p(-share) if share < 1 else -math.inf
        self._skip = self._draw()

    def _draw(self) -> int:
        """Requests until the next one that is kept."""
        return 1 + int(math.log(1 - random.random()) / self._never)

    def saw(self, inputs: Mapping[str, Array], answer: Answer, request_id: str | None) -> None:
        """Keep it, or not."""
        self._skip -= 1
        if self._skip:
            return
        self._skip = self._draw()
        output = answer.ran.outputs[self._output][answer.start : answer.stop]
        size = sum(array.nbytes for array in inputs.values()) + output.nbytes + OVERHEAD
        if not self._capture.has_room(size):
            self._taken.dropped["queue"].inc(len(output))
            return
        given = None if request_id is None else request_id[:ID_CHARACTERS]
        copied = {name: array.copy() for name, array in inputs.items()}  # what they are views of may be larger
        self._capture.put(self._taken, Kept(time.time_ns() // 1000, given, copied, output.copy(), size))

    def close(self) -> None:
        """Nothing more comes."""


class Capture:
    """The sample of all versions that one process serves."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Raises SettingsError where nothing can be written to the folder."""
        assert settings.capture is not None
        self._settings = settings
        try:
            self._files = Files(settings.capture, settings.capture_bytes)
        except OSError as error:
            raise SettingsError(f"--capture {str(settings.capture)!r} cannot be written to: {error.strerror}") from None
        self._file_bytes = min(FILE_BYTES, settings.capture_bytes // 8)
        on = metrics.registry
        self._captured = Counter("quartet_captured_rows", "Rows kept in files", MODEL, registry=on)
        self._dropped = Counter(
            "quartet_capture_dropped_rows",
            "Rows that were to be kept: too many at once (queue), or not taken by the disk (disk)",
            (*MODEL, "reason"),
            registry=on,
        )
        self._models: dict[tuple[str, str], tuple[ServedModel, Taken]] = {}
        self._queue: queue.SimpleQueue[tuple[Taken, Kept | None] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._held = 0  # bytes in the queue and not in a file yet
        self._failing = False
        self._thread = threading.Thread(
            target=self._write, name="capture", daemon=True
        )  # a disk that hangs must not keep the process
        self._thread.start()
        log.info("%g %% of the requests are kept in %s", settings.capture_share * 100, settings.capture)

    # In the event loop

    def watch(self, model: ServedModel) -> None:
        """Keep some of a version's requests from now on."""
        labels = (model.name, model.version)
        dropped = {reason: self._dropped.labels(*labels, reason) for reason in ("queue", "disk")}
        form = Form(model.manifest, model.reader, model.version)
        taken = Taken(*labels, form, self._captured.labels(*labels), dropped)
        self._models[labels] = (model, taken)
        model.taps = (*model.taps, Sampler(self, taken, model.manifest.task.output, self._settings.capture_share))

    def leave(self, model: ServedModel) -> None:
        """Write what there is of a version."""
        _, taken = self._models.pop((model.name, model.version))
        self._queue.put((taken, None))

    def has_room(self, size: int) -> bool:
        """Whether as many bytes more may wait; then they are counted."""
        with self._lock:
            fits = self._held + size <= MOST_BYTES
            self._held += size * fits
        return fits

    def put(self, taken: Taken, kept: Kept) -> None:
        """Hand a request, for which there was room, to the thread."""
        self._queue.put((taken, kept))

    def close(self) -> None:
        """Write what there is; not in the event loop."""
        self._queue.put(None)
        self._thread.join(JOIN_SECONDS)
        if self._thread.is_alive():
            log.error("the last requests that were to be kept are lost: %s takes nothing", self._settings.capture)

    # In the thread

    def _write(self) -> None:
        open_: set[Taken] = set()
        while True:
            due = min((taken.since for taken in open_), default=math.inf) + self._settings.capture_seconds - time.monotonic()
            try:
                given = self._queue.get(timeout=None if due == math.inf else max(0, due))
            except queue.Empty:
                given = None
                finished = {taken for taken in open_ if time.monotonic() - taken.since >= self._settings.capture_seconds}
            else:
                if given is None:
                    break
                taken, kept = given
                finished = {taken} if kept is None else set()
                if kept is not None:
                    taken.kept.append(kept)
                    taken.bytes += kept.bytes
                    taken.since = min(taken.since, time.monotonic())
                    open_.add(taken)
                    if taken.bytes >= self._file_bytes:
                        finished = {taken}
            for each in finished:
                self._finish(each)
                open_.discard(each)
        for each in open_:
            self._finish(each)

    def _finish(self, taken: Taken) -> None:
        """Write a file of what was taken of a version."""
        if not taken.kept:
            return
        rows = sum(len(kept.output) for kept in taken.kept)
        try:
            content = io.BytesIO()
            taken.form.table(taken.kept).write_parquet(content)
            self._files.add(taken.name, taken.version, content.getvalue())
        except Exception as error:  # noqa: BLE001  # whatever it is, requests go on; its message may hold what callers sent
            taken.dropped["disk"].inc(rows)
            if not self._failing:
                why = error.strerror if isinstance(error, OSError) else _without_message(error)
                log.error("requests are not kept in %s until it takes them again: %s", self._settings.capture, why)
            self._failing = True
        else:
            taken.captured.inc(rows)
            if self._failing:
                log.info("%s takes requests again", self._settings.capture)
            self._failing = False
        finally:
            with self._lock:
                self._held -= taken.bytes
            taken.empty()


def _without_message(error: Exception) -> str:
    """Where an error was raised, and its kind."""
    return "".join([type(error).__name__, "\n", *traceback.format_tb(error.__traceback__)])
