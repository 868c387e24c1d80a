from __future__ import annotations

import pytest
import torch

from modelrepo.tensors import DEFAULT_BATCH
from tests.training.models.samples import SERIES, TOKENS
from training.models.sequences import Embedding, last_real, pool, reverse, sequence_inputs

MASK = torch.tensor([[True, False, False], [True, True, False], [True, True, True]])
X = torch.tensor(
    [[[1.0, -1.0], [90.0, 90.0], [90.0, 90.0]], [[1.0, 8.0], [3.0, 2.0], [90.0, 90.0]], [[1.0, 0.0], [2.0, 9.0], [6.0, 3.0]]]
)


def test_the_last_real_position_is_read():
    assert last_real(X, MASK).tolist() == [[1, -1], [3, 2], [6, 3]]


@pytest.mark.parametrize(
    ("pooling", "pooled"),
    [
        ("last", [[1, -1], [3, 2], [6, 3]]),
        ("mean", [[1, -1], [2, 5], [3, 4]]),
        ("max", [[1, -1], [3, 8], [6, 9]]),
    ],
)
def test_pooling_looks_at_real_positions_only(pooling, pooled):
    assert pool(X, MASK, pooling).tolist() == pooled


@pytest.mark.parametrize("pooling", ["last", "mean", "max"])
@pytest.mark.parametrize("wild", [torch.nan, torch.inf, -1e30])
def test_pooling_survives_whatever_lies_in_the_padding(pooling, wild):
    x = X.masked_fill(~MASK.unsqueeze(2), wild)
    torch.testing.assert_close(pool(x, MASK, pooling), pool(X, MASK, pooling))


def test_reversing_turns_each_row_within_its_own_mask():
    assert reverse(X, MASK)[:, :, 0].tolist() == [[1, 90, 90], [3, 1, 90], [6, 2, 1]]
    assert torch.equal(reverse(reverse(X, MASK), MASK), X)


def test_token_vectors_are_of_order_1():
    torch.manual_seed(0)
    embedding = Embedding(2000, 64)
    assert embedding(torch.arange(2000)).std().item() == pytest.approx(1, abs=0.02)
    assert embedding.weight.std().item() == pytest.approx(1 / 8, abs=0.005)


def test_the_specs_say_what_a_sequence_may_hold():
    tokens, mask = sequence_inputs(TOKENS, DEFAULT_BATCH)
    assert (tokens.describe(), tokens.bounds.min, tokens.bounds.max) == ("int64 [batch, length]", 0, 10)
    assert (mask.describe(), mask.role) == ("bool [batch, length]", "mask")
    steps, _ = sequence_inputs(SERIES, DEFAULT_BATCH)
    assert (steps.describe(), steps.bounds) == ("float32 [batch, length, 2]", None)
