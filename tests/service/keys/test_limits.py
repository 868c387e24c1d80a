"""What a key may use."""

from __future__ import annotations

import pytest

from service.errors import TooManyRequests
from service.keys import limits
from service.keys.file import Key
from service.keys.limits import Limits, OwnSlots, SharedSlots


@pytest.fixture
def clock(monkeypatch):
    """The time, which the test sets."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(limits.time, "monotonic", lambda: Clock.now)
    return Clock


def key(**given):
    return Key(name="k", sha256="0" * 64, **given)


def taken(limit, most=100):
    """How many requests come in now."""
    for number in range(most):
        try:
            limit.take()
        except TooManyRequests:
            return number
    return most


def test_a_burst_comes_at_once_and_then_the_rate_holds_and_who_waits_as_told_comes_in(clock):
    limit = Limits(key(rate=2.0, burst=5), OwnSlots().of("k"), 0)
    assert taken(limit) == 5
    with pytest.raises(TooManyRequests, match="2 requests a second, 5 at once: wait 0.5 s") as caught:
        limit.take()
    assert (caught.value.status, caught.value.headers) == (429, {"Retry-After": "1"})
    clock.now += 0.49
    assert taken(limit) == 0
    clock.now += 0.01
    assert taken(limit) == 1
    clock.now += 3600
    assert taken(limit) == 5, "what was not used does not add up"


def test_a_slow_rate_says_how_long(clock):
    limit = Limits(key(rate=0.05), OwnSlots().of("k"), 0)
    assert taken(limit) == 1
    clock.now += 4.5
    with pytest.raises(TooManyRequests) as caught:
        limit.take()
    assert caught.value.retry_after == 16
    clock.now += 16
    limit.take()


def test_requests_at_a_time_are_counted_until_they_end(clock):
    limit = Limits(key(concurrency=2), OwnSlots().of("k"), 0)
    assert taken(limit) == 2
    limit.end()
    assert taken(limit) == 1


def test_one_that_never_was_gives_everything_back(clock):
    limit = Limits(key(rate=1.0, burst=2, concurrency=2), OwnSlots().of("k"), 0)
    limit.take()
    limit.undo()
    assert taken(limit) == 2


def test_workers_hold_to_the_limits_together_and_one_that_starts_again_has_nothing_under_way(clock, tmp_path):
    first, second = (Limits(key(rate=1.0, burst=4, concurrency=4), SharedSlots(tmp_path, n, 2).of("k"), n) for n in (0, 1))
    first.take()
    second.take()
    first.take()
    assert taken(second) == 1
    for limit in (first, second):
        assert taken(limit) == 0
    clock.now += 100
    assert taken(first) == 0, "all four are under way"
    again = Limits(key(rate=1.0, burst=4, concurrency=4), SharedSlots(tmp_path, 1, 2).of("k"), 1)
    assert taken(again) == 2, "the two of the worker that crashed are not"


def test_limits_that_come_while_a_request_is_under_way_do_not_count_it(clock):
    limit = Limits(key(concurrency=1), OwnSlots().of("k"), 0)
    limit.end()
    assert taken(limit) == 1
