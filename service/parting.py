"""Rows of one request that run sooner apart: a single long sequence would have all short ones padded to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from modelrepo.tensors import Array, Signature
from service.costs import Costs


class Part(NamedTuple):
    """Rows that go into one batch: which of the request's they are, and their inputs, no longer than the longest of them."""

    at: slice | Array
    inputs: Mapping[str, Array]
    rows: int
    bucket: int | None


def part(signature: Signature, costs: Costs, inputs: Mapping[str, Array], rows: int, length: int | None) -> list[Part]:
    """Complete inputs as the parts that take the least time together, none with more rows than one batch holds.

    Sequences are grouped by the bucket of their real length, as the mask tells it; each group is padded to its longest.
    """
    buckets = lengths = None
    if rows > 1 and length is not None and signature.mask is not None:
        lengths = inputs[signature.mask.name].sum(axis=1)
        buckets = np.array([costs.bucket(int(real)) for real in lengths])
    if buckets is None or lengths is None or buckets.min() == buckets.max():
        return _chunks(signature, costs, inputs, rows, costs.bucket(length))
    found, counts = np.unique(buckets, return_counts=True)
    parts: list[Part] = []
    for first, last in _groups(costs, signature.batch.max, found.tolist(), counts.tolist()):
        (at,) = np.nonzero((buckets >= found[first]) & (buckets <= found[last]))
        longest = int(lengths[at].max())
        own = {spec.name: spec.resized(inputs[spec.name][at], longest) for spec in signature.inputs}
        parts += [chunk._replace(at=at[chunk.at]) for chunk in _chunks(signature, costs, own, len(at), int(found[last]))]
    return parts


def _chunks(signature: Signature, costs: Costs, inputs: Mapping[str, Array], rows: int, bucket: int | None) -> list[Part]:
    """Rows of one bucket, as many as a batch holds; sequences by as many as are worth one."""
    most = signature.batch.max
    sizes = [most] * (rows // most) + ([rows % most] if rows % most else [])
    if bucket is not None:
        sizes = [part for size in sizes for part in costs.parts(size, bucket)]
    if len(sizes) == 1:
        return [Part(slice(0, rows), inputs, rows, bucket)]
    parts, start = [], 0
    for size in sizes:
        at = slice(start, start + size)
        parts.append(Part(at, {name: array[at] for name, array in inputs.items()}, size, bucket))
        start += size
    return parts


def _groups(costs: Costs, most: int, buckets: list[int], counts: list[int]) -> list[tuple[int, int]]:
    """First and last of the neighbouring buckets that run together, so that all take the least time.

    The best of the first k buckets is the best of fewer and one group after them; there are no more than a handful.
    """

    def seconds(first: int, last: int) -> float:
        full, rest = divmod(sum(counts[first : last + 1]), most)
        return full * costs.of(most, buckets[last]) + (costs.of(rest, buckets[last]) if rest else 0.0)

    best: list[tuple[float, list[tuple[int, int]]]] = [(0.0, [])]
    for last in range(len(buckets)):
        choices = [(best[first][0] + seconds(first, last), [*best[first][1], (first, last)]) for first in range(last + 1)]
        best.append(min(choices))  # where all take as long, or nothing was measured, the one that begins first
    total, groups = best[-1]
    return groups if total < math.inf else [(0, len(buckets) - 1)]
