"""Whether what arrives is still like what a model learnt from: a sample of its rows, counted beside the training rows.

How far two spreads over the same bins lie apart is told by the population stability index (Siddiqi 2006, Credit Risk Scorecards),
the sum of (seen - expected) ln(seen / expected) over the bins' shares: below 0.1 nothing, from 0.25 on a shift. It is the
divergence J of Kullback & Leibler (1951). Half a value is added to each bin (Krichevsky & Trofimov 1981), so that empty ones count
and do not make it endless.

A sample costs requests next to nothing, because most of the time nobody looks: the tap takes some rows, leaves the model's taps,
and comes back a little later, at random. Rows are counted in a thread.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from modelrepo.measures import Sample, measured, real_steps
from modelrepo.reference import Categories, Numbers, Reference
from modelrepo.tensors import Array, Signature
from service.batch import Answer
from service.metrics import MODEL, Metrics
from service.settings import Settings
from service.tally import Counter

if TYPE_CHECKING:  # a model has its drift
    from service.model import ServedModel

log = logging.getLogger("quartet.drift")

PAUSE = 0.1  # seconds between two looks, on average
FIRST_ROWS = 256  # looked at before the first pause
AT_ONCE = 256  # rows that are counted together
MOST_BYTES = 4 * 2**20  # of rows that are looked at in a second, and that are counted together
SLOTS = 12  # parts of the window, of which the oldest is dropped
LEAST_ROWS = 200  # of which an index says something: with fewer, chance alone may reach 0.25
SHOWN = 20  # features of a model in /metrics: those with the largest index

Part = tuple[Array, Array | None, Array]  # values and mask of the input, and the task's output


class Seen(NamedTuple):
    """Rows that were counted: `counts` holds the bins of every feature one after the other, int64.

    `outside` are rows with a value like none in training.
    """

    counts: Array
    rows: int
    outside: int

    def plus(self, other: Seen) -> Seen:
        """Both together."""
        return Seen(self.counts + other.counts, self.rows + other.rows, self.outside + other.outside)


class Bins:
    """The bins of all features of a reference, one after the other."""

    def __init__(self, reference: Reference) -> None:
        self.features: Sequence[Numbers | Categories] = (*reference.features, *reference.predictions)
        self._inputs = len(reference.features)
        self._tokens = reference.tokens
        sizes = [len(feature.counts) for feature in self.features]
        self.starts = np.cumsum([0, *sizes[:-1]])
        self.expected = np.concatenate([feature.counts for feature in self.features])
        self._feature_of = np.repeat(np.arange(len(sizes)), sizes)

    @property
    def none(self) -> Seen:
        """No rows."""
        return Seen(np.zeros_like(self.expected), 0, 0)

    def count(self, parts: Sequence[Part]) -> Seen:
        """Where the rows of requests fall."""
        output = np.concatenate([part[2] for part in parts])
        masked = [(values, mask) for values, mask, _ in parts if mask is not None]
        if masked:
            sample = Sample(*real_steps(masked), output, self._tokens)
        else:
            sample = Sample(np.concatenate([part[0] for part in parts]), None, output)
        outside = np.zeros(sample.rows, np.bool_)
        counts = np.zeros_like(self.expected)
        for number, (feature, start) in enumerate(zip(self.features, self.starts, strict=True)):
            values, rows = measured(feature, sample)
            place = feature.place(values)
            counts[start : start + len(feature.counts)] = np.bincount(place, minlength=len(feature.counts))
            if number < self._inputs:
                strange = feature.outside[place]
                outside[strange if rows is None else rows[strange]] = True
        return Seen(counts, sample.rows, int(outside.sum()))

    def index(self, counts: Array) -> Array:
        """The population stability index of every feature, [features]."""
        used = (counts + self.expected) > 0
        expected, seen = self._shares(self.expected, used), self._shares(counts, used)
        terms = np.where(used, (seen - expected) * np.log(np.where(used, seen, 1) / np.where(used, expected, 1)), 0)
        return np.add.reduceat(terms, self.starts)

    def _shares(self, counts: Array, used: Array) -> Array:
        smooth = np.where(used, counts + 0.5, 0)
        return smooth / np.add.reduceat(smooth, self.starts)[self._feature_of]


class Drift:
    """The sample of one version, of the last `window` seconds. Its methods belong to the event loop."""

    def __init__(self, model: ServedModel, reference: Reference, settings: Settings, counted: Callable[[Seen], None]) -> None:
        """`counted` is told of rows once they are."""
        self.bins = Bins(reference)
        self.rows = reference.rows
        self.window = settings.drift_window
        self._model = model
        self._counted = counted
        self._loop = asyncio.get_running_loop()
        signature = model.manifest.signature
        self._input, self._output = reference.input, model.manifest.task.output
        self._mask = None if signature.mask is None else signature.mask.name
        most = MOST_BYTES / _row_bytes(signature, reference.input)
        rate = min(settings.drift_rows, most)
        self._pause = max(PAUSE, 1 / rate)
        self._each = max(1, round(rate * self._pause))
        self._at_once = max(1, min(AT_ONCE, int(most)))
        self._left = min(FIRST_ROWS, self._at_once)
        self._parts: list[Part] = []
        self._waiting = 0
        self._counting: asyncio.Future[Seen] | None = None
        self._back: asyncio.TimerHandle | None = None
        self._slots: deque[tuple[int, Seen]] = deque()
        model.taps = (*model.taps, self)

    # Looking

    def saw(self, inputs: Mapping[str, Array], answer: Answer, request_id: str | None) -> None:
        """Take rows of a request, as many as are wanted yet."""
        rows = answer.stop - answer.start
        taken = min(rows, self._left)
        step = rows // taken
        start = 0 if taken == rows else random.randrange(rows - (taken - 1) * step)
        chosen = slice(start, start + (taken - 1) * step + 1, step)
        mask = None if self._mask is None else inputs[self._mask][chosen].copy()
        output = answer.ran.outputs[self._output][answer.start : answer.stop][chosen].copy()
        self._parts.append((inputs[self._input][chosen].copy(), mask, output))  # a copy, as the request's bytes should go
        self._waiting += taken
        self._left -= taken
        if not self._left:
            self._rest()
        if self._waiting >= self._at_once:
            self._count()

    def _rest(self) -> None:
        self._model.taps = tuple(tap for tap in self._model.taps if tap is not self)
        self._back = self._loop.call_later(random.uniform(0.5, 1.5) * self._pause, self._look)

    def _look(self) -> None:
        if self._counting is not None and self._waiting >= self._at_once:  # threads are busy with what matters more
            self._rest()
            return
        self._left = self._each
        self._model.taps = (*self._model.taps, self)

    def close(self) -> None:
        """Look no more."""
        if self._back is not None:
            self._back.cancel()
        self._model.taps = tuple(tap for tap in self._model.taps if tap is not self)

    # Counting

    def _count(self) -> None:
        """Count what has been taken, in a thread, unless one is at it."""
        if self._counting is None and self._parts:
            parts, self._parts, self._waiting = self._parts, [], 0
            self._counting = self._loop.run_in_executor(None, self.bins.count, parts)
            self._counting.add_done_callback(self._add)

    def _add(self, counting: asyncio.Future[Seen]) -> None:
        self._counting = None
        if counting.cancelled():
            return
        seen = counting.result()
        slot = self._slot()
        if self._slots and self._slots[-1][0] == slot:
            seen_before = self._slots.pop()[1]
            self._slots.append((slot, seen_before.plus(seen)))
        else:
            self._slots.append((slot, seen))
        self._counted(seen)

    def _slot(self) -> int:
        return int(monotonic() / self.window * SLOTS)

    # Telling

    async def settled(self) -> Seen:
        """What the window holds, the rows taken last included."""
        while self._parts or self._counting is not None:
            self._count()
            if self._counting is not None:
                await asyncio.wait([self._counting])
                await asyncio.sleep(0)  # `_add` is called
        return self.seen()

    def seen(self) -> Seen:
        """What the window holds; rows that wait to be counted will be there the next time."""
        self._count()
        first = self._slot() - SLOTS
        while self._slots and self._slots[0][0] <= first:
            self._slots.popleft()
        total = self.bins.none
        for _, part in self._slots:
            total = total.plus(part)
        return total


class Drifts(Collector):
    """The drift of every version that has a reference, as metrics."""

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        on = metrics.registry
        self._rows = Counter("quartet_drift_rows", "Rows looked at for drift", MODEL, registry=on)
        self._outside = Counter(
            "quartet_drift_outside_rows", "Rows of these with a value like none in the training rows", MODEL, registry=on
        )
        self._watched: dict[tuple[str, str], Drift] = {}
        on.register(self)

    def watch(self, model: ServedModel) -> None:
        """Look at a version from now on, if it says what it learnt from."""
        reference = model.manifest.reference
        if reference is None or not self._settings.drift_rows:
            return
        labels = (model.name, model.version)
        rows, outside = self._rows.labels(*labels), self._outside.labels(*labels)

        def counted(seen: Seen) -> None:
            rows.inc(seen.rows)
            outside.inc(seen.outside)

        self._watched[labels] = model.drift = Drift(model, reference, self._settings, counted)

    def leave(self, model: ServedModel) -> None:
        """A version answers no more."""
        drift = self._watched.pop((model.name, model.version), None)
        if drift is not None:
            drift.close()

    def close(self) -> None:
        """Nothing is left to do."""

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """For prometheus_client."""
        window = GaugeMetricFamily("quartet_drift_window_rows", "Rows that the indices are made from", labels=MODEL)
        largest = GaugeMetricFamily(
            "quartet_drift_psi_max", "Largest population stability index of a model's features", labels=MODEL
        )
        psi = GaugeMetricFamily(
            "quartet_drift_psi",
            "Population stability index against the training rows, of the features that have shifted most",
            labels=(*MODEL, "feature"),
        )
        for labels, drift in self._watched.items():
            seen = drift.seen()
            window.add_metric(labels, seen.rows)
            if seen.rows < LEAST_ROWS:
                continue
            index = drift.bins.index(seen.counts)
            for number in np.argsort(-index, kind="stable")[:SHOWN]:
                psi.add_metric((*labels, drift.bins.features[number].name), float(index[number]))
            largest.add_metric(labels, float(index.max()))
        yield from (window, largest, psi)


def _row_bytes(signature: Signature, name: str) -> int:
    """Of an input, at its greatest length."""
    spec = next(spec for spec in signature.inputs if spec.name == name)
    length = None if signature.length is None else signature.length.max
    return math.prod(spec.shape_at(1, length)) * spec.numpy_dtype.itemsize
