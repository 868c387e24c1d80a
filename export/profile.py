"""How fast a session is, on the machine at hand: every batch and length bucket."""

from __future__ import annotations

import math
import statistics
import time

import numpy as np

from export.parity import take
from modelrepo.manifest import Cost
from modelrepo.tensors import Strict, Tensors
from runtime.session import Session, promised_shapes
from training.data.dataset import Split

WARM_UP = 2
WINDOW = 10  # runs
LEAST = 5  # runs, however slow
SPREAD = 0.05  # three windows whose medians lie as close together are stable
SECONDS = 0.1  # a bucket; what is not stable by then is reported with its spread


def costs(session: Session, holdout: Split) -> tuple[Cost, ...]:
    """The time of one run in every bucket that the signature promises, on held-out rows, smallest first."""
    found = []
    for batch, length in reversed(list(promised_shapes(session.signature))):
        inputs = take(session.signature, holdout, np.arange(batch) % len(holdout), length)
        found.append(_cost(session, inputs, batch, length))
    return tuple(found)


def speed(measured: tuple[Cost, ...]) -> float:
    """Milliseconds a run, the geometric mean over all buckets: what counts is by how much, not where."""
    return math.exp(statistics.fmean(math.log(max(cost.median_ms, 1e-6)) for cost in measured))


class Speed(Strict):
    """One batch size at the usual length: milliseconds a run (median, 10th and 90th percentile) and rows a second."""

    batch: int
    length: int | None
    median_ms: float
    p10_ms: float
    p90_ms: float

    @property
    def rows_per_second(self) -> float:
        """At the median."""
        return self.batch / self.median_ms * 1e3


def speeds(measured: tuple[Cost, ...], usual: int | None = None) -> tuple[Speed, ...]:
    """The costs of one length by batch: of the bucket that holds the `usual` length."""
    lengths = sorted({cost.length for cost in measured if cost.length is not None})
    length = next((found for found in lengths if usual is not None and found >= usual), lengths[-1] if lengths else None)
    return tuple(
        Speed(batch=cost.batch, length=cost.length, median_ms=cost.median_ms, p10_ms=cost.p10_ms, p90_ms=cost.p90_ms)
        for cost in measured
        if cost.length == length
    )


def _cost(session: Session, inputs: Tensors, batch: int, length: int | None) -> Cost:
    for _ in range(WARM_UP):
        session.run(inputs)
    samples: list[float] = []
    end = time.perf_counter() + SECONDS
    while not _stable(samples) and (len(samples) < LEAST or time.perf_counter() < end):
        started = time.perf_counter()
        session.run(inputs)
        samples.append((time.perf_counter() - started) * 1e3)
    deciles = statistics.quantiles(samples, n=10, method="inclusive")  # the other extrapolates, of few samples below 0
    return Cost(
        batch=batch,
        length=length,
        median_ms=statistics.median(samples),
        p10_ms=deciles[0],
        p90_ms=deciles[-1],
        repeats=len(samples),
    )


def _stable(samples: list[float]) -> bool:
    """Whether the last three windows agree."""
    if len(samples) < 3 * WINDOW or len(samples) % WINDOW:
        return False
    medians = [statistics.median(samples[-(window + 1) * WINDOW : len(samples) - window * WINDOW]) for window in range(3)]
    return max(medians) <= min(medians) * (1 + SPREAD)
