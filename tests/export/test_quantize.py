"""What becomes 8 bits, and what stays as it is."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from export.quantize import Calibration, Judge, to_int8


def write_scores(path, rng):
    """x [batch, 4] -> h = x W -> y = h h^T, as attention multiplies queries and keys."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="dense"),
        helper.make_node("Transpose", ["h"], ["t"], name="turn", perm=[1, 0]),
        helper.make_node("MatMul", ["h", "t"], ["y"], name="scores"),
    ]
    graph = helper.make_graph(
        nodes,
        "scores",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        [numpy_helper.from_array(rng.normal(size=(4, 8)).astype(np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path


@pytest.mark.parametrize("scheme", ["u8s8", "s8s8"])
def test_products_with_weights_become_8_bits_and_products_of_two_activations_stay(tmp_path, scheme):
    rng = np.random.default_rng(0)
    source = write_scores(tmp_path / "model.onnx", rng)
    batches = [{"x": rng.normal(size=(8, 4)).astype(np.float32)} for _ in range(8)]
    calibration = Calibration(source, batches)
    path = tmp_path / "int8.onnx"
    to_int8(calibration, Judge(source, batches, "y", np.ones(8, np.float32)), scheme, path)
    graph = onnx.load(path).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    inputs = {node.name: {made_by[name] for name in node.input} for node in graph.node if node.op_type == "MatMul"}
    assert inputs["dense"] == {"DequantizeLinear"}
    assert "DequantizeLinear" not in {made_by[name] for node in graph.node if node.name == "scores" for name in node.input[1:]}
