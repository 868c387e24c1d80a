from __future__ import annotations

import math

import numpy as np
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from service.admission import Limits
from service.batching import Batcher
from service.costs import Costs
from service.parting import part
from service.worker import Worker
from tests.micro import BATCH, DOUBLE, LENGTH, MEAN, mean
from tests.service.test_batching import Session

OVERHEAD = 1.0  # seconds of a batch, however small


MEASURED = {(b, n): OVERHEAD + b * n for b in BATCH.buckets for n in LENGTH.buckets}


def costs(signature=MEAN, per_position=1.0):
    """A batch takes its overhead, and as much again for each of its positions."""
    return Costs(signature, {key: OVERHEAD + per_position * (seconds - OVERHEAD) for key, seconds in MEASURED.items()})


def sequences(lengths):
    """Rows that hold their own number at each real step."""
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    numbers = np.arange(len(lengths), dtype=np.float32)[:, None] * mask
    return {"sequence": numbers[:, :, None], "mask": mask}


def seconds(found, parts):
    return sum(found.of(each.rows, each.bucket) for each in parts)


lengths_of_rows = st.lists(st.integers(LENGTH.min, LENGTH.max), min_size=1, max_size=40)


@given(lengths_of_rows)
def test_every_row_is_in_one_part_with_all_it_holds(lengths):
    inputs = sequences(lengths)
    parts = part(MEAN, costs(), inputs, len(lengths), max(lengths))
    found = []
    for each in parts:
        rows = np.arange(len(lengths))[each.at]
        found += rows.tolist()
        assert each.rows == len(rows) <= BATCH.max
        width = each.inputs["mask"].shape[1]
        assert width <= each.bucket
        for row, sequence, mask in zip(rows, each.inputs["sequence"], each.inputs["mask"], strict=True):
            assert mask.sum() == lengths[row], "nothing real is cut off"
            assert (sequence[mask] == row).all()
    assert sorted(found) == list(range(len(lengths)))


@given(lengths_of_rows)
def test_parts_never_take_longer_than_all_rows_padded_to_the_longest(lengths):
    found = costs()
    bucket = found.bucket(max(lengths))
    full, rest = divmod(len(lengths), BATCH.max)
    together = full * found.of(BATCH.max, bucket) + (found.of(rest, bucket) if rest else 0.0)
    assert seconds(found, part(MEAN, found, sequences(lengths), len(lengths), max(lengths))) <= together + 1e-9


def test_a_long_row_does_not_have_the_short_ones_padded_to_it():
    parts = part(MEAN, costs(), sequences([1, 12, 1, 1]), 4, 12)
    assert sorted((each.rows, each.bucket) for each in parts) == [(1, LENGTH.bucket(12)), (3, LENGTH.bucket(1))]


def test_rows_stay_together_where_a_batch_of_its_own_costs_more_than_padding():
    (only,) = part(MEAN, costs(per_position=1e-3), sequences([1, 12, 1, 1]), 4, 12)
    assert only.rows == 4


def test_rows_stay_together_where_no_cost_is_known():
    (only,) = part(MEAN, Costs(MEAN, {}), sequences([1, 12, 1, 1]), 4, 12)
    assert only.rows == 4
    assert math.isinf(Costs(MEAN, {}).of(4, 12))


def test_rows_without_a_length_are_cut_into_full_batches():
    rows = 2 * BATCH.max + 1
    parts = part(DOUBLE, costs(DOUBLE), {"x": np.zeros((rows, 2), np.float32)}, rows, None)
    assert [each.rows for each in parts] == [BATCH.max, BATCH.max, 1]


class Nobody:
    def batch(self, facts):
        pass


class MeanSession(Session):
    def run(self, inputs):
        self.batches.append(inputs["mask"].shape)
        return mean(inputs)


def test_answers_of_rows_that_ran_apart_come_in_the_order_of_the_rows():
    lengths = [1, 12, 1, 12, 1]
    session = MeanSession()

    async def ask():
        batcher = Batcher(MEAN, MEASURED, Limits(1000), Nobody(), lambda worker, error: None)
        batcher.add(Worker(session, Session.check, "session"))
        inputs = sequences(lengths)
        assert batcher.apart(inputs, len(lengths), 12)
        return await batcher.submit(inputs, len(lengths), 12)

    answer = uvloop.run(ask())
    assert answer.outputs["values"][:, 0].tolist() == [0, 1, 2, 3, 4]
    assert sorted(session.batches) == [(2, 12), (3, 1)]
