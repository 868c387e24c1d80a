"""Attention as ONNX: few operators, and PyTorch's answers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.attention import TRANSLATIONS
from training.models.attention import Attention

N, T, D, HEADS = 3, 5, 8, 2


@pytest.mark.filterwarnings("ignore")  # torch's own, about itself
@pytest.mark.parametrize(("causal", "masked"), [(False, False), (False, True), (True, False)], ids=["all", "masked", "causal"])
def test_it_answers_as_pytorch_does_with_one_operator_for_each_step(tmp_path, causal, masked):
    torch.manual_seed(0)
    model = Attention(D, HEADS, causal=causal).eval()
    given = {"x": torch.randn(N, T, D)}
    if masked:
        given["mask"] = torch.arange(T) < torch.tensor([[5], [1], [3]])
    path = tmp_path / "attention.onnx"
    program = torch.onnx.export(
        model,
        kwargs=given,
        dynamic_shapes={name: {0: torch.export.Dim.AUTO, 1: torch.export.Dim.AUTO} for name in given},
        custom_translation_table=TRANSLATIONS,
        opset_version=20,
        dynamo=True,
        verbose=False,
    )
    program.save(path)
    used = Counter(node.op_type for node in onnx.load(path).graph.node)
    assert used["MatMul"] + used["Gemm"] == 4, "queries, keys and values; scores; what is looked at; the projection"
    assert (used["Softmax"], used["IsNaN"], used["Slice"]) == (1, 0, 0)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for rows, steps in ((slice(None), slice(None)), (slice(0, 1), slice(0, 3))):
        inputs = {name: tensor[rows, steps] for name, tensor in given.items()}
        (answer,) = session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()})
        with torch.no_grad():
            np.testing.assert_allclose(answer, model(**inputs).numpy(), atol=1e-6)
