"""Looking for the next request of a lone client: for a moment, and only while it pays."""

from __future__ import annotations

import pytest

from service import busy_poll
from service.busy_poll import EVERY, MISSES, SECONDS, BusyPoll


class Loop:
    """An event loop that turns when told to, under a clock of its own."""

    def __init__(self) -> None:
        self.now = 0.0
        self.soon = []

    def call_soon(self, callback, *arguments):
        self.soon.append((callback, arguments))

    def turn(self, seconds: float) -> bool:
        """Let time pass and one turn happen; whether the loop may sleep after it."""
        self.now += seconds
        due, self.soon = self.soon, []
        for callback, arguments in due:
            callback(*arguments)
        return not self.soon


@pytest.fixture
def loop(monkeypatch):
    made = Loop()
    monkeypatch.setattr(busy_poll.time, "monotonic", lambda: made.now)
    return made


def rest(poll, loop) -> bool:
    """Answer a request after which none comes; whether the loop stayed awake for it."""
    poll.rest(loop, loop.now)
    awake = bool(loop.soon)
    while not loop.turn(SECONDS / 2):
        pass
    return awake


def test_after_an_answer_the_loop_stays_awake_for_a_moment_and_then_sleeps(loop):
    poll = BusyPoll()
    poll.rest(loop, loop.now)
    assert not loop.turn(SECONDS * 0.9)
    assert loop.turn(SECONDS * 0.2)


def test_a_request_in_time_begins_a_new_moment(loop):
    poll = BusyPoll()
    poll.rest(loop, loop.now)
    for _ in range(5):
        assert not loop.turn(SECONDS * 0.6)
        poll.rest(loop, loop.now)
    assert len(loop.soon) == 1, "however many requests, it looks once a turn"
    assert loop.turn(SECONDS * 1.1)


def test_while_a_request_is_under_way_the_loop_may_sleep(loop):
    poll = BusyPoll()
    poll.rest(loop, loop.now)
    poll.found()
    assert loop.turn(SECONDS * 0.1)


def test_clients_that_let_it_wait_cost_next_to_nothing(loop):
    poll = BusyPoll()
    assert all(rest(poll, loop) for _ in range(MISSES))
    stays = [rest(poll, loop) for _ in range(10 * EVERY)]
    assert sum(stays) == 10


@pytest.mark.parametrize("under_way", [True, False], ids=["computed in a thread", "answered at once"])
def test_it_begins_again_once_requests_follow_closely(loop, under_way):
    poll = BusyPoll()
    while rest(poll, loop):
        pass
    while not loop.soon:
        poll.rest(loop, loop.now)
    if under_way:  # a request comes in time
        poll.found()
        loop.turn(0)
    poll.rest(loop, loop.now)
    assert loop.soon
    while not loop.turn(SECONDS):
        pass
    assert rest(poll, loop), "one that came makes up for those that did not"
