"""What waits for a session: in order, counted in rows and in the seconds they will take."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator
from operator import attrgetter

from service.batch import Work, form
from service.costs import Costs


class Backlog:
    """Works sorted by their `order`. `seconds` are those of one session, in batches as full as can be."""

    def __init__(self, limit: int, costs: Costs, apart: bool) -> None:
        """`limit` is the most rows of a batch; with `apart`, for sequences, lengths that do not go together run in turn."""
        self._limit = limit
        self._costs = costs
        self._apart = costs.smooth if apart else None
        self._works: list[Work] = []
        self.rows = 0
        self.seconds = 0.0

    def __len__(self) -> int:
        return len(self._works)

    def __iter__(self) -> Iterator[Work]:
        return iter(self._works)

    def add(self, work: Work) -> None:
        """Queue a work."""
        if not self._works or work.order >= self._works[-1].order:
            self._works.append(work)
        else:
            insort(self._works, work, key=attrgetter("order"))
        work.queued = True
        work.seconds = self._costs.share(work.rows, work.bucket)
        self.rows += work.rows
        self.seconds += work.seconds

    def remove(self, work: Work) -> None:
        """Take a work out that is not to run."""
        self._works.remove(work)
        work.queued = False
        self.rows -= work.rows
        self.seconds = self.seconds - work.seconds if self.rows else 0.0

    def take(self, now: float, most: int | None = None) -> list[Work]:
        """Take the next batch out, at most `most` rows unless its first work has more; none where all has expired by `now`."""
        limit = self._limit if most is None else min(most, self._limit)
        if self._works:
            limit = self._costs.worth(min(limit, self.rows), self._works[0].bucket)
        works = form(self._works, limit, now, self._apart)
        for work in works:
            self.rows -= work.rows
            self.seconds -= work.seconds
        if not self.rows:
            self.seconds = 0.0  # whatever was lost in rounding
        return works

    def ahead(self, order: float) -> float:
        """Seconds of the works that run before one of this order."""
        if not self._works or order >= self._works[-1].order:
            return self.seconds
        return sum(work.seconds for work in self._works if work.order <= order)
