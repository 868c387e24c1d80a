from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace

import numpy as np
import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from service.admission import Limits
from service.batch import BatchFacts
from service.batching import INLINE_ALONE_SECONDS, INLINE_SECONDS, Batcher
from service.errors import DeadlineExceeded, PayloadTooLarge, Refused, Unavailable, Unprocessable
from service.worker import Worker
from tests import micro


class Session:
    """Stands in for a session: records batches, can be held closed, fails where a row holds POISON, and dies of DEADLY."""

    POISON = 666.0
    DEADLY = 667.0

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.threads: list[threading.Thread] = []
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.closed = threading.Event()
        self.dead = False

    def run(self, inputs):
        self.entered.set()
        assert self.gate.wait(10)
        x = inputs["x"]
        self.batches.append(len(x))
        self.threads.append(threading.current_thread())
        self.dead = self.dead or bool((x == self.DEADLY).any())
        if self.dead:
            raise RuntimeError("the device is gone")
        if (x == self.POISON).any():
            raise ValueError("poison")
        return micro.double(inputs)

    def check(self):
        if self.dead:
            raise RuntimeError("the device is gone")

    def close(self):
        self.closed.set()


class Bench:
    """A batcher on sessions, with what it observed; `heal` puts a new session in the place of a lost one."""

    def __init__(self, costs=None, sessions: int = 1, heal: bool = True, **limits) -> None:
        self.facts: list[BatchFacts] = []
        self.dropped: list[tuple[str, int]] = []
        self.losses: list[str] = []
        self.sessions: list[Session] = []
        self._heal = heal
        self.batcher = Batcher(micro.DOUBLE, costs or {}, Limits(**{"queue_rows": 1000, **limits}), self, self.lost)
        for _ in range(sessions):
            self.add()

    @property
    def session(self) -> Session:
        return self.sessions[0]

    def add(self):
        self.sessions.append(Session())
        self.batcher.add(Worker(self.sessions[-1], Session.check, "session"))

    def lost(self, worker, error):
        self.losses.append(str(error))
        if self._heal:
            self.add()

    def batch(self, facts):
        self.facts.append(facts)

    def abandoned(self, rows):
        self.dropped.append(("abandoned", rows))

    def refused(self, reason, rows):
        self.dropped.append((reason, rows))

    def expired(self, rows):
        self.dropped.append(("expired", rows))

    async def ask(self, *values: float, **options) -> list[float]:
        x = np.repeat(np.array(values, np.float32)[:, None], 2, axis=1)
        answer = await self.batcher.submit({"x": x}, len(values), None, **options)
        return answer.outputs["logits"][:, 0].tolist()

    async def held(self) -> asyncio.Task[list[float]]:
        """A first request that keeps the session busy until the gate opens."""
        self.session.gate.clear()
        task = asyncio.ensure_future(self.ask(0.5))
        await asyncio.to_thread(self.session.entered.wait, 10)
        return task

    def ask_soon(self, *values: float, **options) -> asyncio.Task[list[float]]:
        return asyncio.ensure_future(self.ask(*values, **options))


def run(scenario, **options) -> Bench:
    async def main() -> Bench:
        bench = Bench(**options)
        try:
            await asyncio.wait_for(scenario(bench), 20)
        finally:
            for session in bench.sessions:
                session.gate.set()
            for worker in bench.batcher.workers:
                worker.close()
        return bench

    return asyncio.run(main())


@given(st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=20), min_size=1, max_size=20), st.integers(1, 3))
def test_each_caller_gets_exactly_its_own_rows(requests, sessions):
    async def scenario(bench):
        answers = await asyncio.gather(*(bench.ask(*values) for values in requests))
        assert answers == [[2 * value for value in values] for values in requests]

    bench = run(scenario, sessions=sessions)
    batches = [size for session in bench.sessions for size in session.batches]
    assert sum(batches) == sum(map(len, requests))
    assert max(batches) <= micro.BATCH.max


def test_an_idle_session_starts_at_once_with_all_that_arrived_together():
    async def scenario(bench):
        await asyncio.gather(*(bench.ask(value) for value in range(5)))

    assert run(scenario).session.batches == [5]


def test_a_batch_faster_than_a_thread_hop_runs_in_the_loop_and_any_other_in_its_own_thread():
    async def scenario(bench):
        assert await bench.ask(1) == [2]
        assert await bench.ask(1, 2, 3, 4) == [2, 4, 6, 8]
        assert await bench.ask(*range(8)) == [2 * value for value in range(8)], "more rows than were measured"

    costs = {(1, None): INLINE_SECONDS / 2, (4, None): INLINE_SECONDS * 2}
    threads = run(scenario, costs=costs).session.threads
    assert [thread is threading.main_thread() for thread in threads] == [True, False, False]


