from __future__ import annotations

import asyncio
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.batching import INLINE_SECONDS, Batcher, BatchFacts, Work, form, merge, padding, split
from service.errors import PayloadTooLarge, QueueFull, Unavailable
from tests import micro


class Session:
    """Stands in for a session: records batches, can be held closed, and fails where a row holds POISON."""

    POISON = 666.0

    def __init__(self, answer=micro.double) -> None:
        self.batches: list[int] = []
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self._answer = answer

    def run(self, inputs):
        self.entered.set()
        assert self.gate.wait(10)
        first = next(iter(inputs.values()))
        self.batches.append(len(first))
        self.threads.append(threading.current_thread())
        if (first == self.POISON).any():
            raise ValueError("poison")
        return self._answer(inputs)


class Bench:
    """A batcher on a session, with what it observed."""

    def __init__(self, session: Session, signature=micro.DOUBLE, max_queue_rows: int = 1000, costs=None) -> None:
        self.session = session
        self.facts: list[BatchFacts] = []
        self.abandoned: list[int] = []
        self.executor = ThreadPoolExecutor(1)
        observers = (self.facts.append, self.abandoned.append)
        self.batcher = Batcher(signature, session.run, self.executor, max_queue_rows, *observers, costs or {})

    async def ask(self, *values: float) -> list[float]:
        x = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)
        answer = await self.batcher.submit({"x": x}, len(values), None)
        return answer["logits"][:, 0].tolist()

    async def held(self) -> asyncio.Task[list[float]]:
        """A first request that keeps the session busy until the gate opens."""
        self.session.gate.clear()
        task = asyncio.ensure_future(self.ask(0.5))
        await asyncio.to_thread(self.session.entered.wait, 10)
        return task

    def ask_soon(self, *values: float) -> asyncio.Task[list[float]]:
        return asyncio.ensure_future(self.ask(*values))


def run(scenario, **options) -> Bench:
    async def main() -> Bench:
        bench = Bench(Session(), **options)
        try:
            await asyncio.wait_for(scenario(bench), 20)
        finally:
            bench.session.gate.set()
            bench.executor.shutdown()
        return bench

    return asyncio.run(main())


def work(rows: int, given_up: bool = False) -> Work:
    """Rows without a caller: forming, merging and splitting never look at the answer."""
    x = np.random.default_rng(rows).random((rows, 2)).astype(np.float32)
    return Work({"x": x}, rows, None, answer=None, queued=not given_up)


@given(st.lists(st.tuples(st.integers(1, 8), st.booleans()), max_size=30))
def test_forming_keeps_order_respects_the_limit_and_loses_nothing(given_):
    works = [work(rows, given_up) for rows, given_up in given_]
    queue = deque(works)
    formed = []
    while queue:
        batch = form(queue, 8)
        assert batch or not queue
        assert sum(item.rows for item in batch) <= 8
        formed += batch
    assert formed == [item for item, (_, given_up) in zip(works, given_, strict=True) if not given_up]
    assert not any(item.queued for item in works)


@given(st.lists(st.integers(1, 8), min_size=1, max_size=8))
def test_splitting_undoes_merging(rows):
    works = [work(count) for count in rows]
    merged = merge(micro.DOUBLE, works)
    assert len(merged["x"]) == sum(rows)
    for item, part in zip(works, split(micro.double(merged), works), strict=True):
        np.testing.assert_array_equal(part["logits"], micro.double(dict(item.inputs))["logits"])


@given(st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), min_size=1, max_size=4), st.randoms())
def test_sequences_of_any_lengths_get_the_answers_they_get_alone(requests, random):
    works, alone = [], []
    for lengths in requests:
        mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
        sequence = np.array([[[random.random()] for _ in range(max(lengths))] for _ in lengths], np.float32)
        inputs = {"sequence": sequence * mask[:, :, None], "mask": mask}
        works.append(Work(inputs, len(lengths), max(lengths), answer=None))
        alone.append(micro.mean(inputs)["values"])
    merged = merge(micro.MEAN, works)
    assert merged["mask"].shape[1] in micro.LENGTH.buckets
    for part, expected in zip(split(micro.mean(merged), works), alone, strict=True):
        np.testing.assert_allclose(part["values"], expected, rtol=1e-6)
    real = sum(map(sum, requests))
    assert padding(micro.MEAN, works) == pytest.approx(1 - real / merged["mask"].size)


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), min_size=1, max_size=20))
def test_each_caller_gets_exactly_its_own_rows(requests):
    async def scenario(bench):
        answers = await asyncio.gather(*(bench.ask(*values) for values in requests))
        assert answers == [[2 * value for value in values] for values in requests]

    bench = run(scenario)
    assert sum(bench.session.batches) == sum(map(len, requests))
    assert max(bench.session.batches) <= micro.BATCH.max


def test_an_idle_session_starts_at_once_with_all_that_arrived_together():
    async def scenario(bench):
        await asyncio.gather(*(bench.ask(value) for value in range(5)))

    assert run(scenario).session.batches == [5]


