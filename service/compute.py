"""Running a batch on a session: merge, run, split, and find out who is to blame where that fails. In any thread."""

from __future__ import annotations

import logging
import time
from typing import NamedTuple

from modelrepo.tensors import Signature
from service.batch import Ran, Work, merge, split
from service.errors import Unprocessable
from service.worker import Worker

log = logging.getLogger("quartet.compute")


class Outcome(NamedTuple):
    """What became of a batch of `size` rows: for each work the run that holds its rows and where they begin, or its error; seconds.

    `lost` is what is wrong with the session itself; the errors are its fault then, and not the works'.
    """

    answers: list[tuple[Ran, int] | Exception]
    size: int
    merging: float
    computing: float
    lost: Exception | None = None


def compute(worker: Worker, signature: Signature, works: list[Work], rows: int, whole_buckets: bool) -> Outcome:
    """Run works, of so many rows together, as one batch; if it fails, halve it until only the work at fault gets the error.

    With `whole_buckets` the batch is filled up to its bucket.
    """
    started = time.perf_counter()
    size = signature.batch.bucket(rows) if whole_buckets else rows
    inputs = merge(signature, works, size - rows)
    merged = time.perf_counter()
    try:
        outputs = worker.run(inputs)
    except Exception as error:  # noqa: BLE001 - whatever the backend raises belongs to these callers, not to the loop
        if len(works) == 1:
            return _judged(worker, rows, error)
        middle = len(works) // 2
        share = sum(work.rows for work in works[:middle])
        first = compute(worker, signature, works[:middle], share, whole_buckets)
        if first.lost is not None:
            return first._replace(answers=[*first.answers, *(error for _ in works[middle:])], size=size)
        second = compute(worker, signature, works[middle:], rows - share, whole_buckets)
        seconds = (first.merging + second.merging, first.computing + second.computing)
        return Outcome([*first.answers, *second.answers], size, *seconds, second.lost)
    computed = time.perf_counter()
    return Outcome([*split(Ran(outputs), works)], size, merged - started, computed - merged)


def _judged(worker: Worker, rows: int, error: Exception) -> Outcome:
    """Whose fault it is that a work failed alone: golden rows tell whether the session is still itself."""
    lost = worker.check()
    if lost is None:
        log.warning("a request of %d rows failed: %s", rows, error)
        reason = str(error).splitlines()[0] if str(error) else repr(error)
        error = Unprocessable(f"the model cannot compute these rows: {reason}")
    return Outcome([error], rows, 0.0, 0.0, lost)
