from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from export import parity
from modelrepo.parity import HELD_OUT, Gate
from modelrepo.preprocessing import Numeric
from modelrepo.tasks import Metric, Multiclass, Regression
from modelrepo.tensors import ShapeRange
from runtime.session import Session
from training import tasks
from training.data.dataset import Rows, Series, Split
from training.evaluation import predict
from training.models import LSTMConfig, MLPConfig, build

SERIES = Series(length=ShapeRange(axis="length", min=2, opt=6, max=11), mean=(0.5,), scale=(0.3,))
NUMBER = Regression(targets=("t",))
FP32 = Gate(atol=1e-4, min_agreement=0.999)


class InPyTorch(Session):
    """A session that is the model itself, with a fault to order."""

    provider = "pytorch"

    def __init__(self, model, fault=lambda inputs, outputs: outputs):
        super().__init__(model.signature())
        self.model, self.fault = model, fault

    @torch.no_grad()
    def _run(self, inputs):
        outputs = self.model(**{name: torch.from_numpy(np.array(array)) for name, array in inputs.items()}).numpy()
        return {self.model.task.output: self.fault(inputs, outputs)}

    def close(self):
        pass


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build(LSTMConfig(hidden=8), SERIES, Multiclass(labels=("a", "b", "c"))).eval()


@pytest.fixture
def holdout():
    rng = np.random.default_rng(0)
    mask = np.arange(11) < rng.integers(2, 12, 40)[:, None]
    sequence = rng.random((40, 11, 1)).astype(np.float32) * mask[:, :, None]
    return Split({"sequence": sequence, "mask": mask}, rng.integers(0, 3, 40))


def compare(session, model, holdout, gate=FP32):
    targets = holdout.targets
    metric = tasks.metric(model.task, predict(model, holdout), targets)
    return parity.compare(session, parity.truth(model, holdout, metric), gate)


def test_the_model_equals_itself_at_every_batch_and_length(model, holdout):
    compared = compare(InPyTorch(model), model, holdout)
    assert compared.misses == ()
    held_out = [case for case in compared.proof.cases if case.rows == HELD_OUT]
    assert {case.batch for case in held_out} == {1, 2, 8, 64}
    assert {case.length for case in held_out} == {2, 6, 9, 11}
    assert compared.proof.agreement == 1
    assert compared.proof.loss == 0
    assert compared.proof.used < 0.1
    assert all(case.min_cosine == pytest.approx(1) and case.max_rel_error < 1e-5 for case in compared.proof.cases)


def test_the_truth_is_in_float64(model, holdout):
    truth = parity.truth(model, holdout, Metric(name="accuracy", value=1.0, better="higher"))
    assert {example.truth.dtype for example in truth.examples} == {np.dtype(np.float64)}
    assert next(model.parameters()).dtype == torch.float32, "the model itself is left as it was"


def test_the_edges_of_the_data_are_compared_too(model, holdout):
    compared = compare(InPyTorch(model), model, holdout)
    names = ["zeros", "one value", "smallest", "largest"]
    edges = [(case.rows, case.length) for case in compared.proof.cases if case.rows != HELD_OUT]
    assert edges == [(name, 2) for name in names] + [(name, 11) for name in [*names, "almost only padding"]]


def test_extremes_are_those_of_real_steps_and_real_values(holdout):
    signature = build(LSTMConfig(hidden=8), SERIES, NUMBER).signature()
    rows = parity.extremes(signature, holdout, 11)
    real = holdout.inputs["sequence"][holdout.inputs["mask"]]
    assert (rows["smallest"]["sequence"] == real.min()).all(), "padding is zero, which is less"
    assert real.min() > 0
    assert (rows["largest"]["sequence"] == real.max()).all()
    assert rows["almost only padding"]["mask"].sum() == 2


def test_a_table_with_gaps_is_compared_where_everything_is_missing():
    features = np.array([[1.0, np.nan], [3.0, np.nan]], np.float32)
    kind = Rows(columns=(Numeric(name="a", mean=2.0, scale=1.0), Numeric(name="b", mean=0.0, scale=1.0)))
    signature = build(MLPConfig(hidden=(4,)), kind, NUMBER).signature()
    rows = parity.extremes(signature, Split({"features": features}, np.zeros((2, 1), np.float32)), None)
    assert np.isnan(rows["missing"]["features"]).all()
    assert rows["largest"]["features"].tolist() == [[3.0, 0.0]], "a column that is missing throughout stands as zero"


def test_what_goes_wrong_at_an_edge_only_is_caught_and_named(model, holdout):
    def overflow(inputs, outputs):
        return outputs + (inputs["sequence"].max() == holdout.inputs["sequence"].max()) * (len(outputs) == 1) * np.float32(10)

    misses = compare(InPyTorch(model, overflow), model, holdout).misses
    assert any(miss.startswith("batch 1, length 11, largest: differs by") for miss in misses)
    assert not any("zeros" in miss for miss in misses)


