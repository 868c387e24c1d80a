"""The search for the highest rate, on servers whose limit is known."""

from __future__ import annotations

import asyncio

import pytest

from loadtests.mlperf.search import highest


def searched(limit, start):
    tried = []

    async def bears(rate):
        tried.append(rate)
        return rate <= limit

    return asyncio.run(highest(bears, start)), tried


@pytest.mark.parametrize("limit", [100, 731.5, 40_000])
@pytest.mark.parametrize("factor", [0.2, 1, 7])
def test_it_finds_the_limit_within_five_percent_from_any_side(limit, factor):
    found, tried = searched(limit, limit * factor)
    assert limit / 1.05 <= found <= limit
    assert found in tried
    assert len(tried) <= 12


def test_it_gives_up_where_even_an_eighth_is_too_much():
    found, tried = searched(10, 1000)
    assert found is None
    assert min(tried) == 125
