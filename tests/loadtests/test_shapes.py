"""Load over time."""

from __future__ import annotations

import pytest

from loadtests.shapes import SHAPES, saturated, step_at, users_at


def course(shape, users=100, duration=100.0):
    return [users_at(shape, seconds, users, duration) for seconds in (0, 10, 39, 40, 59, 60, 99, 100)]


def test_a_ramp_rises_all_the_time_to_all_users():
    assert course("ramp") == [1, 10, 39, 40, 59, 60, 99, 100]


def test_steps_are_ten_of_equal_height():
    assert course("steps") == [10, 20, 40, 50, 60, 70, 100, 100]
    assert [step_at(seconds, 100) for seconds in (0, 9.9, 10, 99.9, 100)] == [0, 0, 1, 9, 9]


def test_a_spike_comes_and_goes_at_once():
    assert course("spike") == [20, 20, 20, 100, 100, 20, 20, 20]


def test_a_soak_has_all_users_after_a_tenth_of_the_time_and_half_a_minute_at_most():
    assert course("soak") == [1, 100, 100, 100, 100, 100, 100, 100]
    assert users_at("soak", 30, 100, 3600) == 100


@pytest.mark.parametrize("shape", SHAPES)
def test_there_is_always_a_user_and_never_more_than_asked_for(shape):
    for users in (1, 3, 50):
        counts = [users_at(shape, seconds / 10, users, 60) for seconds in range(601)]
        assert min(counts) >= 1
        assert max(counts) == users


def test_an_unknown_shape_is_named():
    with pytest.raises(ValueError, match="shape is 'wave'; known are ramp, steps, spike, soak"):
        users_at("wave", 1, 1, 1)


@pytest.mark.parametrize(
    ("rates", "found"),
    [([], False), ([100], False), ([100, 101], False), ([100, 200, 300], False), ([100, 101, 107], False), ([300, 310, 290], True)],
)
def test_saturation_is_two_steps_that_bring_hardly_more(rates, found):
    assert saturated(rates) is found
