"""What became of the requests that were sent."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np


@dataclass
class Report:
    """Counts and seconds. Every request that was sent ends up in exactly one of `right`, `refused` and `lost`."""

    sent: int = 0
    right: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    """Of the refusals."""
    lost: Counter[str] = field(default_factory=Counter)
    """By reason."""
    versions: Counter[str] = field(default_factory=Counter)
    """Of the right answers: `model:version`."""
    unsent: int = 0
    """Requests that were due and not sent, as too many were under way."""
    late: float = 0.0
    """Seconds that a request was sent after it was due, at worst: what the client, and not the server, took."""
    seconds: float = 0.0
    """From the first request to the last answer, where that was measured."""

    def record(self, model: str, verdict: tuple[str, str], seconds: float) -> None:
        """Take down what became of one request, and after how long."""
        kind, detail = verdict
        if kind == "right":
            self.right.append(seconds)
            self.versions[f"{model}:{detail}"] += 1
        elif kind == "refused":
            self.refused.append(seconds)
            self.statuses[detail] += 1
        else:
            self.lost[detail] += 1

    def __add__(self, other: Report) -> Report:
        return Report(
            self.sent + other.sent,
            self.right + other.right,
            self.refused + other.refused,
            self.statuses + other.statuses,
            self.lost + other.lost,
            self.versions + other.versions,
            self.unsent + other.unsent,
            max(self.late, other.late),
            max(self.seconds, other.seconds),
        )

    def right_ms(self, quantile: float) -> float:
        """A quantile of the right answers' times, in milliseconds; NaN without any."""
        return _ms(self.right, quantile)

    def refused_ms(self, quantile: float) -> float:
        """A quantile of the refusals' times, in milliseconds; NaN without any."""
        return _ms(self.refused, quantile)


def _ms(seconds: list[float], quantile: float) -> float:
    return float(np.quantile(seconds, quantile)) * 1e3 if seconds else float("nan")