@pytest.mark.parametrize(("seconds", "inline"), [(INLINE_ALONE_SECONDS / 2, True), (INLINE_ALONE_SECONDS * 2, False)])
def test_the_only_caller_there_is_gets_its_own_batch_in_the_loop_unless_that_would_hold_up_a_probe(seconds, inline):
    async def scenario(bench):
        told = asyncio.get_running_loop().create_future()
        caller = SimpleNamespace(answered=lambda _work, answer: told.set_result(answer))
        bench.batcher.offer(caller, {"x": np.ones((1, 2), np.float32)}, 1, alone=True)
        assert told.done() is inline
        assert (await told).outputs["logits"].tolist() == [[2, 2]]

    threads = run(scenario, costs={(1, None): seconds}).session.threads
    assert [thread is threading.main_thread() for thread in threads] == [inline]


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
    assert bench.dropped == [("abandoned", 1)]


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
        assert isinstance(answers[2], Unprocessable)
        assert await bench.ask(7) == [14], "the batcher goes on"

    run(scenario)


def test_a_full_queue_refuses_at_once_and_says_when_to_come_back():
    async def scenario(bench):
        first = await bench.held()
        waiting = bench.ask_soon(1, 2, 3)
        await asyncio.sleep(0)
        with pytest.raises(Refused, match="3 rows are waiting and 2 more would exceed 4") as refused:
            await bench.ask(8, 9)
        assert refused.value.retry_after >= 1
        assert not waiting.done()
        bench.session.gate.set()
        assert await waiting == [2, 4, 6]
        assert await first == [1]
        assert await bench.ask(8, 9) == [16, 18], "room again"

    run(scenario, queue_rows=4)


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

    bench = run(scenario, queue_rows=4)
    assert bench.dropped == [("abandoned", 2), ("abandoned", 2)]


def test_a_request_that_no_queue_would_hold_is_told_to_split_not_to_retry():
    async def scenario(bench):
        with pytest.raises(PayloadTooLarge, match="the request has 5 rows; at most 4 are taken at once"):
            await bench.ask(1, 2, 3, 4, 5)

    run(scenario, queue_rows=4)


def test_when_one_part_of_a_long_request_fails_its_other_parts_do_not_run():
    async def scenario(bench):
        first = await bench.held()
        values = [Session.POISON] * 8 + [1.0] * 16
        long = bench.ask_soon(*values)
        await asyncio.sleep(0)
        bench.session.gate.set()
        with pytest.raises(Unprocessable, match="the model cannot compute these rows: poison"):
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


SLOW = {(size, None): 1.0 for size in micro.BATCH.buckets}  # seconds: far from the inline path, and easy to add up


def test_what_cannot_be_answered_in_time_is_refused_on_arrival_with_the_wait_to_expect():
    async def scenario(bench):
        first = await bench.held()
        waiting = bench.ask_soon(*range(8))
        await asyncio.sleep(0)
        assert bench.batcher.predicted_wait() == pytest.approx(2, abs=0.5), "one batch runs, one waits"
        with pytest.raises(Refused, match=r"would take about \d+ ms, \d+ of them waiting, and the timeout is 1000 ms") as refused:
            await bench.ask(1, timeout=1.0)
        assert refused.value.retry_after == 2
        patient = bench.ask_soon(1, timeout=10.0)
        await asyncio.sleep(0)
        bench.session.gate.set()
        await asyncio.gather(first, waiting, patient)

    assert run(scenario, costs=SLOW).dropped == [("deadline", 1)]


def test_an_idle_session_takes_what_it_is_predicted_to_be_too_slow_for():
    async def scenario(bench):
        assert await bench.ask(1, timeout=0.5) == [2]

    run(scenario, costs=SLOW)


def test_the_status_of_a_refusal_is_a_setting():
    async def scenario(bench):
        first = await bench.held()
        with pytest.raises(Refused) as refused:
            await asyncio.gather(bench.ask(1, 2), bench.ask(3, 4))
        assert refused.value.status == 503
        bench.session.gate.set()
        await first

    run(scenario, queue_rows=2, refusal=503)


def test_what_expires_while_queued_is_answered_at_its_deadline_and_never_runs():
    async def scenario(bench):
        first = await bench.held()
        with pytest.raises(DeadlineExceeded, match="no answer within the timeout of 20 ms; it ended waiting for a session"):
            await bench.ask(1, 2, timeout=0.02)
        assert bench.batcher.waiting_rows == 0
        bench.session.gate.set()
        await first
        assert await bench.ask(3) == [6]

    bench = run(scenario)
    assert bench.session.batches == [1, 1]
    assert bench.dropped == [("expired", 2)]


def test_a_deadline_covers_computing_too():
    async def scenario(bench):
        bench.session.gate.clear()
        with pytest.raises(DeadlineExceeded, match="it ended while it ran"):
            await bench.ask(1, timeout=0.02)
        bench.session.gate.set()
        assert await bench.ask(2) == [4]

    assert run(scenario).dropped == [("expired", 1)]