def test_a_batch_faster_than_a_thread_hop_runs_in_the_loop_and_any_other_in_its_own_thread():
    async def scenario(bench):
        assert await bench.ask(1) == [2]
        assert await bench.ask(*range(8)) == [2 * value for value in range(8)]
        assert await bench.ask(1, 2, 3) == [2, 4, 6], "a bucket that was not measured"

    costs = {(1, None): INLINE_SECONDS / 2, (8, None): INLINE_SECONDS * 2}
    threads = run(scenario, costs=costs).session.threads
    assert [thread is threading.main_thread() for thread in threads] == [True, False, False]


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), min_size=1, max_size=20))
def test_each_caller_gets_its_own_rows_in_the_loop_too(requests):
    async def scenario(bench):
        answers = await asyncio.gather(*(bench.ask(*values) for values in requests))
        assert answers == [[2 * value for value in values] for values in requests]

    run(scenario, costs=dict.fromkeys(((size, None) for size in micro.BATCH.buckets), 0.0))


def test_the_next_batch_fills_while_the_session_runs():
    async def scenario(bench):
        first = await bench.held()
        others = [bench.ask_soon(value) for value in range(6)]
        await asyncio.sleep(0)
        assert bench.batcher.waiting_rows == 6
        bench.session.gate.set()
        await asyncio.gather(first, *others)

    bench = run(scenario)
    assert bench.session.batches == [1, 6]
    assert [facts.rows for facts in bench.facts] == [1, 6]


def test_more_rows_than_one_batch_are_split_and_joined_in_order():
    async def scenario(bench):
        values = [float(value) for value in range(21)]
        assert await bench.ask(*values) == [2 * value for value in values]

    assert run(scenario).session.batches == [8, 8, 5]


def test_one_of_four_callers_cancelled_and_the_other_three_are_answered():
    async def scenario(bench):
        first = await bench.held()
        four = [bench.ask_soon(value) for value in range(4)]
        await asyncio.sleep(0)
        four[1].cancel()
        await asyncio.sleep(0)
        bench.session.gate.set()
        answers = await asyncio.gather(first, *four, return_exceptions=True)
        assert [answer for answer in answers if not isinstance(answer, BaseException)] == [[1.0], [0.0], [4.0], [6.0]]
        assert isinstance(answers[2], asyncio.CancelledError)
        assert bench.batcher.waiting_rows == 0

    bench = run(scenario)
    assert bench.session.batches == [1, 3], "the cancelled row never ran"
    assert bench.abandoned == [1]


def test_a_caller_that_leaves_while_its_batch_runs_hurts_nobody():
    async def scenario(bench):
        first = await bench.held()
        first.cancel()
        second = bench.ask_soon(3)
        await asyncio.sleep(0)
        bench.session.gate.set()
        assert await second == [6]

    run(scenario)


def test_a_poisonous_request_fails_alone():
    async def scenario(bench):
        requests = [bench.ask(value) for value in (1, 2, Session.POISON, 4, 5)]
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert [answers[i] for i in (0, 1, 3, 4)] == [[2], [4], [8], [10]]
        assert isinstance(answers[2], ValueError)
        assert await bench.ask(7) == [14], "the batcher goes on"

    run(scenario)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def scenario(bench):
        first = await bench.held()
        waiting = bench.ask_soon(1, 2, 3)
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="3 rows are waiting and 2 more would exceed 4") as refused:
            await bench.ask(8, 9)
        assert refused.value.retry_after >= 1
        assert not waiting.done()
        bench.session.gate.set()
        assert await waiting == [2, 4, 6]
        assert await first == [1]
        assert await bench.ask(8, 9) == [16, 18], "room again"

    run(scenario, max_queue_rows=4)


def test_rows_given_up_make_room_in_the_queue_at_once():
    async def scenario(bench):
        first = await bench.held()
        waiting = [bench.ask_soon(1, 2), bench.ask_soon(3, 4)]
        await asyncio.sleep(0)
        for request in waiting:
            request.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert bench.batcher.waiting_rows == 0
        another = bench.ask_soon(5, 6, 7, 8)
        await asyncio.sleep(0)
        bench.session.gate.set()
        assert await another == [10, 12, 14, 16]
        await first

    bench = run(scenario, max_queue_rows=4)
    assert bench.abandoned == [2, 2]


def test_a_request_that_no_queue_would_hold_is_told_to_split_not_to_retry():
    async def scenario(bench):
        with pytest.raises(PayloadTooLarge, match="the request has 5 rows; at most 4 are taken at once"):
            await bench.ask(1, 2, 3, 4, 5)

    run(scenario, max_queue_rows=4)


def test_when_one_part_of_a_long_request_fails_its_other_parts_do_not_run():
    async def scenario(bench):
        first = await bench.held()
        values = [Session.POISON] * 8 + [1.0] * 16
        long = bench.ask_soon(*values)
        await asyncio.sleep(0)
        bench.session.gate.set()
        with pytest.raises(ValueError, match="poison"):
            await long
        await first
        assert bench.batcher.waiting_rows == 0
        assert await bench.ask(4) == [8]

    run(scenario)


def test_draining_answers_what_was_accepted_and_refuses_the_rest():
    async def scenario(bench):
        first = await bench.held()
        accepted = bench.ask_soon(1)
        await asyncio.sleep(0)
        draining = asyncio.ensure_future(bench.batcher.drain())
        await asyncio.sleep(0)
        with pytest.raises(Unavailable, match="shutting down"):
            await bench.ask(2)
        assert not draining.done()
        bench.session.gate.set()
        await draining
        assert (await first, await accepted) == ([1], [2])

    run(scenario)
