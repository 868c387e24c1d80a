"""Answers of one version, kept for requests that come again to the bit: found before the queue, computed once.

A request is known by the SHA-256 of its inputs, as the model has them: two that only look different, by their order of keys or by a
mask left out, are one, and nobody can make up a request that is taken for another. What is kept are the outputs, not the
response: `id`, `top_k` and JSON or binary are each request's own. What was used longest ago goes first. Only answers are
kept: no failures, and no numbers that are none.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from modelrepo.tensors import Array, Signature, Tensors
from service.batch import Answer, BatchFacts, Ran
from service.statistics import Statistics
from service.tally import Count

OVERHEAD = 1024  # bytes that an entry takes beside its arrays' contents, about

Key = bytes


class Counts(NamedTuple):
    """The metrics of a cache."""

    hits: Count
    misses: Count
    evictions: Count


class _Entry(NamedTuple):
    outputs: Tensors
    rows: int
    batch: BatchFacts
    size: int


class ResponseCache:
    """All methods belong to the event loop's thread but `key`, which any may call."""

    def __init__(self, signature: Signature, limit: int, counts: Counts, statistics: Statistics) -> None:
        """`limit` is in bytes."""
        self._names = [spec.name for spec in signature.inputs]
        self._limit = limit
        self._counts = counts
        self._statistics = statistics
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self.size = 0
        """Bytes it takes, about."""

    def key(self, inputs: Mapping[str, Array]) -> Key:
        """What complete, checked inputs are known by."""
        digest = hashlib.sha256()
        for name in self._names:
            array = np.ascontiguousarray(inputs[name])
            digest.update(repr(array.shape).encode())  # the type is the signature's
            digest.update(array.data)
        return digest.digest()

    def get(self, key: Key) -> Answer | None:
        """The answer to these inputs, if it is kept."""
        started = time.perf_counter()
        entry = self._entries.get(key)
        if entry is None:
            self._counts.misses.inc()
            self._statistics.cache_miss.add(time.perf_counter() - started)
            return None
        self._entries.move_to_end(key)
        self._counts.hits.inc()
        self._statistics.cache_hit.add(time.perf_counter() - started)
        return Answer(Ran(entry.outputs), 0, entry.rows, 0.0, entry.batch, cached=True)

    def put(self, key: Key, answer: Answer) -> None:
        """Keep the answer to these inputs, and let others go for it."""
        started = time.perf_counter()
        if all(answer.ran.finite(name) for name in answer.ran.outputs):
            outputs = {name: array.copy() for name, array in answer.outputs.items()}  # a view would keep its whole batch
            size = OVERHEAD + sum(array.nbytes for array in outputs.values())
            if size <= self._limit:
                self._remove(key)  # another that was computed at the same time
                self._entries[key] = _Entry(outputs, answer.stop - answer.start, answer.batch, size)
                self.size += size
                while self.size > self._limit:
                    self._remove(next(iter(self._entries)))
                    self._counts.evictions.inc()
        self._statistics.cache_miss.add(time.perf_counter() - started, count=0)

    def clear(self) -> None:
        """Keep nothing any more."""
        self._entries.clear()
        self.size = 0

    def _remove(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.size -= entry.size