def test_a_higher_priority_overtakes():
    async def scenario(bench):
        first = await bench.held()
        order = []
        tasks = [bench.ask_soon(*[value] * 8, priority=priority) for value, priority in ((1, 0), (2, 4), (3, 1), (4, 2))]
        for value, task in enumerate(tasks, 1):
            task.add_done_callback(lambda _, value=value: order.append(value))
        await asyncio.sleep(0)
        bench.session.gate.set()
        await asyncio.gather(first, *tasks)
        assert order == [3, 4, 1, 2]

    run(scenario)


def test_a_low_priority_is_put_off_by_a_bounded_time_only(monkeypatch):
    monkeypatch.setattr("service.batching.HEAD_START", 0.01)

    async def scenario(bench):
        first = await bench.held()
        order = []
        low = bench.ask_soon(*[1] * 8, priority=4)
        low.add_done_callback(lambda _: order.append("low"))
        await asyncio.sleep(0.05)  # longer than three head starts
        high = bench.ask_soon(*[2] * 8, priority=1)
        high.add_done_callback(lambda _: order.append("high"))
        await asyncio.sleep(0)
        bench.session.gate.set()
        await asyncio.gather(first, low, high)
        assert order == ["low", "high"]

    run(scenario)


def test_a_window_counts_from_its_first_row_and_a_full_batch_does_not_wait_for_its_end():
    async def scenario(bench):
        loop = asyncio.get_running_loop()
        started = loop.time()
        assert await asyncio.gather(bench.ask(1), bench.ask(2)) == [[2], [4]]
        assert loop.time() - started >= 0.05
        started = loop.time()
        await bench.ask(*range(8))
        assert loop.time() - started < 0.05

    bench = run(scenario, queue_delay=0.05)
    assert bench.session.batches == [2, 8]
    assert [facts.reason for facts in bench.facts] == ["window", "full"]


def test_two_sessions_run_two_batches_at_once():
    async def scenario(bench):
        for session in bench.sessions:
            session.gate.clear()
        tasks = [bench.ask_soon(*range(8)), bench.ask_soon(*range(8))]
        for session in bench.sessions:
            assert await asyncio.to_thread(session.entered.wait, 10)
        for session in bench.sessions:
            session.gate.set()
        await asyncio.gather(*tasks)

    run(scenario, sessions=2)


@pytest.mark.parametrize(("sessions", "batches"), [(1, [[8]]), (2, [[4], [4]]), (3, [[3], [3], [2]])])
def test_rows_that_come_at_once_are_shared_out_to_all_idle_sessions(sessions, batches):
    async def scenario(bench):
        await asyncio.gather(*(bench.ask(value) for value in range(8)))

    bench = run(scenario, sessions=sessions)
    assert sorted((session.batches for session in bench.sessions), reverse=True) == batches


def test_a_session_that_dies_is_replaced_and_those_that_were_on_it_are_answered_all_the_same():
    async def scenario(bench):
        requests = [bench.ask(value) for value in (1, 2, Session.DEADLY, 4)]
        answers = await asyncio.gather(*requests, return_exceptions=True)
        assert [answers[i] for i in (0, 1, 3)] == [[2], [4], [8]]
        assert isinstance(answers[2], Unavailable), "it killed two sessions: the third is spared"
        assert await bench.ask(7) == [14]

    bench = run(scenario)
    assert bench.losses == ["the device is gone"] * 2
    assert all(session.closed.wait(10) for session in bench.sessions[:2])


def test_a_session_that_hangs_is_replaced_and_its_rows_are_answered_by_the_next():
    async def scenario(bench):
        first = await bench.held()
        assert await first == [1]
        assert await bench.ask(2) == [4]

    bench = run(scenario, watchdog=0.05)
    assert bench.losses == ["a batch did not end within 0.05 s"]
    assert len(bench.sessions) == 2


def test_without_a_session_callers_are_told_and_served_again_once_there_is_one():
    async def scenario(bench):
        waiting = bench.ask_soon(Session.DEADLY)
        while not bench.losses:
            await asyncio.sleep(0.001)
        bench.batcher.fail(Unavailable("no session"))
        with pytest.raises(Unavailable, match="no session"):
            await waiting
        with pytest.raises(Unavailable, match="no session"):
            await bench.ask(1)
        bench.batcher.fail(None)
        bench.add()
        assert await bench.ask(1) == [2]

    run(scenario, heal=False)


def test_waits_are_measured_though_uvloops_own_clock_stands_still_within_a_turn():
    async def main():
        bench = Bench()
        assert await bench.ask(1) == [2]
        for worker in bench.batcher.workers:
            worker.close()
        return bench.facts[0].waits

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        (wait,) = runner.run(main())
    assert 0 < wait < 1
