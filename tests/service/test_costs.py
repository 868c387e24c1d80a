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


@pytest.mark.parametrize("whole", [False, True])
def test_sequences_of_one_length_fill_a_batch_whatever_it_is_measured_to_cost(whole):
    backlog = Backlog(BATCH.max, Costs(MEAN, LINEAR, whole), apart=True)
    for order in range(BATCH.max + 3):
        backlog.add(Work({}, 1, LENGTH.buckets[-1], caller=None, order=order))
    assert len(backlog.take(0.0)) == BATCH.max
    assert len(backlog.take(0.0)) == 3
