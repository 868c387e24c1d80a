"""How long batches take: measured when the model was loaded, corrected by how long they take now."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from modelrepo.tensors import Signature


class Costs:
    """Seconds by rows and the bucket of their length, while nothing else ran; `slowness` is how much longer it takes now."""

    def __init__(self, signature: Signature, measured: Mapping[tuple[int, int | None], float], whole_buckets: bool = False) -> None:
        """`measured` holds some sizes: those between them take what lies between, or, with `whole_buckets`, as long as the next."""
        self.slowness = 1.0
        self._length = signature.length
        self._sizes = signature.batch.buckets if whole_buckets else ()
        self._buckets: dict[int, int] = {}
        self._seconds: dict[int | None, list[float]] = {}  # by rows, from 0 to those of the largest batch
        self._per_row: dict[int | None, float] = {}  # in the batch size that is best for it
        batch = signature.batch
        every = range(batch.max + 1)
        for bucket in {bucket for _, bucket in measured}:
            points = {rows: seconds for (rows, length), seconds in sorted(measured.items()) if length == bucket}
            if whole_buckets:
                self._seconds[bucket] = [points.get(batch.bucket(rows), math.inf) for rows in every]
            else:
                self._seconds[bucket] = np.interp(every, [*points], [*points.values()], right=math.inf).tolist()
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
        seconds = self._seconds.get(bucket)
        if seconds is None:
            return math.inf
        return seconds[rows] if rows < len(seconds) else seconds[-1]

    def worth(self, rows: int, bucket: int | None) -> int:
        """How many of so many rows that wait the next batch should take: fewer where filling it up to its bucket costs more than a
        smaller one that is full, and the rest after it.
        """
        full = max((size for size in self._sizes if size <= rows), default=rows)
        return full if rows * self.of(full, bucket) < full * self.of(rows, bucket) < math.inf else rows

    def share(self, rows: int, bucket: int | None) -> float:
        """What so many rows add to a full batch of their like."""
        return rows * self._per_row.get(bucket, 0.0)

    def took(self, expected: float, seconds: float) -> None:
        """A batch that should have taken `expected` took `seconds`."""
        if 0 < expected < math.inf:
            self.slowness += 0.1 * (seconds / expected - self.slowness)
