from __future__ import annotations

import pytest
import torch

from training.models.attention import Attention
from training.models.positions import Rotary

MASK = torch.tensor([[True, True, True, False, False]])
CASES = [
    pytest.param(False, None, id="everywhere"),
    pytest.param(False, MASK, id="under a mask"),
    pytest.param(True, None, id="causal"),
    pytest.param(True, MASK, id="causal under a mask"),
]


def by_hand(layer, x, visible):
    """softmax(Q K^T / sqrt(d)) V of 2 heads with 4 features each, for one row x [T, 8]; visible [T, T] says who sees whom."""
    q, k, v = layer.qkv(x).chunk(3, dim=-1)
    weights, mixed = [], []
    for head in (slice(0, 4), slice(4, 8)):
        scores = (q[:, head] @ k[:, head].T / 2.0).masked_fill(~visible, -torch.inf)  # 2 is the square root of 4
        weights.append(scores.exp() / scores.exp().sum(dim=1, keepdim=True))
        mixed.append(weights[-1] @ v[:, head])
    return torch.stack(weights), layer.project(torch.cat(mixed, dim=-1))


@pytest.mark.parametrize(("causal", "mask"), CASES)
def test_attention_is_softmax_of_scaled_products(causal, mask):
    torch.manual_seed(0)
    layer = Attention(8, 2, causal=causal)
    x = torch.randn(1, 5, 8)
    visible = torch.ones(5, 5, dtype=torch.bool)
    if causal:
        visible = visible.tril()
    if mask is not None:
        visible = visible & mask[0]
    weights, answer = by_hand(layer, x[0], visible)
    real = 5 if mask is None else 3  # rows of padding mean nothing
    torch.testing.assert_close(layer(x, mask)[0, :real], answer[:real])
    torch.testing.assert_close(layer.weights(x, mask)[0, :, :real], weights[:, :real])


@pytest.mark.parametrize(("causal", "mask"), CASES)
def test_weights_sum_to_1_and_are_those_the_answer_is_made_with(causal, mask):
    torch.manual_seed(0)
    layer = Attention(8, 2, causal=causal, rotate=Rotary(9, 4))
    x = torch.randn(1, 5, 8)
    weights = layer.weights(x, mask)
    torch.testing.assert_close(weights.sum(dim=3), torch.ones(1, 2, 5))
    values = layer.qkv(x)[..., 16:].view(1, 5, 2, 4).transpose(1, 2)
    answer = layer.project((weights @ values).transpose(1, 2).reshape(1, 5, 8))
    real = 5 if mask is None else 3
    torch.testing.assert_close(layer(x, mask)[:, :real], answer[:, :real])


def test_with_rotary_positions_the_same_vectors_further_on_attend_alike():
    torch.manual_seed(0)
    layer = Attention(8, 2, rotate=Rotary(20, 4))
    word = torch.randn(1, 3, 8)
    padded = torch.cat([torch.randn(1, 6, 8), word], dim=1)
    here, further = layer.weights(word)[0], layer.weights(padded)[0, :, 6:, 6:]
    torch.testing.assert_close(further / further.sum(dim=2, keepdim=True), here, atol=1e-5, rtol=0)
