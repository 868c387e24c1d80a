"""How fast a session is, on the machine at hand."""

from __future__ import annotations

import statistics
import time

from modelrepo.tensors import Strict, Tensors
from runtime.session import Session

WARM_UP = 20
REPEATS = 200
SECONDS = 1.0  # a slow model is measured fewer times


class Latency(Strict):
    """Milliseconds for one batch: median, and the 10th and 90th percentile as its spread."""

    batch: int
    length: int | None
    median_ms: float
    p10_ms: float
    p90_ms: float
    repeats: int


def latency(session: Session, inputs: Tensors, length: int | None) -> Latency:
    """Time `inputs` again and again, after warming up."""
    for _ in range(WARM_UP):
        session.run(inputs)
    samples: list[float] = []
    end = time.perf_counter() + SECONDS
    while len(samples) < REPEATS and (len(samples) < 10 or time.perf_counter() < end):
        started = time.perf_counter()
        session.run(inputs)
        samples.append((time.perf_counter() - started) * 1e3)
    deciles = statistics.quantiles(samples, n=10)
    return Latency(
        batch=len(next(iter(inputs.values()))),
        length=length,
        median_ms=statistics.median(samples),
        p10_ms=deciles[0],
        p90_ms=deciles[-1],
        repeats=len(samples),
    )
