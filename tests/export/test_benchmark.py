from __future__ import annotations

import numpy as np
import pytest

from export import benchmark
from export.original import load
from export.pytorch_session import PyTorchSession

FAMILIES = ("mlp", "cnn", "lstm", "transformer")


@pytest.mark.parametrize("family", FAMILIES)
def test_pytorch_answers_through_a_session_as_the_golden_rows_say(tiny_runs, tiny_models, family):
    inputs, outputs = tiny_models.open(f"tiny-{family}").goldens()
    with PyTorchSession(load(tiny_runs[family]).model, compiled=False) as session:
        for name, answers in session.run(inputs).items():
            np.testing.assert_allclose(answers, outputs[name], atol=1e-4)


def test_every_way_to_serve_stands_beside_pytorch(tiny_runs, tiny_models, monkeypatch):
    monkeypatch.setattr(benchmark, "ROUNDS", 1)
    monkeypatch.setattr(benchmark, "SECONDS", 0.001)
    monkeypatch.setattr("torch.compile", lambda net: net)  # which takes half a minute
    monkeypatch.setattr("torch.set_num_threads", lambda number: None)  # for all that comes after
    table = benchmark.compare(tiny_models.open("tiny-mlp"), 4, tiny_runs["mlp"])
    ran = list(zip(*(column.cells for column in table.columns[:3]), strict=True))
    assert ran[-2:] == [("pytorch-cpu", "fp32", "eager"), ("pytorch-cpu", "fp32", "torch.compile")]
    assert ("onnxruntime-cpu", "fp32", "model.onnx") in ran
    ratios = dict(zip(ran, table.columns[4].cells, strict=True))
    assert ratios["onnxruntime-cpu", "fp32", "model.onnx"] == "1.00"
