from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from export.errors import ConversionError
from export.to_onnx import to_onnx
from modelrepo.preprocessing import Numeric
from modelrepo.tasks import Multiclass
from modelrepo.tensors import ShapeRange
from training.data.dataset import Rows, Series
from training.models import LSTMConfig, MLPConfig, build


def dims(path):
    graph = onnx.load(path).graph
    return {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in [*graph.input, *graph.output]
    }


TASK = Multiclass(labels=("a", "b", "c"))
COLUMN = Rows(columns=(Numeric(name="x", mean=0.0, scale=1.0),))
SERIES = Series(length=ShapeRange(axis="length", min=1, opt=5, max=9), mean=(0.0, 0.0), scale=(1.0, 1.0))


def example(batch=3, length=7):
    rng = np.random.default_rng(0)
    return {"sequence": rng.random((batch, length, 2)).astype(np.float32), "mask": np.ones((batch, length), np.bool_)}


@pytest.mark.slow
def test_every_lstm_of_a_process_keeps_its_time_axis(tmp_path):
    """torch 2.13 freezes it from the second on, where dims are named (gpu.md, trap 5)."""
    for number in range(3):
        model = build(LSTMConfig(hidden=4), SERIES, TASK).eval()
        to_onnx(model, model.signature(), example(), tmp_path / f"{number}.onnx")
        assert dims(tmp_path / f"{number}.onnx") == {
            "sequence": ["batch", "length", 2],
            "mask": ["batch", "length"],
            "logits": ["batch", 3],
        }


def test_the_file_tells_nothing_of_this_machine(tmp_path):
    model = build(MLPConfig(hidden=(4,)), COLUMN, TASK).eval()
    to_onnx(model, model.signature(), {"features": np.ones((3, 1), np.float32)}, tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == [tmp_path / "m.onnx"], "weights lie in the file itself"
    content = (tmp_path / "m.onnx").read_bytes()
    assert b"stack_trace" not in content
    assert b".py" not in content


def test_normalisation_lies_inside_the_graph(tmp_path):
    import onnxruntime

    torch.manual_seed(0)
    plain = build(MLPConfig(hidden=(4,)), COLUMN, TASK).eval()
    scaled = build(MLPConfig(hidden=(4,)), Rows(columns=(Numeric(name="x", mean=100.0, scale=10.0),)), TASK).eval()
    scaled.layers.load_state_dict(plain.layers.state_dict())
    scaled.head.load_state_dict(plain.head.state_dict())
    answers = []
    for model, value in ((plain, 0.5), (scaled, 105.0)):
        to_onnx(model, model.signature(), {"features": np.ones((2, 1), np.float32)}, tmp_path / "m.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"])
        answers.append(session.run(None, {"features": np.full((1, 1), value, np.float32)})[0])
    np.testing.assert_allclose(*answers, rtol=1e-5)


class Frozen(torch.nn.Module):
    """Bakes the example's batch size into the graph."""

    family = "frozen"

    def forward(self, features):
        return features.sum(dim=1, keepdim=True).expand(3, 3) * int(features.shape[0])


def test_an_axis_that_came_out_fixed_is_named(tmp_path):
    signature = build(MLPConfig(hidden=(4,)), COLUMN, TASK).signature()
    with pytest.raises(ConversionError, match=r"axis 0 \(batch\) of '(features|logits)' came out fixed at 3"):
        to_onnx(Frozen().eval(), signature, {"features": np.ones((3, 1), np.float32)}, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


class Eigenvalues(torch.nn.Module):
    """An operation ONNX has no word for."""

    def forward(self, x):
        return torch.linalg.eigvals(x.T @ x).real.sum() * x


class Untranslatable(torch.nn.Module):
    family = "untranslatable"

    def __init__(self):
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.ReLU(), Eigenvalues())

    def forward(self, features):
        return self.body(features).repeat(1, 3)


def test_an_operation_without_translation_is_named_with_its_layer(tmp_path):
    signature = build(MLPConfig(hidden=(4,)), COLUMN, TASK).signature()
    message = r"cannot express this untranslatable: it has no operator for aten\.\w+, called by body\.1 \(.*Eigenvalues\)"
    with pytest.raises(ConversionError, match=message):
        to_onnx(Untranslatable().eval(), signature, {"features": np.ones((3, 1), np.float32)}, tmp_path / "m.onnx")


def test_recurrent_weights_are_constants_however_large(tmp_path):
    """Else every load sorts the gates again, and nothing can quantize them. Two layers, which a second look at shapes breaks."""
    torch.manual_seed(0)
    model = build(LSTMConfig(hidden=72, layers=2), SERIES, TASK).eval()
    to_onnx(model, model.signature(), example(), tmp_path / "model.onnx")
    graph = onnx.load(tmp_path / "model.onnx").graph
    constants = {tensor.name for tensor in graph.initializer}
    recurrent = [node for node in graph.node if node.op_type == "LSTM"]
    assert len(recurrent) == 2
    assert all(set(node.input[1:4]) <= constants for node in recurrent)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    rows = example(batch=4, length=9)
    expected = model(**{name: torch.from_numpy(array) for name, array in rows.items()}).detach().numpy()
    np.testing.assert_allclose(session.run(None, rows)[0], expected, atol=1e-5)
