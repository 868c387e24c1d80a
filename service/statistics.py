"""What a model has done since it was loaded, as the statistics extension of the Open Inference Protocol counts it.

Triton Inference Server, docs/protocol/extension_statistics.md. All methods belong to the event loop's thread.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(slots=True)
class Duration:
    """How often something happened, and the seconds it took in all."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float, count: int = 1) -> None:
        """Count it `count` times, `seconds` in all."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class Compute:
    """How often a batch ran, and the seconds it took in all to merge and pad its rows, and in the session.

    Outputs are not split before an answer is written, which takes no time of the batch's.
    """

    count: int = 0
    input: float = 0.0
    infer: float = 0.0


class Statistics:
    """Counters of one version of one model."""

    def __init__(self) -> None:
        self.last_inference = 0
        """Milliseconds since the epoch at the last answer; 0 before the first."""
        self.rows = 0
        self.batches = 0
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.cache_hit = Duration()
        self.cache_miss = Duration()
        """Looking for an answer in the response cache, and keeping the one that was computed."""
        self.compute = Compute()
        """Per part of a request: one that shared a batch with nine others took the batch's whole time, as did each of these."""
        self.by_size: defaultdict[int, Compute] = defaultdict(Compute)
        """Per batch, by its rows."""

    def batch(self, rows: int, waits: Sequence[float], infer: float, merge: float = 0.0) -> None:
        """A batch of `rows` rows ran; `waits` are the seconds that each part of a request in it had queued."""
        works = len(waits)
        self.rows += rows
        self.batches += 1
        self.queue.count += works
        self.queue.seconds += sum(waits)
        for compute, count in ((self.compute, works), (self.by_size[rows], 1)):
            compute.count += count
            compute.input += count * merge
            compute.infer += count * infer

    def succeeded(self, seconds: float) -> None:
        """A request was answered, `seconds` after its first byte."""
        self.success.count += 1
        self.success.seconds += seconds
        self.last_inference = time.time_ns() // 1_000_000

    def failed(self, seconds: float) -> None:
        """A request to this model got an error, `seconds` after its first byte."""
        self.fail.add(seconds)
        self.last_inference = time.time_ns() // 1_000_000