def case_of(kind, answer, truth, gate=FP32):
    example = parity.Example(kind, None, {}, np.array([[truth]]))
    return parity._case(NUMBER, gate, example, np.array([[answer]], np.float32), example.truth)


def test_errors_at_an_edge_may_grow_with_the_output():
    """A row of outputs around 1e4 cannot be right to 1e-4, but to 1e-4 of itself."""
    case = case_of("largest", 1e4 + 0.5, 1e4)
    assert case.max_abs_error == pytest.approx(0.5)
    assert case.used == pytest.approx(0.5)
    assert case_of(HELD_OUT, 1e4 + 0.5, 1e4).used == pytest.approx(0.5 / 1e-4)


def test_a_relative_tolerance_allows_more_of_a_larger_row():
    gate = Gate(atol=0.01, rtol=0.01)
    assert case_of(HELD_OUT, 9.05, 9.0, gate).used == pytest.approx(0.05 / 0.1, rel=1e-3)
    assert case_of(HELD_OUT, 0.05, 0.0, gate).used == pytest.approx(5)


def test_every_miss_is_listed_not_only_the_first(model, holdout):
    wrong = InPyTorch(model, lambda inputs, outputs: outputs + np.float32(0.01) * (len(outputs) > 2))
    misses = compare(wrong, model, holdout).misses
    assert len(misses) == 8, "two batch sizes at four lengths"
    assert misses[0].startswith("batch 8, length 2: differs by 0.01, allowed is 0.0001")


def test_the_worst_example_is_kept_to_look_into(model, holdout):
    wrong = InPyTorch(model, lambda inputs, outputs: outputs + np.float32(0.01) * (inputs["mask"].shape[1] == 6))
    assert compare(wrong, model, holdout).worst.length == 6


def test_a_session_in_which_padding_leaks_is_caught(model, holdout):
    leaking = InPyTorch(model, lambda inputs, outputs: outputs + (~inputs["mask"]).sum(axis=1, keepdims=True) * np.float32(0.01))
    misses = compare(leaking, model, holdout).misses
    assert misses
    assert not any("length 2:" in miss for miss in misses), "at the shortest length nothing is padded"


def test_a_session_in_which_rows_mix_is_caught(model, holdout):
    assert compare(InPyTorch(model, lambda inputs, outputs: outputs[::-1]), model, holdout).misses


def test_another_decision_is_a_miss_even_within_the_tolerance(model, holdout):
    swapped = InPyTorch(model, lambda inputs, outputs: outputs[:, ::-1].copy())
    (miss,) = compare(swapped, model, holdout, Gate(atol=1e3, min_agreement=0.999)).misses
    assert re.fullmatch(r"decides differently in \d+\.\d\d% of the test rows, allowed is 0\.10%", miss)


def test_nan_is_a_miss(model, holdout):
    nan = InPyTorch(model, lambda inputs, outputs: outputs * np.float32("nan"))
    misses = compare(nan, model, holdout).misses
    assert len([miss for miss in misses if "differs by" in miss]) == 16 + 9, "every batch at every length, and every edge"
    assert any("the answer is no number" in miss for miss in compare(nan, model, holdout, Gate(max_loss=1.0)).misses)


def test_a_gate_on_the_metric_allows_any_error_that_costs_no_more(model, holdout):
    answers = predict(model, holdout)
    sure = Split(holdout.inputs, answers.argmax(1))
    far = InPyTorch(model, lambda inputs, outputs: outputs * np.float32(100))
    compared = compare(far, model, sure, Gate(max_loss=0.01))
    assert compared.misses == ()
    assert (compared.proof.loss, compared.proof.used) == (0, 0)
    worse = InPyTorch(model, lambda inputs, outputs: -outputs)
    (miss,) = compare(worse, model, sure, Gate(max_loss=0.01)).misses
    assert "worse than the original's; allowed is 1.00%" in miss


def test_what_a_regression_loses_is_its_r2(holdout):
    torch.manual_seed(0)
    model = build(LSTMConfig(hidden=4), SERIES, NUMBER).eval()
    right = Split(holdout.inputs, predict(model, holdout))
    spread = float(right.targets.std())
    off = InPyTorch(model, lambda inputs, outputs: outputs + np.float32(spread / 10))
    compared = compare(off, model, right, Gate(max_loss=0.02))
    assert compared.loss == pytest.approx(0.01, rel=1e-3), "an error of a tenth of the spread, squared"
    assert compared.agreement is None


def test_an_answer_below_the_floor_is_a_miss_whatever_the_gate_says(model, holdout):
    floor = Metric(name="accuracy", value=1.0, better="higher", floor=0.9)
    truth = parity.truth(model, Split(holdout.inputs, np.zeros(40, np.int64)), floor)
    always = InPyTorch(model, lambda inputs, outputs: np.eye(3, dtype=np.float32)[np.ones(len(outputs), int)])
    misses = parity.compare(always, truth, Gate()).misses
    assert "test accuracy of 0, its floor is 0.9" in misses
