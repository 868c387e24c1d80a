"""Forming, merging and splitting, with arrays alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batch import Ran, Work, form, merge, padding, split
from tests import micro


def work(rows: int, **facts) -> Work:
    """Rows without a caller: forming, merging and splitting never look at the answer."""
    x = np.random.default_rng(rows).random((rows, 2)).astype(np.float32)
    return Work({"x": x}, rows, None, caller=None, **facts)


def sequences(*lengths: int) -> Work:
    """One work whose rows have these lengths."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    sequence = np.random.default_rng(len(lengths)).random((*mask.shape, 1)).astype(np.float32) * mask[:, :, None]
    return Work({"sequence": sequence, "mask": mask}, len(lengths), micro.LENGTH.bucket(max(lengths)), caller=None)


def parts(outputs, works):
    """Each work with its own rows of every output."""
    for item, (ran, start) in zip(works, split(Ran(outputs), works), strict=True):
        yield item, {name: array[start : start + item.rows] for name, array in ran.outputs.items()}


@given(st.lists(st.integers(1, 8), max_size=30))
def test_forming_keeps_order_respects_the_limit_and_loses_nothing(given_):
    works = [work(rows) for rows in given_]
    queue = list(works)
    formed = []
    while queue:
        batch = form(queue, 8)
        assert batch or not queue
        assert sum(item.rows for item in batch) <= 8
        formed += batch
    assert formed == works
    assert not any(item.queued for item in works)


@given(st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_sequences_share_a_batch_only_where_that_is_no_slower_and_none_starves(lengths):
    def cost(rows, length):
        return 1.0 + 0.1 * rows * length

    queue = [sequences(length) for length in lengths]
    while queue:
        first = queue[0]
        batch = form(queue, 8, cost=cost)
        assert batch[0] is first
        assert cost(len(batch), max(item.bucket for item in batch)) <= sum(cost(1, item.bucket) for item in batch) + 1e-9
        assert queue == [item for item in queue if item.queued]


def test_a_long_sequence_does_not_take_short_ones_along():
    queue = [sequences(2), sequences(12), sequences(2), sequences(2)]
    assert [item.bucket for item in form(queue, 8, cost=lambda rows, length: rows * length)] == [2, 2, 2]
    assert [item.bucket for item in queue] == [12]


def test_what_has_expired_is_not_taken():
    queue = [work(1, deadline=5.0), work(2, deadline=15.0)]
    assert [item.rows for item in form(queue, 8, now=10.0)] == [2]
    assert [item.rows for item in queue] == [1], "until its caller has been told"


@given(st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_splitting_undoes_merging(rows):
    works = [work(count) for count in rows]
    merged = merge(micro.DOUBLE, works)
    assert len(merged["x"]) == sum(rows)
    for item, part in parts(micro.double(merged), works):
        np.testing.assert_array_equal(part["logits"], micro.double(dict(item.inputs))["logits"])


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_rows_that_fill_a_batch_up_to_its_bucket_reach_nobody(rows):
    works = [work(count) for count in rows]
    merged = merge(micro.DOUBLE, works, missing=16 - sum(rows))
    assert len(merged["x"]) == 16
    assert padding(micro.DOUBLE, works, sum(rows), 16) == pytest.approx(1 - sum(rows) / 16)
    for item, part in parts(micro.double(merged), works):
        np.testing.assert_array_equal(part["logits"], micro.double(dict(item.inputs))["logits"])


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4))
def test_sequences_of_any_lengths_get_the_answers_they_get_alone(requests):
    works = [sequences(*lengths) for lengths in requests]
    merged = merge(micro.MEAN, works)
    assert merged["mask"].shape[1] in micro.LENGTH.buckets
    for item, part in parts(micro.mean(merged), works):
        np.testing.assert_allclose(part["values"], micro.mean(dict(item.inputs))["values"], rtol=1e-6)
    rows = sum(map(len, requests))
    assert padding(micro.MEAN, works, rows, rows) == pytest.approx(1 - sum(map(sum, requests)) / merged["mask"].size)
