"""When limits send a rollout back, and when on."""

from __future__ import annotations

import pytest

from service.metrics import SECONDS
from service.rollout.figures import Answered, Compared, Figures, quantile
from service.rollout.judge import Judge
from service.rollout.plan import Limits, Stage

CANARY, SHADOW = Stage("canary", 0.1), Stage("shadow", 1.0)


def answered(requests, failed=0, ms=2.0):
    seconds = ms / 1e3
    buckets = [0] * (len(SECONDS) + 1)
    buckets[next(i for i, bound in enumerate((*SECONDS, float("inf"))) if seconds <= bound)] = requests
    return Answered(requests, failed, (requests - failed) * seconds, tuple(buckets))


def verdict(limits, figures, stage=CANARY, now=100.0):
    return Judge(stage, limits, 0.0, Figures()).see(figures, now)


def test_nothing_follows_from_too_few_requests_however_bad():
    assert verdict(Limits(requests=100), Figures(answered(1000), answered(99, failed=99))) is None


@pytest.mark.parametrize(
    ("candidate", "cause"),
    [
        pytest.param(answered(100), None, id="the same"),
        pytest.param(answered(100, failed=2), None, id="within the limit"),
        pytest.param(answered(100, failed=4), "errors", id="more fail"),
        pytest.param(answered(100, ms=3.9), None, id="somewhat slower"),
        pytest.param(answered(100, ms=4.1), "latency", id="more than twice as slow"),
        pytest.param(answered(100, failed=100), "errors", id="nothing but failures"),
    ],
)
def test_a_canary_goes_back_when_more_of_its_requests_fail_or_take_too_long(candidate, cause):
    found = verdict(Limits(requests=100, errors=0.02, mean=2.0), Figures(answered(1000, failed=10), candidate))
    assert (found and found.cause) == cause


def test_failures_that_the_old_version_has_as_well_are_the_callers():
    assert verdict(Limits(requests=100), Figures(answered(1000, failed=300), answered(100, failed=30))) is None


def test_less_than_a_millisecond_more_is_noise():
    assert verdict(Limits(requests=100), Figures(answered(1000, ms=0.1), answered(100, ms=0.9))) is None


def test_where_nearly_all_go_to_the_candidate_it_is_held_to_what_the_old_version_did_before():
    figures = Figures(Answered(), answered(100, ms=50), history=answered(5000))
    assert verdict(Limits(requests=100), figures).cause == "latency"
    assert verdict(Limits(requests=100), Figures(Answered(), answered(100, ms=50))) is None, "there is nothing to compare with"


def test_the_99th_percentile_is_looked_at_where_that_is_asked_for():
    slow_tail = answered(97) + answered(3, ms=80)
    figures = Figures(answered(1000), slow_tail)
    assert verdict(Limits(requests=100, mean=None), figures) is None
    assert verdict(Limits(requests=100, mean=None, p99=3.0), figures).cause == "latency"


@pytest.mark.parametrize(
    ("compared", "cause"),
    [
        (Compared(copies=100, rows=100, disagreeing=5, differing=100), None),
        (Compared(copies=100, rows=100, disagreeing=6), "disagreement"),
        (Compared(copies=100, failed=3, rows=97), "errors"),
        (Compared(copies=100, failed=100), "errors"),
        (Compared(copies=99, rows=99, disagreeing=99), None),
    ],
)
def test_a_shadow_goes_back_when_it_fails_or_disagrees(compared, cause):
    found = verdict(Limits(requests=100), Figures(compared=compared), SHADOW)
    assert (found and found.cause) == cause


def test_rows_beyond_the_tolerance_send_it_back_where_that_is_asked_for():
    compared = Compared(copies=100, rows=400, differing=5)
    assert verdict(Limits(requests=100, differences=0.01), Figures(compared=compared), SHADOW).cause == "difference"


def test_a_fault_that_comes_late_is_seen_at_once_and_not_lost_in_a_long_past():
    judge = Judge(CANARY, Limits(requests=100), 0.0, Figures())
    past = Figures(answered(100_000), answered(10_000))
    assert judge.see(past, 10.0) is None
    assert judge.see(past + Figures(answered(900), answered(99, failed=99)), 11.0) is None
    assert judge.see(past + Figures(answered(900), answered(100, failed=100)), 12.0).cause == "errors"


def test_it_goes_on_after_enough_requests_and_seconds_within_the_limits():
    limits = Limits(requests=100, promote=300, seconds=60)
    judge = Judge(CANARY, limits, 0.0, Figures())
    for number, (now, on) in enumerate([(10, False), (20, False), (30, False), (61, True)], 1):
        found = judge.see(Figures(answered(1000 * number), answered(100 * number)), now)
        assert (found is not None and found.cause == "limits") == on, now


def test_when_a_worker_starts_again_counting_begins_anew():
    judge = Judge(CANARY, Limits(requests=100), 0.0, Figures(answered(1000), answered(90)))
    assert judge.see(Figures(answered(400), answered(40, failed=40)), 1.0) is None
    assert judge.see(Figures(answered(900), answered(139, failed=40)), 2.0) is None
    assert judge.see(Figures(answered(900), answered(140, failed=80)), 3.0).cause == "errors"


def test_a_quantile_is_what_prometheus_would_say():
    assert quantile(0.5, (1.0, 2.0, 4.0), (0, 10, 10, 0)) == 2.0
    assert quantile(0.75, (1.0, 2.0, 4.0), (0, 10, 10, 0)) == 3.0
    assert quantile(0.99, (1.0, 2.0, 4.0), (0, 0, 0, 5)) == 4.0
    assert quantile(0.99, (1.0, 2.0, 4.0), (0, 0, 0, 0)) is None
