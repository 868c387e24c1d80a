"""How long batches take: measured when the model was loaded, corrected by how long they take now."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from modelrepo.tensors import Signature

OVERHEAD = 200e-6  # seconds of a batch besides its session's: to form it, to hand it to a thread and back, to share it out
NEAR = 1.02  # times the least that rows can take: as good, and the first of them are answered sooner


class Costs:
    """Seconds by rows and the bucket of their length, while nothing else ran; `slowness` is how much longer it takes now."""

    def __init__(self, signature: Signature, measured: Mapping[tuple[int, int | None], float], whole_buckets: bool = False) -> None:
        """`measured` holds some sizes: those between them take what lies between, or, with `whole_buckets`, as long as the next."""
        self.slowness = 1.0
        self._length = signature.length
        self._buckets: dict[int, int] = {}
        self._seconds: dict[int | None, list[float]] = {}  # by rows, from 0 to those of the largest batch
        self._smooth: dict[int | None, list[float]] = {}  # the same without steps
        self._worth: dict[int | None, list[int]] = {}
        self._per_row: dict[int | None, float] = {}  # in the batch size that is best for it
        batch = signature.batch
        every = range(batch.max + 1)
        for bucket in {bucket for _, bucket in measured}:
            points = {rows: seconds for (rows, length), seconds in sorted(measured.items()) if length == bucket}
            smooth = np.interp(every, [*points], [*points.values()], right=math.inf).tolist()
            steps = [points.get(batch.bucket(rows), math.inf) for rows in every]
            self._smooth[bucket] = smooth
            self._seconds[bucket] = steps if whole_buckets else smooth
            self._worth[bucket] = _worth(self._seconds[bucket])
            self._per_row[bucket] = min(seconds / rows for rows, seconds in points.items())

    def bucket(self, length: int | None) -> int | None:
        """The bucket of a length that the model takes; None without sequences."""
        if length is None or self._length is None:
            return None
        found = self._buckets.get(length)
        if found is None:
            found = self._buckets[length] = self._length.bucket(length)
        return found

    def of(self, rows: int, bucket: int | None) -> float:
        """Of a batch; forever where nothing was measured. Rows beyond the largest batch do not count."""
        return _at(self._seconds, rows, bucket)

    def smooth(self, rows: int, bucket: int | None) -> float:
        """The same where more rows are to come, which will fill a bucket up."""
        return _at(self._smooth, rows, bucket)

    def worth(self, rows: int, bucket: int | None) -> int:
        """How many of so many rows that wait the next batch should have, so that all are done soonest: long sequences are too much
        for a cache in large batches, and a bucket that is hardly begun is not worth filling up.
        """
        found = self._worth.get(bucket)
        return rows if found is None else found[min(rows, len(found) - 1)]

    def parts(self, rows: int, bucket: int | None) -> list[int]:
        """So many rows, no more than the largest batch holds, in as many batches as take the least time."""
        found: list[int] = []
        while (left := rows - sum(found)) > 0:
            found.append(self.worth(left, bucket))
        apart = sum(self.of(size, bucket) + OVERHEAD for size in found)
        return found if apart < self.of(rows, bucket) + OVERHEAD else [rows]

    def share(self, rows: int, bucket: int | None) -> float:
        """What so many rows add to a full batch of their like."""
        return rows * self._per_row.get(bucket, 0.0)

    def took(self, expected: float, seconds: float) -> None:
        """A batch that should have taken `expected` took `seconds`."""
        if 0 < expected < math.inf:
            self.slowness += 0.1 * (seconds / expected - self.slowness)


def _at(table: Mapping[int | None, list[float]], rows: int, bucket: int | None) -> float:
    seconds = table.get(bucket)
    if seconds is None:
        return math.inf
    return seconds[rows] if rows < len(seconds) else seconds[-1]


def _worth(seconds: list[float]) -> list[int]:
    """For each number of rows, how many of them the first batch should have.

    The smallest of those with which both a row, and all rows in the best batches after it, take about the least time that they can.
    """
    batch = np.array(seconds) + OVERHEAD
    sizes = np.arange(1, len(seconds))
    a_row = batch[1:] / sizes
    total = np.zeros(len(seconds))
    found = [0]
    for rows in sizes:
        totals = batch[1 : rows + 1] + total[rows - 1 :: -1]
        total[rows] = totals.min()
        good = (a_row[:rows] <= NEAR * a_row[:rows].min()) & (totals <= NEAR * total[rows])
        found.append(1 + int(good.argmax() if good.any() else totals.argmin()))
    return found
