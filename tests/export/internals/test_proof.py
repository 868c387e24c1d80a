"""What explain.onnx shows is held against itself and the answers before it is published."""

from __future__ import annotations

import numpy as np
import pytest

from export.errors import ConversionError
from export.internals.proof import prove
from export.parity import Example, Truth
from modelrepo.internals import Internal
from modelrepo.parity import HELD_OUT
from modelrepo.tasks import Metric, Multiclass
from tests import micro
from training.data.dataset import Split

MASK = np.array([[True, True, True], [True, False, False]])
STEP = ("instance", "step", "unit")


def of(name, kind, axes, shape, **labels):
    return Internal(name=name, kind=kind, layer=0, axes=axes, shape=shape, labels=labels)


def gates(*names):
    return of("a.gates", "gates", ("instance", "step", "gate", "unit"), (None, None, len(names), 1), gate=names)


ATTENTION = of("attention1", "attention", ("instance", "head", "query", "key"), (None, 1, None, None))
HIDDEN, CELL = of("a.hidden", "states", STEP, (None, None, 1)), of("a.cell", "states", STEP, (None, None, 1))
BY_STEP = of("outputs_by_step", "outputs_by_step", ("instance", "step", "label"), (None, None, 2), label=("a", "b"))


def whole():
    """Tensors that add up, by name."""
    shares = np.zeros((2, 1, 3, 3), np.float32)
    shares[0, 0] = 1 / 3
    shares[1, 0, 0, 0] = 1
    real = MASK[:, :, None]
    cell = np.array([[0.5, -1, 2], [1, 0, 0]], np.float32)[:, :, None]
    lstm = np.full((2, 3, 4, 1), 0.5, np.float32) * real[..., None]
    logits = np.array([[0, 1], [2, 0]], np.float32)
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    by_step = np.zeros((2, 3, 2), np.float32)
    by_step[0, 2], by_step[1, 0] = chances
    return {
        "attention1": shares,
        "a.gates": lstm,
        "a.cell": cell,
        "a.hidden": 0.5 * np.tanh(cell),
        "outputs_by_step": by_step,
        "logits": logits,
    }


class Fake:
    """A session that answers what it is given."""

    signature = micro.MEAN

    def __init__(self, internals, found):
        self.internals, self.found = internals, found

    def explain(self, inputs, names):
        return {name: self.found[name] for name in (*names, "logits")}


def prove_it(found, *internals):
    inputs = {"sequence": np.zeros((2, 3, 1), np.float32), "mask": MASK}
    example = Example(HELD_OUT, 3, inputs, found["logits"])
    task = Multiclass(labels=("a", "b"))
    metric = Metric(name="accuracy", value=1.0, better="higher")
    prove(Fake(internals, found), Truth(task, (example,), Split(inputs, np.zeros(2)), found["logits"], metric))


LSTM = gates("input", "forget", "cell", "output")


def test_what_adds_up_passes():
    prove_it(whole(), ATTENTION, LSTM, HIDDEN, CELL, BY_STEP)


def test_a_gru_is_held_to_its_own_equation():
    gru = {**whole(), "a.gates": np.array([[[0.25, 1, 0.8], [0.5, 1, 0.2], [1, 0, 0]], [[0, 0, 0.3]] + [[0, 0, 0]] * 2])[..., None]}
    gru["a.hidden"] = np.array([[0.6, 0.4, 0.4], [0.3, 0, 0]])[:, :, None]
    names = gates("update", "reset", "candidate")
    prove_it(gru, names, HIDDEN)
    gru["a.hidden"][0, 2] = 0.5
    with pytest.raises(ConversionError, match=r"a.gates does not add up: it is off by 0.1"):
        prove_it(gru, names, HIDDEN)


@pytest.mark.parametrize(
    ("name", "at", "value", "message"),
    [
        ("attention1", (0, 0, 1, 1), 0.4, "attention1 does not add up: it is off by 0.0667"),
        ("attention1", (1, 0, 0, slice(2)), (0.5, 0.5), "attention1 does not add up: it is off by 0.5"),
        ("attention1", (1, 0, 1, 0), 1.0, "attention1 does not add up: it is off by 1"),
        ("a.cell", (0, 0, 0), 0.4, "a.gates does not add up"),
        ("outputs_by_step", (1, 0), (0.5, 0.5), "outputs_by_step does not add up: it is off by 0.381"),
        ("a.hidden", (1, 2, 0), np.nan, "a.hidden came out with a value that is not a number"),
    ],
)
def test_what_does_not_is_named(name, at, value, message):
    found = whole()
    found[name][at] = value
    order = (ATTENTION, HIDDEN, LSTM, CELL, BY_STEP)
    with pytest.raises(ConversionError, match=message):
        prove_it(found, *order)


def test_another_shape_than_was_said_is_refused():
    with pytest.raises(ConversionError, match=r"a.hidden came out in shape \[2, 3, 2\], not \[2, None, 1\]"):
        prove_it({**whole(), "a.hidden": np.zeros((2, 3, 2), np.float32)}, HIDDEN)
