"""fp8 on a CPU without fp8: the graph with scaling and casts answers as the one with Q/DQ, computed with nothing fused."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from export.emulation import emulated

WEIGHTS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
SCALES = np.array([0.01, 0.02, 0.03, 0.04], np.float32)


def write_fp8(path):
    """y = x W, with x quantised by one scale and W by one for each column."""
    zero = numpy_helper.from_array(np.zeros((), ml_dtypes.float8_e4m3fn), "zero")
    zeros = numpy_helper.from_array(np.zeros(4, ml_dtypes.float8_e4m3fn), "zeros")
    initializers = [
        numpy_helper.from_array(WEIGHTS, "w"),
        numpy_helper.from_array(SCALES, "w_scale"),
        numpy_helper.from_array(np.float32(0.05), "x_scale"),
        zero,
        zeros,
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "zero"], ["xd"]),
        helper.make_node("QuantizeLinear", ["w", "w_scale", "zeros"], ["wq"], axis=1),
        helper.make_node("DequantizeLinear", ["wq", "w_scale", "zeros"], ["wd"], axis=1),
        helper.make_node("MatMul", ["xd", "wd"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size]) for name, size in (("x", 3), ("y", 4)))
    graph = helper.make_graph(nodes, "fp8", [x], [y], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def answers(model, rows, fused=True):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    if not fused:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, {"x": rows})[0]


def test_emulated_fp8_answers_as_the_graph_with_nothing_fused(tmp_path):
    write_fp8(tmp_path / "fp8.onnx")
    rows = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    rounded = answers(emulated(tmp_path / "fp8.onnx", "fp8").SerializeToString(), rows)
    np.testing.assert_allclose(rounded, answers(str(tmp_path / "fp8.onnx"), rows, fused=False), atol=1e-6)
    assert 1e-3 < np.abs(rounded - rows @ WEIGHTS).max() < 0.5, "three bits of mantissa are few"
