from __future__ import annotations

import time

import pytest

from service.statistics import Statistics


def test_a_batch_counts_its_rows_once_and_its_time_for_everyone_in_it():
    statistics = Statistics()
    statistics.batch(rows=5, waits=[0.25, 0.5], infer=2.0, merge=0.5)
    statistics.batch(rows=5, waits=[0.0], infer=4.0)
    statistics.batch(rows=1, waits=[0.0], infer=1.0)
    assert (statistics.rows, statistics.batches) == (11, 3)
    assert (statistics.queue.count, statistics.queue.seconds) == (4, 0.75)
    assert (statistics.compute.count, statistics.compute.infer, statistics.compute.input) == (4, 9.0, 1.0)
    assert {rows: (c.count, c.infer) for rows, c in statistics.by_size.items()} == {5: (2, 6.0), 1: (1, 1.0)}


@pytest.mark.parametrize("outcome", ["succeeded", "failed"])
def test_every_request_ends_in_success_or_failure_and_leaves_its_time(outcome):
    statistics = Statistics()
    assert statistics.last_inference == 0
    before = time.time_ns() // 1_000_000
    getattr(statistics, outcome)(0.5)
    assert before <= statistics.last_inference <= time.time_ns() // 1_000_000
    assert (statistics.success.count, statistics.fail.count) == ((1, 0) if outcome == "succeeded" else (0, 1))
    assert statistics.success.seconds + statistics.fail.seconds == 0.5
