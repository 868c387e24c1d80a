from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.backlog import Backlog
from service.batch import Work
from service.costs import OVERHEAD, Costs
from tests.micro import BATCH, DOUBLE, LENGTH, MEAN


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
def test_rows_that_gain_by_company_fill_a_batch(whole):
    gain = {1: 1.0, 2: 1.9, 4: 3.7, 8: 6.5}
    costs = Costs(MEAN, {(rows, length): gain[rows] * length for rows in BATCH.buckets for length in LENGTH.buckets}, whole)
    backlog = Backlog(BATCH.max, costs, apart=True)
    for order in range(BATCH.max + 2):
        backlog.add(Work({}, 1, LENGTH.buckets[-1], caller=None, order=order))
    assert [len(backlog.take(0.0)) for _ in range(2)] == [BATCH.max, 2]


def test_rows_that_are_too_much_together_go_in_smaller_batches():
    costs = Costs(DOUBLE, {(1, None): 1.0, (2, None): 1.8, (4, None): 4.2, (8, None): 12.0})
    backlog = Backlog(BATCH.max, costs, apart=False)
    for order in range(7):
        backlog.add(Work({}, 1, None, caller=None, order=order))
    assert [len(backlog.take(0.0)) for _ in range(4)] == [2, 2, 2, 1]


@given(st.lists(st.floats(1e-5, 1.0), min_size=4, max_size=4), st.booleans(), st.integers(1, 8))
def test_the_first_batch_is_never_part_of_a_plan_that_takes_much_longer(measured, whole, rows):
    """Against every way to part the rows."""
    costs = Costs(DOUBLE, {(size, None): seconds for size, seconds in zip(BATCH.buckets, measured, strict=True)}, whole)

    def least(left):
        return min((batch(size) + least(left - size) for size in range(1, left + 1)), default=0.0)

    def batch(size):
        return costs.of(size, None) + OVERHEAD

    first = costs.worth(rows, None)
    assert 1 <= first <= rows
    assert batch(first) + least(rows - first) <= 1.0201 * least(rows)


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
