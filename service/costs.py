"""How long batches take: measured when the model was loaded, corrected by how long they take now."""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelrepo.tensors import Signature


class Costs:
    """Seconds by the buckets of rows and length, while nothing else ran; `slowness` is how much longer it takes now."""

    def __init__(self, signature: Signature, measured: Mapping[tuple[int, int | None], float]) -> None:
        self.slowness = 1.0
        self._length = signature.length
        self._measured = measured
        batch = signature.batch
        self._rows = [batch.bucket(rows) for rows in range(batch.max + 1)]
        self._buckets: dict[int, int] = {}
        self._per_row: dict[int | None, float] = {}  # in the batch size that is best for it
        for (rows, bucket), seconds in measured.items():
            self._per_row[bucket] = min(self._per_row.get(bucket, math.inf), seconds / rows)

    def bucket(self, length: int | None) -> int | None:
        """The bucket of a length that the model takes; None without sequences."""
        if length is None or self._length is None:
            return None
        found = self._buckets.get(length)
        if found is None:
            found = self._buckets[length] = self._length.bucket(length)
        return found

    def of(self, rows: int, bucket: int | None) -> float:
        """Of a batch; forever where its buckets were not measured. Rows beyond the largest batch do not count."""
        rows = self._rows[rows] if rows < len(self._rows) else self._rows[-1]
        return self._measured.get((rows, bucket), math.inf)

    def share(self, rows: int, bucket: int | None) -> float:
        """What so many rows add to a full batch of their like."""
        return rows * self._per_row.get(bucket, 0.0)

    def took(self, expected: float, seconds: float) -> None:
        """A batch that should have taken `expected` took `seconds`."""
        if 0 < expected < math.inf:
            self.slowness += 0.1 * (seconds / expected - self.slowness)
