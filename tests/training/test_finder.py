from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import TINY
from training import loop
from training.finder import HIGHEST, LOWEST, find


def test_the_suggestion_lies_where_the_loss_falls_fastest():
    """A loss that falls around 1e-2, is lowest at 1e-1, and explodes beyond."""

    def loss(rate):
        return 1 / (1 + rate / 1e-2) + (rate / 0.5) ** 2

    found = find(loss)
    assert 2e-3 < found.suggestion < 1e-1
    assert found.rates[0] == LOWEST
    assert found.rates[-1] < HIGHEST, "it stops where the loss gives way"
    assert len(found.rates) == len(found.losses)


def test_noise_from_batch_to_batch_does_not_pass_for_a_fall():
    for seed in range(50):
        random = np.random.default_rng(seed)
        found = find(lambda rate, random=random: 1 / (1 + rate / 1e-2) + (rate / 0.5) ** 2 + random.normal(scale=0.2))
        assert 1e-3 < found.suggestion < 1e-1, seed


def test_a_loss_that_is_no_number_ends_the_search():
    found = find(lambda rate: 1 - rate if rate < 1e-2 else math.nan)
    assert found.rates[-1] < 1e-2


def test_a_loss_that_never_falls_is_an_error():
    with pytest.raises(ValueError, match="fell at no learning rate: try another --model.init"):
        find(lambda rate: 1 + rate)


def test_the_rate_found_for_a_real_network_trains_it(tmp_path):
    tiny = replace(TINY["mlp"], out=tmp_path / "run")
    found = loop.find_learning_rate(tiny)
    assert 1e-4 < found.suggestion < 1
    assert not tiny.out.exists(), "it keeps nothing"
    assert loop.find_learning_rate(tiny) == found
