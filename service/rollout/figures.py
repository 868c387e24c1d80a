"""What two versions did side by side, as plain numbers that add up over workers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from msgspec import Struct

from service.metrics import SECONDS


class Answered(Struct, frozen=True):
    """Requests that a version answered. `seconds` are those of the `requests - failed` that it answered well.

    `buckets` count all of them by their seconds: how many were at most each bound of `quartet_request_seconds`, and no less than
    the one before.
    """

    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    buckets: tuple[int, ...] = (0,) * (len(SECONDS) + 1)

    def __add__(self, other: Answered) -> Answered:
        return self._with(other, 1)

    def __sub__(self, other: Answered) -> Answered:
        return self._with(other, -1)

    def _with(self, other: Answered, sign: int) -> Answered:
        return Answered(
            self.requests + sign * other.requests,
            self.failed + sign * other.failed,
            self.seconds + sign * other.seconds,
            tuple(mine + sign * theirs for mine, theirs in zip(self.buckets, other.buckets, strict=True)),
        )

    @property
    def error_share(self) -> float:
        """Of all requests, those that failed; 0 without any."""
        return self.failed / self.requests if self.requests else 0.0

    @property
    def mean(self) -> float | None:
        """Seconds of those that went well."""
        well = self.requests - self.failed
        return self.seconds / well if well else None

    @property
    def p99(self) -> float | None:
        """Seconds within which 99 of 100 were answered, as Prometheus estimates it."""
        return quantile(0.99, SECONDS, self.buckets)


class Compared(Struct, frozen=True):
    """Copies of requests that the candidate had, and the rows that were compared. `dropped` are copies it had no room for."""

    copies: int = 0
    failed: int = 0
    dropped: int = 0
    rows: int = 0
    differing: int = 0
    disagreeing: int = 0
    largest: float = 0.0

    def __add__(self, other: Compared) -> Compared:
        return self._with(other, 1)

    def __sub__(self, other: Compared) -> Compared:
        return self._with(other, -1)

    def _with(self, other: Compared, sign: int) -> Compared:
        """`largest` is not a count: of both, whichever is larger."""
        counts = {name: getattr(self, name) + sign * getattr(other, name) for name in self.__struct_fields__ if name != "largest"}
        return Compared(**counts, largest=max(self.largest, other.largest))


class Figures(Struct, frozen=True):
    """Both versions since the stage began, and the stable one since it was loaded."""

    stable: Answered = Answered()
    candidate: Answered = Answered()
    compared: Compared = Compared()
    history: Answered = Answered()

    def __add__(self, other: Figures) -> Figures:
        return Figures(*(getattr(self, name) + getattr(other, name) for name in self.__struct_fields__))

    def since(self, before: Figures) -> Figures | None:
        """What came after `before`, with the whole `history`; None where a worker has started again, and its counts are gone."""
        found = Figures(
            self.stable - before.stable, self.candidate - before.candidate, self.compared - before.compared, self.history
        )
        counts = (found.stable.requests, found.stable.failed, found.candidate.requests, found.candidate.failed)
        gone = min(*counts, found.compared.copies, found.compared.failed, found.compared.rows, found.compared.disagreeing) < 0
        return None if gone else found


class Report(Struct, frozen=True):
    """What one worker knows of a rollout: how far it has followed, whether it has the candidate, and what is wrong with it."""

    seq: int
    loaded: bool
    fault: str | None
    figures: Figures


def quantile(share: float, bounds: Sequence[float], buckets: Sequence[int]) -> float | None:
    """Of a histogram, linear within a bucket, as Prometheus' `histogram_quantile`; beyond the last bound, that. None when empty."""
    total = sum(buckets)
    if not total:
        return None
    ranks = []
    seen = 0
    for count in buckets:
        seen += count
        ranks.append(seen)
    rank = share * total
    at = bisect_left(ranks, rank)
    if at >= len(bounds):
        return bounds[-1]
    low = bounds[at - 1] if at else 0.0
    before = ranks[at - 1] if at else 0
    return low + (bounds[at] - low) * (rank - before) / buckets[at]
