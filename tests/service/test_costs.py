from __future__ import annotations

import math

import pytest

from service.backlog import Backlog
from service.batch import Work
from service.costs import Costs
from tests.micro import BATCH, DOUBLE, LENGTH, MEAN

LINEAR = {(rows, length): 0.1 + rows * length for rows in BATCH.buckets for length in LENGTH.buckets}


def test_a_batch_between_two_measured_ones_takes_what_lies_between():
    costs = Costs(DOUBLE, {(1, None): 1.0, (2, None): 2.0, (4, None): 6.0, (8, None): 10.0})
    assert [costs.of(rows, None) for rows in range(1, 9)] == [1, 2, 4, 6, 7, 8, 9, 10]


def test_a_batch_that_is_filled_up_takes_as_long_as_the_next_measured_one():
    costs = Costs(DOUBLE, {(1, None): 1.0, (2, None): 2.0, (4, None): 6.0, (8, None): 10.0}, whole_buckets=True)
    assert [costs.of(rows, None) for rows in range(1, 9)] == [1, 2, 6, 6, 10, 10, 10, 10]


@pytest.mark.parametrize("whole", [False, True])
def test_what_was_not_measured_takes_forever(whole):
    costs = Costs(DOUBLE, {(1, None): 1.0}, whole)
    assert costs.of(1, None) == 1
    assert costs.of(2, None) == math.inf
    assert costs.of(1, 4) == math.inf


def test_sequences_of_one_length_fill_a_batch_whatever_it_is_measured_to_cost():
    backlog = Backlog(BATCH.max, Costs(MEAN, LINEAR), apart=True)
    for order in range(BATCH.max + 3):
        backlog.add(Work({}, 1, LENGTH.buckets[-1], caller=None, order=order))
    assert len(backlog.take(0.0)) == BATCH.max
    assert len(backlog.take(0.0)) == 3


@pytest.mark.parametrize(
    ("per_row", "batches"),
    [
        pytest.param(1.0, [4, 2, 1], id="filling up costs more than it brings"),
        pytest.param(0.0, [7], id="filling up costs nothing"),
    ],
)
def test_a_batch_is_filled_up_to_its_bucket_only_where_that_pays(per_row, batches):
    measured = {(rows, None): 0.1 + per_row * rows for rows in BATCH.buckets}
    backlog = Backlog(BATCH.max, Costs(DOUBLE, measured, whole_buckets=True), apart=False)
    for order in range(7):
        backlog.add(Work({}, 1, None, caller=None, order=order))
    assert [len(backlog.take(0.0)) for _ in batches] == batches
    assert not len(backlog)
