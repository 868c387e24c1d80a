from __future__ import annotations

import numpy as np
import pytest
import torch

from export import parity
from modelrepo.manifest import HELD_OUT
from modelrepo.preprocessing import Numeric
from modelrepo.tasks import Multiclass, Regression
from modelrepo.tensors import ShapeRange
from runtime.session import Session
from training.data.dataset import Rows, Series, Split
from training.models import LSTMConfig, MLPConfig, build

SERIES = Series(length=ShapeRange(axis="length", min=2, opt=6, max=11), mean=(0.5,), scale=(0.3,))
NUMBER = Regression(targets=("t",))


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


def test_the_model_equals_itself_at_every_batch_and_length(model, holdout):
    compared = parity.compare(InPyTorch(model), model, holdout, 1e-4)
    assert compared.misses == ()
    held_out = [case for case in compared.cases if case.rows == HELD_OUT]
    assert {case.batch for case in held_out} == {1, 2, 8, 64}
    assert {case.length for case in held_out} == {2, 6, 9, 11}
    assert all(case.top1_agreement == 1 for case in held_out)
    assert all(case.min_cosine == pytest.approx(1) and case.max_rel_error < 1e-5 for case in compared.cases)


def test_the_edges_of_the_data_are_compared_too(model, holdout):
    compared = parity.compare(InPyTorch(model), model, holdout, 1e-4)
    names = ["zeros", "one value", "smallest", "largest"]
    edges = [(case.rows, case.length) for case in compared.cases if case.rows != HELD_OUT]
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

    largest = InPyTorch(model, overflow)
    misses = parity.compare(largest, model, holdout, 1e-4).misses
    assert any(miss.startswith("pytorch, batch 1, length 11, largest: differs by") for miss in misses)
    assert not any("zeros" in miss for miss in misses)


def test_errors_at_an_edge_may_grow_with_the_output():
    """A row of outputs around 1e4 cannot be right to 1e-4, but to 1e-4 of itself."""
    case = parity._case(NUMBER, "largest", None, np.array([[1e4 + 0.5]], np.float32), np.array([[1e4]], np.float32))
    assert case.max_abs_error == pytest.approx(0.5)
    assert case.error == pytest.approx(5e-5)
    held_out = parity._case(NUMBER, HELD_OUT, None, np.array([[1e4 + 0.5]], np.float32), np.array([[1e4]], np.float32))
    assert held_out.error == pytest.approx(0.5)


def test_every_miss_is_listed_not_only_the_first(model, holdout):
    wrong = InPyTorch(model, lambda inputs, outputs: outputs + np.float32(0.01) * (len(outputs) > 2))
    misses = parity.compare(wrong, model, holdout, 1e-4).misses
    assert len(misses) == 8, "two batch sizes at four lengths"
    assert misses[0].startswith("pytorch, batch 8, length 2: differs by 0.01, allowed is 0.0001")


def test_a_session_in_which_padding_leaks_is_caught(model, holdout):
    leaking = InPyTorch(model, lambda inputs, outputs: outputs + (~inputs["mask"]).sum(axis=1, keepdims=True) * np.float32(0.01))
    misses = parity.compare(leaking, model, holdout, 1e-4).misses
    assert misses
    assert not any("length 2:" in miss for miss in misses), "at the shortest length nothing is padded"


def test_a_session_in_which_rows_mix_is_caught(model, holdout):
    assert parity.compare(InPyTorch(model, lambda inputs, outputs: outputs[::-1]), model, holdout, 1e-4).misses


def test_another_decision_is_a_miss_even_within_the_tolerance(model, holdout):
    swapped = InPyTorch(model, lambda inputs, outputs: outputs[:, ::-1].copy())
    misses = parity.compare(swapped, model, holdout, 1e3).misses
    assert misses
    assert all("decides differently" in miss for miss in misses)


def test_nan_is_a_miss(model, holdout):
    misses = parity.compare(InPyTorch(model, lambda inputs, outputs: outputs * np.float32("nan")), model, holdout, 1e-4).misses
    assert len([miss for miss in misses if "differs by" in miss]) == 16 + 9, "every batch at every length, and every edge"


def test_regression_has_no_decision_to_agree_on(holdout):
    model = build(LSTMConfig(hidden=4), SERIES, NUMBER).eval()
    compared = parity.compare(InPyTorch(model), model, holdout, 1e-4)
    assert {case.top1_agreement for case in compared.cases} == {None}


def test_the_metric_is_judged_through_the_session(model, holdout):
    right = InPyTorch(model, lambda inputs, outputs: np.eye(3, dtype=np.float32)[np.zeros(len(outputs), int)])
    metric = parity.judge(right, model.task, Split(holdout.inputs, np.zeros(40, np.int64)), floor=0.9)
    assert (metric.value, metric.floor) == (1.0, 0.9)
