from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from modelrepo.preprocessing import Categorical, Numeric
from modelrepo.tasks import Multiclass, Regression
from modelrepo.tensors import TensorSpec
from tests.training.models.samples import MIXED, NUMBERS, SERIES, TABLE, assert_export_is_equal
from training.data import DataError
from training.data.dataset import Images
from training.models import CNNConfig, MLPConfig, TransformerConfig, build
from training.models.base import Model
from training.models.layers import Activation, Columns, Head, Norm, Standardize, activation, initialise, norm

NAN = float("nan")


# Input


def test_standardising_gives_mean_0_and_deviation_1_per_channel():
    image = torch.randn(200, 2, 4, 4, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 5.0])[:, None, None] + 7
    done = Standardize(Images(height=4, width=4, mean=(7.0, 7.0), scale=(3.0, 5.0)), axis=-3)(image)
    torch.testing.assert_close(done.mean((0, 2, 3)), torch.zeros(2), atol=0.06, rtol=0)
    torch.testing.assert_close(done.std((0, 2, 3)), torch.ones(2), atol=0.06, rtol=0)


def test_columns_become_standardised_numbers_one_column_per_category_and_one_per_column_that_lacked_values():
    columns = Columns(MIXED.columns)
    features = torch.tensor([[2.0, 5.0, 1.0, -1.0], [NAN, NAN, 0.0, NAN], [0.0, 1.0, NAN, 0.0]])
    expected = [
        # x, y    red green blue  round square  no colour, no x
        [2.0, 0.0, 0, 0, 1, 0, 1, 0, 0],
        [0.0, 0.0, 0, 0, 0, 1, 0, 1, 1],
        [0.0, 2.0, 1, 0, 0, 0, 0, 0, 0],
    ]
    assert columns(features).tolist() == expected
    assert columns.width == 9


def test_an_index_that_no_category_has_is_no_category():
    columns = Columns((Categorical(name="c", categories=("u", "v")),))
    assert columns(torch.tensor([[-1.0], [2.0], [0.5], [1.0]])).tolist() == [[0, 0], [0, 0], [0, 0], [0, 1]]


def test_a_missing_number_becomes_the_mean_also_where_training_rows_lacked_none():
    columns = Columns(TABLE.columns)
    assert columns.width == 2
    assert columns(torch.tensor([[NAN, -0.5]])).tolist() == columns(torch.tensor([[1.0, -0.5]])).tolist() == [[0, 1]]


def test_numeric_columns_keep_their_order_among_others():
    columns = Columns(
        (Numeric(name="a", mean=0, scale=1), Categorical(name="c", categories=("u",)), Numeric(name="b", mean=0, scale=1))
    )
    assert columns(torch.tensor([[7.0, 0.0, 9.0]])).tolist() == [[7, 9, 1]]


# Activations and norms


@pytest.mark.parametrize(
    ("name", "at_minus_1", "at_1"),
    [
        ("sigmoid", 0.268941, 0.731059),
        ("tanh", -0.761594, 0.761594),
        ("relu", 0.0, 1.0),
        ("leaky_relu", -0.01, 1.0),
        ("elu", -0.632121, 1.0),
        ("silu", -0.268941, 0.731059),
        ("gelu", -0.158655, 0.841345),
    ],
)
def test_activations_are_the_textbook_functions(name, at_minus_1, at_1):
    torch.testing.assert_close(activation(name)(torch.tensor([-1.0, 1.0])), torch.tensor([at_minus_1, at_1]))


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(ValueError, match="activation must be one of sigmoid, .*silu, gelu, not 'swish'"):
        activation("swish")
    with pytest.raises(ValueError, match="norm must be one of batch, layer, rms, none, not 'group'"):
        norm("group", 3)
    with pytest.raises(ValueError, match="init must be one of auto, he, xavier, zeros, not 'ones'"):
        initialise(nn.Linear(1, 1), "ones", "relu")


SHAPES = [
    pytest.param((64, 5), 0, -1, id="rows"),
    pytest.param((64, 5, 7), 1, 1, id="1-D maps"),
    pytest.param((64, 5, 4, 3), 2, 1, id="2-D maps"),
]


