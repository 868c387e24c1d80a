"""Weights on a command line."""

from __future__ import annotations

import pytest

from loadtests.weights import Weights, WeightsError


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("", {"a": 1, "b": 1}),
        ("1", {"a": 1, "b": 1}),
        ("b=3", {"a": 1, "b": 3}),
        ("0 b=0.5", {"a": 0, "b": 0.5}),
    ],
)
def test_one_number_is_for_all_and_a_name_for_one(text, weights):
    assert Weights.parse(text).of(["a", "b"]) == weights


@pytest.mark.parametrize("text", ["b=", "=1", "b=-1", "often", "nan", "b=inf"])
def test_anything_else_is_refused(text):
    with pytest.raises(WeightsError, match="is neither a number from 0 nor NAME=number"):
        Weights.parse(text)


def test_a_weight_for_what_is_not_there_is_refused():
    with pytest.raises(WeightsError, match="there is a weight for 'c'; known are a, b"):
        Weights.parse("c=1").of(["a", "b"])
