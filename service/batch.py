"""What a batch is: choosing work from the queue, merging its rows, sharing out the answers. Pure functions over arrays.

Classes of which each request or batch makes one write their `__init__` out: compiled, that is quicker than what `dataclass` makes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np

from modelrepo.tensors import Array, Signature, Tensors

SCAN = 256  # works looked at for one batch: more would keep the event loop from its other duties

Cost = Callable[[int, int | None], float]
"""Seconds that a batch of so many rows takes, its sequences padded to such a bucket (None where there are none)."""
Reason = Literal["idle", "freed", "full", "window"]
"""Why a batch left: a session was idle, one became free, the batch was full, or `max_queue_delay` was over."""


class Caller(Protocol):
    """Whoever is told, in the event loop, what became of a work: one of the two, once, unless the work is withdrawn."""

    def answered(self, work: Work, answer: Answer) -> None:
        """Its rows were computed. Must not raise."""

    def failed(self, work: Work, error: Exception) -> None:
        """They were not. Must not raise."""


class Work:
    """Rows of one caller that run together. `inputs` are complete and checked; `bucket` is their length's, None without sequences.

    Times are those of `time.monotonic`. The queue is sorted by `order`: the arrival, put off by the priority. `caller` is None
    once it has been told or has left; `queued` says whether the work is in the queue, which reckons with its `seconds`, `retried`
    that a session was lost with it. `traced` is the trace of its request, for a Tracer.
    """

    __slots__ = ("arrived", "bucket", "caller", "deadline", "inputs", "order", "queued", "retried", "rows", "seconds", "traced")

    def __init__(
        self,
        inputs: Mapping[str, Array],
        rows: int,
        bucket: int | None,
        caller: Caller | None,
        arrived: float = 0.0,
        order: float = 0.0,
        deadline: float = math.inf,
        traced: object | None = None,
    ) -> None:
        self.inputs = inputs
        self.rows = rows
        self.bucket = bucket
        self.caller = caller
        self.arrived = arrived
        self.order = order
        self.deadline = deadline
        self.traced = traced
        self.queued = True
        self.seconds = 0.0
        self.retried = False


class BatchFacts:
    """One batch that ran, in seconds. `padding` is the share of its positions that held no caller's data.

    `size` rows ran, `rows` of them callers'; sequences were padded to `length`. `waits` are those of its works.
    """

    __slots__ = ("computing", "length", "merging", "padding", "reason", "rows", "size", "waits")

    def __init__(
        self,
        rows: int,
        size: int,
        length: int | None,
        waits: tuple[float, ...],
        merging: float,
        computing: float,
        padding: float,
        reason: Reason,
    ) -> None:
        self.rows = rows
        self.size = size
        self.length = length
        self.waits = waits
        self.merging = merging
        self.computing = computing
        self.padding = padding
        self.reason = reason


class Ran:
    """The outputs of one run of a session, and what was made of all their rows at once for the callers that share them."""

    __slots__ = ("made", "outputs")

    def __init__(self, outputs: Tensors) -> None:
        self.outputs = outputs
        self.made: dict[Any, Any] = {}

    def finite(self, name: str) -> bool:
        """Whether one of the outputs holds numbers only, in every row: no NaN and no infinity."""
        found: bool | None = self.made.get(name)
        if found is None:
            array = self.outputs[name]
            # The sum of squares tells in one pass, unless numbers are so large that it overflows.
            found = array.dtype.kind != "f" or math.isfinite(np.vdot(array, array)) or bool(np.isfinite(array).all())
            self.made[name] = found
        return found


class Answer:
    """A caller's own rows, from `start` to `stop`, of what ran; how long they waited, and the batch (the last of several).

    `cached` says that another request with the same inputs had them computed.
    """

    __slots__ = ("batch", "cached", "ran", "start", "stop", "waited")

    def __init__(self, ran: Ran, start: int, stop: int, waited: float, batch: BatchFacts, cached: bool = False) -> None:
        self.ran = ran
        self.start = start
        self.stop = stop
        self.waited = waited
        self.batch = batch
        self.cached = cached

    @property
    def outputs(self) -> Tensors:
        """Its rows of every output."""
        return {name: array[self.start : self.stop] for name, array in self.ran.outputs.items()}


def form(queue: list[Work], limit: int, now: float = -math.inf, cost: Cost | None = None) -> list[Work]:
    """Take the next batch, at most `limit` rows, out of the queue; what has expired by `now` is left to whoever tells its caller.

    The first is always taken, so none can starve. With `cost`, for sequences, one of the next 256 joins only if
    that takes no longer than to run it apart: a single long sequence would have all short ones padded to it. What was on a session
    when it was lost runs alone.
    """
    batch: list[Work] = []
    left: list[Work] = []
    rows, longest = 0, None
    at = 0
    for at, work in enumerate(queue, 1):
        if work.deadline <= now:
            left.append(work)
            continue
        if batch:
            joint = work.bucket if longest is None else max(longest, work.bucket or 0)
            apart = (rows + work.rows > limit or work.retried) or (
                cost is not None and cost(rows + work.rows, joint) > cost(rows, longest) + cost(work.rows, work.bucket)
            )
            if apart:
                left.append(work)
                if cost is None or at >= SCAN:
                    break
                continue
            longest = joint
        else:
            longest = work.bucket
        work.queued = False
        batch.append(work)
        rows += work.rows
        if rows >= limit or work.retried:
            break
    queue[:at] = left
    return batch


def widest(works: Sequence[Work]) -> int | None:
    """The bucket that holds the longest sequence of a batch, to which all are padded; None without sequences."""
    if works[0].bucket is None:
        return None
    return max(work.bucket or 0 for work in works)


def merge(signature: Signature, works: Sequence[Work], missing: int = 0) -> Tensors:
    """The inputs of all works as one batch; sequences are zero-padded to the bucket that holds the longest.

    The last row is repeated for so many that are `missing`: for sessions that are quickest at the sizes they were made for.
    """
    longest = widest(works)
    merged: Tensors = {}
    for spec in signature.inputs:
        arrays = [work.inputs[spec.name] for work in works]
        if longest is not None:
            arrays = [spec.resized(array, longest) for array in arrays]
        if missing:
            arrays.append(np.repeat(arrays[-1][-1:], missing, axis=0))
        merged[spec.name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return merged


def split(ran: Ran, works: Sequence[Work]) -> list[tuple[Ran, int]]:
    """For each work what ran it, and where its own rows begin there; nothing is copied."""
    parts: list[tuple[Ran, int]] = []
    start = 0
    for work in works:
        parts.append((ran, start))
        start += work.rows
    return parts


def padding(signature: Signature, works: Sequence[Work], rows: int, size: int) -> float:
    """The share of a batch's positions that hold no caller's data: of its `size` rows, `rows` are callers'."""
    bucket = widest(works)
    if bucket is None or signature.mask is None:
        return 1 - rows / size
    mask = signature.mask.name
    real = sum(int(np.count_nonzero(work.inputs[mask])) for work in works)
    return 1 - real / (bucket * size)
