from __future__ import annotations

from typing import get_args

import pytest
import torch

from modelrepo.tasks import Regression
from tests.training.models.samples import (
    COLOUR,
    GREY,
    LABELS,
    MIXED,
    NUMBERS,
    TABLE,
    TASKS,
    assert_export_is_equal,
    inputs,
    without_gradient,
)
from training.models import MLPConfig, build
from training.models.layers import Activation, Init, Norm
from training.models.mlp import Residual

KINDS = [pytest.param(TABLE, id="numbers"), pytest.param(MIXED, id="mixed table"), pytest.param(COLOUR, id="pictures")]
CONFIGS = [
    pytest.param(MLPConfig(), id="default"),
    pytest.param(MLPConfig(hidden=()), id="linear"),
    pytest.param(MLPConfig(hidden=(8, 8, 5), residual=True, norm="layer", activation="gelu"), id="residual"),
    pytest.param(MLPConfig(hidden=(8,), dropout=0.2, norm="none"), id="dropout"),
]


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.type)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CONFIGS)
def test_outputs_have_the_shape_the_signature_says(config, kind, task):
    model = build(config, kind, task).eval()
    output = model(**inputs(model))
    assert tuple(output.shape) == model.signature().outputs[0].shape_at(5)
    assert output.isfinite().all(), "the samples lack values"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("config", CONFIGS)
def test_every_parameter_gets_a_gradient(config, kind):
    torch.manual_seed(0)
    assert without_gradient(build(config, kind, LABELS)) == []


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("norm", get_args(Norm))
@pytest.mark.parametrize("activation", get_args(Activation))
def test_gradients_reach_the_first_of_several_layers_with_every_activation_and_norm(activation, norm, residual):
    torch.manual_seed(0)
    config = MLPConfig(hidden=(8, 8, 6), activation=activation, norm=norm, residual=residual)
    assert without_gradient(build(config, MIXED, LABELS)) == []


def test_a_residual_layer_adds_to_what_came_in():
    model = build(MLPConfig(hidden=(2, 2), residual=True, norm="none", init="zeros"), TABLE, NUMBERS)
    x = torch.tensor([[3.0, -1.0]])
    assert torch.equal(model.layers(model.prepare(x)), model.prepare(x)), "layers of zeros add nothing"


def test_where_widths_differ_the_shortcut_is_a_linear_map():
    layers = build(MLPConfig(hidden=(2, 5), residual=True), TABLE, NUMBERS).layers
    assert all(isinstance(layer, Residual) for layer in layers)
    assert [sum(p.numel() for p in layer.shortcut.parameters()) for layer in layers] == [0, 10]


def test_a_table_of_categories_is_as_wide_as_there_are_categories():
    model = build(MLPConfig(hidden=(3,), norm="none"), MIXED, NUMBERS)
    assert model.layers[0][0].in_features == 2 + 5 + 2
    assert model.signature().inputs[0].shape_at(7) == (7, 4), "callers send a column as one number"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"hidden": (4, 0)}, "hidden must be at least 1, not 0"),
        ({"activation": "swish"}, "activation must be one of sigmoid, .* not 'swish'"),
        ({"norm": None}, "norm must be one of batch, layer, rms, none, not None"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
        ({"init": "ones"}, "init must be one of auto, he, xavier, zeros, not 'ones'"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(fault, message):
    with pytest.raises(ValueError, match=message):
        MLPConfig(**fault)


@pytest.mark.parametrize("scheme", get_args(Init))
def test_weights_are_drawn_as_asked(scheme):
    torch.manual_seed(0)
    weight = build(MLPConfig(hidden=(400,), init=scheme), GREY, LABELS).layers[0][0].weight
    expected = {"auto": 2 / 64, "he": 2 / 64, "xavier": 2 / 464, "zeros": 0}[scheme]
    assert weight.var().item() == pytest.approx(expected, rel=0.05)


def test_a_purely_numeric_table_costs_no_more_than_its_standardisation(tmp_path):
    operations = assert_export_is_equal(build(MLPConfig(hidden=(4,)), TABLE, Regression(targets=("t",))), tmp_path)
    assert sorted(operations) == sorted(["Sub", "Div", "IsNaN", "Where", "Gemm", "Relu", "Gemm"]), "norms are folded into layers"


@pytest.mark.parametrize(
    ("config", "kind", "task"),
    [
        pytest.param(MLPConfig(hidden=(6, 6, 4), residual=True, norm="layer", activation="gelu"), MIXED, NUMBERS, id="mixed table"),
        pytest.param(MLPConfig(hidden=(), dropout=0.5), COLOUR, LABELS, id="linear on pictures"),
    ],
)
def test_an_export_answers_as_the_original(config, kind, task, tmp_path):
    torch.manual_seed(0)
    assert_export_is_equal(build(config, kind, task), tmp_path)
