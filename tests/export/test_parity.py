from __future__ import annotations

import numpy as np
import pytest
import torch

from export import parity
from modelrepo.tasks import Multiclass, Regression
from modelrepo.tensors import ShapeRange
from runtime.session import Session
from training.data.dataset import Series, Split
from training.models import LSTMConfig, build

SERIES = Series(length=ShapeRange(axis="length", min=2, opt=6, max=11), mean=(0.5,), scale=(0.3,))


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
    assert {case.batch for case in compared.cases} == {1, 2, 8, 64}
    assert {case.length for case in compared.cases} == {2, 6, 9, 11}
    assert all(case.top1_agreement == 1 for case in compared.cases)


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
    assert len([miss for miss in misses if "differs by" in miss]) == 16


def test_regression_has_no_decision_to_agree_on(holdout):
    model = build(LSTMConfig(hidden=4), SERIES, Regression(targets=("t",))).eval()
    compared = parity.compare(InPyTorch(model), model, holdout, 1e-4)
    assert {case.top1_agreement for case in compared.cases} == {None}


def test_the_metric_is_judged_through_the_session(model, holdout):
    right = InPyTorch(model, lambda inputs, outputs: np.eye(3, dtype=np.float32)[np.zeros(len(outputs), int)])
    metric = parity.judge(right, model.task, Split(holdout.inputs, np.zeros(40, np.int64)), floor=0.9)
    assert (metric.value, metric.floor) == (1.0, 0.9)