@pytest.mark.parametrize(("shape", "dims", "axis"), SHAPES)
def test_norms_bring_features_to_the_scale_of_1(shape, dims, axis):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 3 + 2
    others = tuple(a for a in range(len(shape)) if a != axis % len(shape))
    batch = norm("batch", 5, dims=dims).train()(x)
    torch.testing.assert_close(batch.mean(others), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(batch.std(others, correction=0), torch.ones(5), atol=1e-4, rtol=0)
    layer = norm("layer", 5, dims=dims)(x)
    torch.testing.assert_close(layer.mean(axis), torch.zeros_like(layer.mean(axis)), atol=1e-5, rtol=0)
    torch.testing.assert_close(layer.std(axis, correction=0), torch.ones_like(layer.mean(axis)), atol=1e-2, rtol=0)
    rms = norm("rms", 5, dims=dims)(x)
    torch.testing.assert_close(rms.square().mean(axis), torch.ones_like(rms.mean(axis)), atol=1e-3, rtol=0)
    torch.testing.assert_close(rms.sign(), x.sign(), msg="rms shifts nothing")
    assert norm("none", 5, dims=dims)(x) is x


@pytest.mark.parametrize("name", ["layer", "rms"])
@pytest.mark.parametrize(("shape", "dims", "axis"), SHAPES[1:])
def test_layer_and_rms_norms_of_maps_work_on_each_position_alone(shape, dims, axis, name):
    layer = norm(name, 5, dims=dims)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    changed = x.clone()
    changed[..., 1:] = 100.0
    torch.testing.assert_close(layer(changed)[..., 0], layer(x)[..., 0])


class EveryLayer(Model):
    """All activations and norms, of rows and of maps, one after the other."""

    family = "layers"

    def __init__(self):
        super().__init__(Regression(targets=("t",)))
        self.activations = nn.ModuleList(activation(name) for name in get_args(Activation))
        self.norms = nn.ModuleList(norm(name, 6, dims=dims) for name in get_args(Norm) for dims in (0, 1, 2))

    def inputs(self, batch):
        return (TensorSpec(name="x", dtype="float32", shape=(batch, 6)),)

    def forward(self, x):
        outputs = [layer(x * 3) for layer in self.activations]
        for number, layer in enumerate(self.norms):
            dims = number % 3
            maps = torch.stack([x * 2 + 1, x.square()], dim=2) if dims else x * 2 + 1  # [N, 6, 2] or [N, 6]
            outputs.append(layer(maps.unsqueeze(3) if dims == 2 else maps).flatten(1))
        return torch.cat(outputs, dim=1).cumsum(1)[:, -1:] + torch.cat(outputs, dim=1).square().sum(1, keepdim=True)


def test_every_activation_and_norm_survives_export(tmp_path):
    assert_export_is_equal(EveryLayer(), tmp_path)


# Weights


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.ModuleDict(
        {
            "linear": nn.Linear(300, 200),
            "conv1": nn.Conv1d(40, 100, 5),
            "conv2": nn.Conv2d(20, 80, 3),
            "head": Head(300, Multiclass(labels=tuple("abcdefghij"))),
            "embedding": nn.Embedding(5, 4),
            "lstm": nn.LSTM(3, 4),
            "norm": nn.BatchNorm1d(4),
        }
    )


FAN_IN = {"linear": 300, "conv1": 40 * 5, "conv2": 20 * 9}
FAN_OUT = {"linear": 200, "conv1": 100 * 5, "conv2": 80 * 9}


@pytest.mark.parametrize(
    ("scheme", "function", "he"),
    [
        ("auto", "relu", True),
        ("auto", "leaky_relu", True),
        ("auto", "elu", True),
        ("auto", "silu", True),
        ("auto", "gelu", True),
        ("auto", "tanh", False),
        ("auto", "sigmoid", False),
        ("he", "tanh", True),
        ("xavier", "relu", False),
    ],
)
def test_weights_have_the_variance_that_suits_the_activation(network, scheme, function, he):
    initialise(network, scheme, function)
    for name, fan_in in FAN_IN.items():
        expected = 2 / fan_in if he else 2 / (fan_in + FAN_OUT[name])
        assert network[name].weight.var().item() == pytest.approx(expected, rel=0.03)
        assert not network[name].bias.any()
    assert network["head"].linear.weight.var().item() == pytest.approx(2 / 310, rel=0.1), "no activation follows a head"


def test_zeros_are_zeros_and_break_learning():
    torch.manual_seed(0)
    model = build(MLPConfig(hidden=(8, 8), norm="none", init="zeros"), TABLE, NUMBERS)
    model(features=torch.randn(16, 2)).square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad.any()] == ["head.linear.bias"]


def test_embeddings_recurrent_weights_and_norms_are_left_alone(network):
    before = {name: value.clone() for name, value in network.state_dict().items() if name.startswith(("embedding", "lstm", "norm"))}
    initialise(network, "zeros", "relu")
    after = network.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


# Head


def test_a_regression_head_answers_in_the_units_of_the_data():
    head = Head(3, NUMBERS)
    x = torch.randn(4, 3)
    torch.testing.assert_close(head(x), head.linear(x) * torch.tensor([0.5, 30.0]) + torch.tensor([5.0, -100.0]))


@pytest.mark.parametrize("task", [Regression(targets=("t",)), Multiclass(labels=("a", "b"))])
def test_other_heads_are_linear_layers(task):
    head = Head(3, task)
    x = torch.randn(4, 3)
    assert torch.equal(head(x), head.linear(x))
    assert set(head.state_dict()) == {"linear.weight", "linear.bias"}


def test_a_head_drops_features_while_training_only():
    head = Head(1000, Regression(targets=("t",)), dropout=0.9)
    with torch.no_grad():
        head.linear.weight.fill_(1.0)
        head.linear.bias.fill_(0.0)
    ones = torch.ones(1, 1000)
    assert head.eval()(ones).item() == pytest.approx(1000, rel=1e-4)
    torch.manual_seed(0)
    kept = head.train()(ones).item() / 10  # what is kept is scaled by 1 / 0.1
    assert 60 < kept < 140


# build


def test_a_family_given_other_data_says_which_family_reads_it():
    with pytest.raises(DataError, match="the cnn family reads images and series, this data is rows: use mlp"):
        build(CNNConfig(), TABLE, NUMBERS)
    with pytest.raises(DataError, match="the mlp family reads rows and images, this data is series: use cnn or lstm"):
        build(MLPConfig(), SERIES, NUMBERS)
    with pytest.raises(DataError, match="the transformer family reads .*, this data is rows: use mlp"):
        build(TransformerConfig(), TABLE, NUMBERS)


def test_the_same_seed_builds_the_same_network():
    weights = []
    for _ in range(2):
        torch.manual_seed(3)
        weights.append(build(CNNConfig(), Images(height=8, width=8, mean=(0.0,), scale=(1.0,)), NUMBERS).state_dict())
    assert all(np.array_equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
