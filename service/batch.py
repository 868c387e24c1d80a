"""What a batch is: choosing work from the queue, merging its rows, splitting the answers. Pure functions over arrays."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from modelrepo.tensors import Array, Signature, Tensors

SCAN = 256  # works looked at for one batch: more would keep the event loop from its other duties

Cost = Callable[[int, int | None], float]
"""Seconds that a batch of so many rows takes, its sequences so long (None where there are none)."""
Reason = Literal["idle", "freed", "full", "window"]
"""Why a batch left: a session was idle, one became free, the batch was full, or `max_queue_delay` was over."""


@dataclass(eq=False, slots=True)
class Work:
    """Rows of one caller that run together. `inputs` are complete and checked; `length` is None without sequences.

    Times are those of `time.monotonic`. The queue is sorted by `order`: the arrival, put off by the priority. `queued` says
    whether the work is in it, `retried` that a session was lost with it.
    """

    inputs: Mapping[str, Array]
    rows: int
    length: int | None
    answer: asyncio.Future[Answer]
    arrived: float = 0.0
    order: float = 0.0
    deadline: float = math.inf
    queued: bool = True
    retried: bool = False


@dataclass(frozen=True, slots=True)
class BatchFacts:
    """One batch that ran, in seconds. `padding` is the share of its positions that held no caller's data.

    `size` rows ran, `rows` of them callers'; sequences were padded to `length`. `waits` are those of its works.
    """

    rows: int
    size: int
    length: int | None
    waits: tuple[float, ...]
    merging: float
    computing: float
    padding: float
    reason: Reason


@dataclass(frozen=True, slots=True)
class Answer:
    """A caller's own rows of the outputs, how long they waited, and the batch they ran in (the last of several)."""

    outputs: Tensors
    waited: float
    batch: BatchFacts


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
            joint = work.length if longest is None else max(longest, work.length or 0)
            apart = (rows + work.rows > limit or work.retried) or (
                cost is not None and cost(rows + work.rows, joint) > cost(rows, longest) + cost(work.rows, work.length)
            )
            if apart:
                left.append(work)
                if cost is None or at >= SCAN:
                    break
                continue
            longest = joint
        else:
            longest = work.length
        work.queued = False
        batch.append(work)
        rows += work.rows
        if rows >= limit or work.retried:
            break
    queue[:at] = left
    return batch


def bucket_length(signature: Signature, works: Sequence[Work]) -> int | None:
    """The bucket that holds the longest sequence of a batch, to which all are padded; None without sequences."""
    return signature.length.bucket(max(work.length or 0 for work in works)) if signature.length else None


def merge(signature: Signature, works: Sequence[Work], size: int | None = None) -> Tensors:
    """The inputs of all works as one batch; sequences are zero-padded to the bucket that holds the longest.

    With `size`, the last row is repeated up to as many: for sessions that are quickest at the sizes they were made for.
    """
    longest = bucket_length(signature, works)
    missing = 0 if size is None else size - sum(work.rows for work in works)
    merged: Tensors = {}
    for spec in signature.inputs:
        arrays = [work.inputs[spec.name] for work in works]
        if longest is not None:
            arrays = [spec.resized(array, longest) for array in arrays]
        if missing:
            arrays.append(np.repeat(arrays[-1][-1:], missing, axis=0))
        merged[spec.name] = arrays[0] if len(arrays) == 1 else np.concatenate(arrays)
    return merged


def split(outputs: Tensors, works: Sequence[Work]) -> list[Tensors]:
    """Each work's own rows of the batch's outputs, in order."""
    parts: list[Tensors] = []
    start = 0
    for work in works:
        parts.append({name: array[start : start + work.rows] for name, array in outputs.items()})
        start += work.rows
    return parts


def padding(signature: Signature, works: Sequence[Work], size: int) -> float:
    """The share of a batch's positions, `size` rows of them, that hold no caller's data."""
    rows = sum(work.rows for work in works)
    bucket = bucket_length(signature, works)
    if bucket is None or signature.mask is None:
        return 1 - rows / size
    real = sum(int(work.inputs[signature.mask.name].sum()) for work in works)
    return 1 - real / (bucket * size)
