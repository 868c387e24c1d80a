"""Limits and which of them are broken: a verdict that cannot be bad says nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

import loadtests
from loadtests import slo
from loadtests.slo import Figures, Limits, Slo, SloError


def figures(requests=100, errors=0, refusals=0, ms=5.0):
    return Figures(requests, errors, refusals, Counter({ms: requests - refusals}))


def test_the_example_is_a_file_of_limits():
    limits = slo.read(Path(loadtests.__file__).parent / "slo.toml")
    assert limits.all.p99_ms
    assert limits.all.error_rate == 0
    assert limits.endpoints


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[all]\np98_ms = 1", "all.p98_ms: Extra inputs are not permitted"),
        ("[all]\nerror_rate = 1.5", "all.error_rate: Input should be less than or equal to 1"),
        ('[endpoints."a"]\np50_ms = "fast"', "endpoints.a.p50_ms"),
        ("[all", "limits cannot be read from"),
    ],
)
def test_a_file_that_means_nothing_is_refused_with_the_place(tmp_path, text, why):
    path = tmp_path / "slo.toml"
    path.write_text(text)
    with pytest.raises(SloError) as refused:
        slo.read(path)
    assert why in str(refused.value)


def test_what_is_within_every_limit_breaks_none():
    limits = Limits(p50_ms=5, p99_ms=5, error_rate=0.01, refusal_rate=0.1)
    assert slo.broken(Slo(all=limits), {"predict a": figures(errors=1, refusals=10)}) == []


@pytest.mark.parametrize(
    ("limits", "found", "line"),
    [
        (Limits(p50_ms=4), figures(), "all: p50 is 5 ms, allowed are 4 ms"),
        (Limits(p99_ms=4), figures(), "all: p99 is 5 ms, allowed are 4 ms"),
        (Limits(error_rate=0), figures(errors=1), "all: error rate is 1.00% (1 of 100), allowed is 0.00%"),
        (Limits(refusal_rate=0.1), figures(refusals=11), "all: refusal rate is 11.00% (11 of 100), allowed is 10.00%"),
        (Limits(p50_ms=4), figures(refusals=100), "all: p50 is nan ms, allowed are 4 ms"),
        (Limits(), figures(requests=0), "no request was sent: nothing can be said about any limit"),
    ],
)
def test_each_broken_limit_is_a_line(limits, found, line):
    assert slo.broken(Slo(all=limits), {"predict a": found}) == [line]


def test_an_endpoint_is_held_to_its_own_limits():
    limits = Slo(endpoints={"predict *": Limits(p50_ms=6), "v2-json b": Limits(p50_ms=6)})
    found = {"predict a": figures(ms=7.0), "predict b": figures(), "v2-json b": figures(ms=8.0), "v2-json a": figures(ms=9.0)}
    assert slo.broken(limits, found) == [
        "predict a: p50 is 7 ms, allowed are 6 ms",
        "v2-json b: p50 is 8 ms, allowed are 6 ms",
    ]


def test_an_endpoint_named_in_full_must_have_been_called():
    lines = slo.broken(Slo(endpoints={"predict c": Limits(), "images *": Limits()}), {"predict a": figures()})
    assert lines == ["predict c: was never called; called were predict a"]


def test_refusals_do_not_make_the_answers_look_quick():
    found = Figures(1000, 0, 990, Counter({10.0: 10}))
    assert found.quantile_ms(0.5) == 10


def test_a_quantile_is_the_least_time_that_this_share_kept_to():
    found = Figures(100, 0, 0, Counter({1.0: 98, 2.0: 1, 3.0: 1}))
    assert [found.quantile_ms(quantile) for quantile in (0.5, 0.98, 0.99, 1.0)] == [1, 1, 2, 3]
