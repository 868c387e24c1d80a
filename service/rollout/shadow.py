"""Copies of requests for a version that does not answer them yet, and what came of comparing."""

from __future__ import annotations

from collections.abc import Mapping

from modelrepo.errors import SignatureError
from modelrepo.tensors import Array, Tensors
from service.batch import Answer, Work
from service.errors import Refused, Unavailable
from service.model import ServedModel
from service.rollout.comparison import Comparison
from service.rollout.figures import Compared
from service.rollout.metrics import ShadowMetrics

LAST = 4  # priority
BATCHES = 2  # of the largest, which may wait for the candidate; beyond it copies are dropped


class Shadow:
    """A tap on the stable version: a share of what it answered is computed by the candidate, too, once the answer is on its way.

    A copy waits in the candidate's own queue, at the lowest priority. Of a request with more rows than one batch the first batch
    is compared.
    """

    def __init__(self, candidate: ServedModel, share: float, comparison: Comparison, metrics: ShadowMetrics) -> None:
        self.figures = Compared()
        self._candidate = candidate
        self._share = share
        self._comparison = comparison
        self._metrics = metrics
        self._due = 0.0
        self._closed = False

    def saw(self, inputs: Mapping[str, Array], answer: Answer, _request_id: str | None) -> None:
        """Perhaps copy it."""
        self._due += self._share
        if self._due < 1 or self._closed:
            return
        self._due -= 1
        self._copy(inputs, answer)

    def close(self) -> None:
        """Copy no more; what is under way is not compared."""
        self._closed = True

    def _copy(self, inputs: Mapping[str, Array], answer: Answer) -> None:
        candidate = self._candidate
        most = candidate.manifest.signature.batch.max
        rows = min(answer.stop - answer.start, most)
        if candidate.batcher.waiting_rows + rows > BATCHES * most:
            self._drop("full")
            return
        if rows < answer.stop - answer.start:
            inputs = {name: array[:rows] for name, array in inputs.items()}
        try:
            complete, rows, length = candidate.checked(inputs)
        except SignatureError:
            self._fail()
            return
        expected = {name: array[answer.start : answer.start + rows] for name, array in answer.ran.outputs.items()}
        try:
            candidate.batcher.offer(_Copy(self, expected), complete, rows, length, priority=LAST)
        except (Refused, Unavailable):
            self._drop("refused")

    def _drop(self, reason: str) -> None:
        self.figures += Compared(dropped=1)
        self._metrics.dropped(reason)

    def _fail(self) -> None:
        if not self._closed:
            self.figures += Compared(copies=1, failed=1)
            self._metrics.failed()

    def compare(self, expected: Tensors, outputs: Tensors) -> None:
        """The candidate computed a copy."""
        if self._closed:
            return
        found = self._comparison.compare(expected, outputs)
        self.figures += Compared(1, 0, 0, found.rows, found.differing, found.disagreeing, found.largest)
        self._metrics.compared(found)

    def failed(self) -> None:
        """It could not."""
        self._fail()


class _Copy:
    """What the candidate's batcher tells."""

    __slots__ = ("_expected", "_shadow")

    def __init__(self, shadow: Shadow, expected: Tensors) -> None:
        self._shadow = shadow
        self._expected = expected

    def answered(self, _work: Work, answer: Answer) -> None:
        self._shadow.compare(self._expected, answer.outputs)

    def failed(self, _work: Work, error: Exception) -> None:
        if not isinstance(error, Unavailable):  # its session is being replaced, or it leaves: no fault of the rows
            self._shadow.failed()
