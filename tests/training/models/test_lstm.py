from __future__ import annotations

from typing import get_args

import numpy as np
import onnxruntime
import pytest
import torch

from export.to_onnx import to_onnx
from modelrepo.tensors import ShapeRange
from tests.training.models.samples import (
    GREY,
    LABELS,
    NUMBERS,
    SERIES,
    TASKS,
    TOKENS,
    assert_export_is_equal,
    inputs,
    padding_changes,
    without_gradient,
)
from training.data.dataset import DataError, Series
from training.models import LSTMConfig, build
from training.models.lstm import Cell, Recurrence
from training.models.sequences import Pooling

CELLS = get_args(Cell)
GATED = ("lstm", "gru", "rnn")
KINDS = [pytest.param(SERIES, id="numbers"), pytest.param(TOKENS, id="tokens")]


def tiny(**options):
    return LSTMConfig(hidden=6, **options)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.type)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_outputs_have_the_shape_the_signature_says(cell, kind, task):
    model = build(tiny(cell=cell), kind, task).eval()
    assert tuple(model(**inputs(model)).shape) == model.signature().outputs[0].shape_at(5)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("pooling", get_args(Pooling))
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cell", CELLS)
def test_every_parameter_gets_a_gradient_and_padding_changes_nothing(cell, kind, pooling, layers, bidirectional):
    torch.manual_seed(0)
    config = tiny(cell=cell, pooling=pooling, layers=layers, bidirectional=bidirectional, state=3)
    model = build(config, kind, LABELS)
    assert without_gradient(model) == []
    assert padding_changes(model) < 1e-5


@pytest.mark.parametrize("cell", CELLS)
def test_not_even_what_is_no_number_leaks_out_of_the_padding(cell):
    model = build(tiny(cell=cell, bidirectional=True, layers=2), SERIES, LABELS).eval()
    batch = inputs(model)
    clean = model(**batch)
    batch["sequence"][~batch["mask"]] = torch.nan
    torch.testing.assert_close(model(**batch), clean)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_step(x, h, c, w, u, b, d):
    """Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; gates in PyTorch's order."""
    i, f, g, o = np.split(w @ x + b + u @ h + d, 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def gru_step(x, h, c, w, u, b, d):
    """Cho et al. 2014, the reset gate applied after the recurrent product, as in cuDNN."""
    (wr, wz, wn), (ur, uz, un) = np.split(w @ x + b, 3), np.split(u @ h + d, 3)
    r, z = sigmoid(wr + ur), sigmoid(wz + uz)
    return (1 - z) * np.tanh(wn + r * un) + z * h, c


def rnn_step(x, h, c, w, u, b, d):
    """Elman 1990."""
    return np.tanh(w @ x + b + u @ h + d), c


def by_hand(step, recurrence, sequence):
    """The states of one row, in the order read: sequence [T, C] gives [T, H]."""
    cell = recurrence.cell
    weights = [p.detach().double().numpy() for p in (cell.weight_ih_l0, cell.weight_hh_l0, cell.bias_ih_l0, cell.bias_hh_l0)]
    h = c = np.zeros(cell.hidden_size)
    states = []
    for x in sequence:
        h, c = step(x, h, c, *weights)
        states.append(h)
    return np.stack(states)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "step"), [("lstm", lstm_step), ("gru", gru_step), ("rnn", rnn_step)])
def test_answers_follow_the_cells_equations(cell, step, bidirectional):
    torch.manual_seed(0)
    model = build(tiny(cell=cell, bidirectional=bidirectional), SERIES, NUMBERS).eval()
    for parameter in model.layers.parameters():
        torch.nn.init.normal_(parameter)  # biases too
    batch = inputs(model)
    answers = model(**batch).detach().numpy()
    for row in range(len(answers)):
        sequence = batch["sequence"][row, batch["mask"][row]].double().numpy()
        sequence = (sequence - np.array(SERIES.mean)) / np.array(SERIES.scale)
        features = by_hand(step, model.layers[0].rightwards, sequence)[-1]
        if bidirectional:  # the last state of reading from the end is that at the first position
            features = np.concatenate([features, by_hand(step, model.layers[0].leftwards, sequence[::-1])[-1]])
        linear = model.head.linear
        expected = linear.weight.detach().numpy() @ features + linear.bias.detach().numpy()
        expected = expected * np.array(NUMBERS.scale) + np.array(NUMBERS.mean)
        np.testing.assert_allclose(answers[row], expected, rtol=1e-4, atol=1e-4)


def test_the_mean_over_both_directions_puts_the_states_of_a_step_side_by_side():
    torch.manual_seed(0)
    model = build(tiny(cell="rnn", bidirectional=True, pooling="mean"), SERIES, LABELS).eval()
    sequence = torch.randn(1, 4, 2)
    x = ((sequence[0] - torch.tensor(SERIES.mean)) / torch.tensor(SERIES.scale)).double().numpy()
    layer = model.layers[0]
    states = np.concatenate([by_hand(rnn_step, layer.rightwards, x), by_hand(rnn_step, layer.leftwards, x[::-1])[::-1]], axis=1)
    expected = model.head.linear(torch.from_numpy(states.mean(axis=0)).float())
    torch.testing.assert_close(model(sequence=sequence, mask=torch.ones(1, 4, dtype=torch.bool))[0], expected)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("cell", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1)])
def test_parameters_are_as_many_as_the_formula_says(cell, gates, bidirectional):
    c, h, directions = 2, 7, 1 + bidirectional
    model = build(LSTMConfig(cell=cell, hidden=h, layers=2, bidirectional=bidirectional), SERIES, LABELS)
    first, second = (gates * (h * width + h * h + 2 * h) for width in (c, directions * h))  # PyTorch has two biases per gate
    head = 3 * (directions * h + 1)
    assert sum(p.numel() for p in model.parameters()) == directions * (first + second) + head


