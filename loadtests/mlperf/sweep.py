"""Latency against offered load, from a tenth of saturation to beyond it, and what is left of it at three times saturation.

Arrivals are a Poisson process and do not wait for answers (`loadtests/client.py`), from two processes: one cannot send enough.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.figure import Figure

from loadtests.calls import Call
from loadtests.clients import Clients
from loadtests.mlperf.samples import Samples
from loadtests.report import Report
from loadtests.shapes import saturated

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1)
HIGH = 0.8  # of saturation: where the promise about p99 holds
OVERLOAD = 3.0
WORTH = 4.0  # milliseconds that a request takes alone: less, and the client rather than the server is measured
FEWEST_CALLERS, MOST_CALLERS = 4, 256


@dataclass(frozen=True)
class Point:
    """Requests sent at one rate. Latencies are those of right answers, in milliseconds, counted from the planned arrival."""

    share: float
    """Of saturation."""
    rate: float
    """Requests a second, offered."""
    goodput: float
    """Right answers a second, until the last of them."""
    p50_ms: float
    p99_ms: float
    refused: float
    """Share of the requests."""
    lost: int
    unsent: float
    """Share of the requests that were due and the client could not send."""
    late_ms: float
    """How long after it was due a request was sent, at worst: where that is long, it is the client that is measured."""

    @classmethod
    def of(cls, share: float, rate: float, report: Report) -> Point:
        """What a report says."""
        refused = len(report.refused) / max(1, report.sent)
        goodput = len(report.right) / report.seconds
        unsent = report.unsent / max(1, report.sent + report.unsent)
        latencies = report.right_ms(0.5), report.right_ms(0.99)
        return cls(share, rate, goodput, *latencies, refused, report.lost.total(), unsent, report.late * 1e3)


@dataclass(frozen=True)
class Sweep:
    """What was found for requests of `rows` rows of a model. Rates are in requests a second."""

    model: str
    rows: int
    saturation: float
    """Answered to callers who wait for their answers, however many more they become."""
    callers: int
    points: Sequence[Point]
    overload: Point

    @property
    def tail(self) -> float:
        """p99 over the median at 80 % of saturation."""
        high = next(point for point in self.points if point.share == HIGH)
        return high.p99_ms / high.p50_ms  # NaN over NaN where nothing was answered

    @property
    def kept(self) -> float:
        """Goodput at three times saturation, as a share of saturation."""
        return self.overload.goodput / self.saturation


async def sweep(clients: Clients, samples: Samples, rows: int | None, seconds: float, lost: Counter[str]) -> Sweep:
    """Find saturation, then send for so many seconds at each share of it. `rows` a request; None: as many as are worth a request.

    What is answered wrongly or not at all is added to `lost`, by reason.
    """
    if rows is None:
        rows = await rows_worth(clients, samples)
    calls = samples.calls(rows)
    saturation, callers = await find_saturation(clients, calls, seconds)
    points = []
    for share in (*SHARES, OVERLOAD):
        report = await clients.load(calls, share * saturation, seconds)
        lost.update(report.lost)
        points.append(Point.of(share, share * saturation, report))
    return Sweep(samples.model, rows, saturation, callers, points[:-1], points[-1])


async def rows_worth(clients: Clients, samples: Samples) -> int:
    """The fewest rows, a power of two up to the largest batch, that take some milliseconds in one request."""
    rows = 1
    while True:
        report = await clients.closed(samples.calls(rows), 1, 0.5)
        if report.right and median(report.right) * 1e3 >= WORTH:
            return rows
        if 2 * rows > samples.max_batch:
            return rows
        rows *= 2


async def find_saturation(clients: Clients, calls: Sequence[Call], seconds: float) -> tuple[float, int]:
    """Requests a second that are answered however many more callers wait, and how many callers it takes."""
    rates: list[float] = []
    callers = FEWEST_CALLERS
    while True:
        report = await clients.closed(calls, callers, seconds)
        rates.append(len(report.right) / report.seconds)
        if saturated(rates) or callers >= MOST_CALLERS:
            best = max(range(len(rates)), key=rates.__getitem__)
            return rates[best], FEWEST_CALLERS * 2**best
        callers *= 2


def draw(found: Sequence[Sweep], path: Path) -> None:
    """p50 and p99 against the offered share of saturation, a panel for each model."""
    figure = Figure(figsize=(5 * len(found), 4), layout="constrained")
    for axes, sweep in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        rates = [point.rate for point in sweep.points]
        for label, values in (
            ("p99", [point.p99_ms for point in sweep.points]),
            ("median", [point.p50_ms for point in sweep.points]),
        ):
            axes.plot(rates, values, marker="o", label=label)
        axes.axvline(sweep.saturation, color="grey", linestyle="--", label="saturation")
        axes.set(
            title=f"{sweep.model}, {sweep.rows} {'row' if sweep.rows == 1 else 'rows'} a request",
            xlabel="offered load, requests/s",
            ylabel="latency of right answers, ms",
            yscale="log",
        )
        axes.legend()
    figure.savefig(path)


def summary(found: Sweep) -> dict[str, Any]:
    """For JSON."""
    return {
        "model": found.model,
        "rows": found.rows,
        "saturation": found.saturation,
        "callers": found.callers,
        "points": [_finite(vars(point)) for point in found.points],
        "overload": _finite(vars(found.overload)),
        **_finite({"p99_over_median_at_80_percent": found.tail, "goodput_at_3x": found.kept}),
    }


def _finite(figures: Mapping[str, float]) -> dict[str, float | None]:
    """JSON has no NaN, which is the latency of answers that there were none of."""
    return {name: figure if math.isfinite(figure) else None for name, figure in figures.items()}
