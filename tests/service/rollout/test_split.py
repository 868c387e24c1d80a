"""Who gets which of two versions."""

from __future__ import annotations

from itertools import cycle
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from service.rollout.split import Split, place

STABLE = SimpleNamespace(name="m", version="1", ready=True)
CANDIDATE = SimpleNamespace(name="m", version="2", ready=True)


def test_without_a_key_a_share_of_the_requests_goes_to_the_candidate():
    numbers = cycle(number / 100 for number in range(100))
    split = Split(STABLE, CANDIDATE, 0.1, lambda: next(numbers))
    assert [split.pick(None) for _ in range(1000)].count(CANDIDATE) == 100


def test_a_share_of_nothing_and_of_everything_is_just_that():
    assert {Split(STABLE, CANDIDATE, 0.0).pick(key).version for key in (None, "a", "b")} == {"1"}
    assert {Split(STABLE, CANDIDATE, 1.0).pick(key).version for key in (None, "a", "b")} == {"2"}


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_key_that_has_the_new_version_keeps_it_while_the_share_grows(key, one, other):
    smaller, larger = sorted((one, other))
    if Split(STABLE, CANDIDATE, smaller).pick(key) is CANDIDATE:
        assert Split(STABLE, CANDIDATE, larger).pick(key) is CANDIDATE


def test_keys_are_spread_evenly_and_otherwise_in_every_rollout():
    places = [place("m:2", f"user-{number}") for number in range(2000)]
    assert abs(sum(at < 0.1 for at in places) / 2000 - 0.1) < 0.02
    assert all(0 <= at < 1 for at in places)
    first = {number for number in range(2000) if places[number] < 0.1}
    assert len(first & {number for number in range(2000) if place("m:3", f"user-{number}") < 0.1}) < 60


def test_a_place_is_the_same_on_every_machine():
    assert place("digits-cnn:2", "user-7") == 0.5301638496529523
    assert place("digits-cnn:2", "ü") == 0.44366878156216516


def test_a_candidate_without_a_session_gets_nothing():
    split = Split(STABLE, SimpleNamespace(name="m", version="2", ready=False), 1.0)
    assert split.pick(None) is STABLE
    assert split.pick("key") is STABLE