@pytest.mark.parametrize("cell", GATED)
def test_recurrent_weights_start_orthogonal_gate_by_gate_and_input_weights_xavier(cell):
    torch.manual_seed(0)
    model = build(LSTMConfig(cell=cell, hidden=50, bidirectional=True), SERIES, LABELS)
    for recurrence in (m for m in model.modules() if isinstance(m, Recurrence)):
        for within in recurrence.cell.weight_hh_l0.split(50):
            torch.testing.assert_close(within @ within.T, torch.eye(50), atol=1e-5, rtol=0)
        bound = (6 / (2 + 50)) ** 0.5
        assert 0.9 * bound < recurrence.cell.weight_ih_l0.abs().max() <= bound


def test_a_new_lstm_does_not_forget():
    cell = build(tiny(), SERIES, LABELS).layers[0].rightwards.cell
    assert (cell.bias_ih_l0 + cell.bias_hh_l0).tolist() == [0] * 6 + [1] * 6 + [0] * 12


@pytest.mark.parametrize("cell", GATED)
def test_he_draws_wider_input_weights_and_zeros_none_at_all(cell):
    torch.manual_seed(0)
    deviation = {
        init: build(LSTMConfig(cell=cell, hidden=50, init=init), SERIES, LABELS).layers[0].rightwards.cell.weight_ih_l0.std().item()
        for init in ("xavier", "he")
    }
    assert deviation["xavier"] == pytest.approx((2 / 52) ** 0.5, rel=0.2)
    assert deviation["he"] == pytest.approx(1, rel=0.2)  # the square root of 2 / 2
    zero = build(LSTMConfig(cell=cell, init="zeros"), SERIES, LABELS)
    assert all(not p.any() for p in zero.parameters())


@pytest.mark.parametrize("cell", CELLS)
def test_dropout_acts_between_layers_and_before_the_answer_while_training_only(cell):
    torch.manual_seed(0)
    model = build(tiny(cell=cell, layers=2, dropout=0.5), SERIES, LABELS)
    batch = inputs(model)
    assert torch.equal(model.eval()(**batch), model(**batch))
    model.train()
    assert not torch.equal(model(**batch), model(**batch))
    model.head.dropout.p = 0.0
    assert not torch.equal(model(**batch), model(**batch)), "between layers"
    one = build(tiny(cell=cell, dropout=0.5), SERIES, LABELS).train()
    one.head.dropout.p = 0.0
    assert torch.equal(one(**batch), one(**batch)), "a single layer has nothing between layers"


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ({"cell": "elman"}, "cell must be one of lstm, gru, rnn, ssm, not 'elman'"),
        ({"pooling": "cls"}, "pooling must be one of last, mean, max, not 'cls'"),
        ({"init": "ones"}, "init must be one of"),
        ({"hidden": 0}, "hidden must be at least 1, not 0"),
        ({"layers": 0}, "layers must be at least 1, not 0"),
        ({"state": 0}, "state must be at least 1, not 0"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, not 1.0"),
    ],
)
def test_a_wrong_field_is_named_with_its_value(fault, message):
    with pytest.raises(ValueError, match=message):
        LSTMConfig(**fault)


def test_pictures_are_refused_with_the_families_that_read_them():
    with pytest.raises(DataError, match="the lstm family reads series and tokens, this data is images"):
        build(LSTMConfig(), GREY, LABELS)


# Exports take seconds each; the quick ones stand for their kind, the others run with `-m slow`.
EXPORTS = [
    pytest.param(tiny(), SERIES, id="lstm"),
    pytest.param(
        tiny(cell="gru", pooling="mean", bidirectional=True), TOKENS, id="gru both ways over tokens", marks=pytest.mark.slow
    ),
    pytest.param(tiny(cell="rnn", pooling="max"), SERIES, id="rnn", marks=pytest.mark.slow),
    pytest.param(tiny(cell="ssm", bidirectional=True), SERIES, id="ssm both ways", marks=pytest.mark.slow),
    *(
        pytest.param(tiny(cell=cell, pooling=pooling, layers=2, bidirectional=both), kind, marks=pytest.mark.slow)
        for cell in CELLS
        for pooling, kind in (("last", TOKENS), ("mean", SERIES), ("max", TOKENS))
        for both in (False, True)
    ),
]


@pytest.mark.parametrize(("config", "kind"), EXPORTS)
def test_an_export_answers_as_the_original(config, kind, tmp_path):
    torch.manual_seed(0)
    operations = assert_export_is_equal(build(config, kind, NUMBERS), tmp_path)
    assert {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN", "ssm": "MatMul"}[config.cell] in operations


@pytest.mark.parametrize("cell", ["lstm", pytest.param("rnn", marks=pytest.mark.slow), pytest.param("ssm", marks=pytest.mark.slow)])
def test_sequences_of_one_length_keep_a_dynamic_axis_in_the_export(cell, tmp_path):
    """Such as the rows of a picture: the exporter must not take the only length there is for a constant."""
    kind = Series(length=ShapeRange(axis="length", min=8, opt=8, max=8), mean=(0.0, 0.0), scale=(1.0, 1.0))
    model = build(tiny(cell=cell, bidirectional=True), kind, LABELS).eval()
    example = {name: tensor.numpy() for name, tensor in inputs(model, rows=3, length=8).items()}
    to_onnx(model, model.signature(), example, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    batch = inputs(model, rows=5, length=8, seed=1)
    answer = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]
    np.testing.assert_allclose(answer, model(**batch).detach().numpy(), atol=1e-4)
