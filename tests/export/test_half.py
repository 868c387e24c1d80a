from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx.reference import ReferenceEvaluator

from export import half
from export.emulation import emulated
from tests.export.graphs import write_chain

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(4, 3)).astype(np.float32)
ROWS = {"x": RNG.normal(size=(5, 4)).astype(np.float32)}


def answers(proto, rows):
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, rows)[0]


@pytest.fixture
def source(tmp_path):
    return write_chain(tmp_path / "model.onnx", ("MatMul", WEIGHTS), ("Tanh", None), ("Mul", np.float32(3)))


def test_emulated_bf16_is_what_onnx_says_bf16_is(source, tmp_path):
    half.to_bf16(source, tmp_path / "bf16.onnx")
    rounded = answers(emulated(tmp_path / "bf16.onnx", "bf16"), ROWS)
    expected = ReferenceEvaluator(str(tmp_path / "bf16.onnx")).run(None, ROWS)[0]
    exact = answers(onnx.load(source), ROWS)
    assert np.abs(rounded - expected).max() <= 2**-7 * np.abs(exact).max(), "one rounding, where sums end in another digit"
    assert 1e-4 < np.abs(rounded - exact).max() < 0.1


def test_emulated_fp16_rounds_as_fp16_does(source, tmp_path):
    half.to_fp16(source, [ROWS], tmp_path / "fp16.onnx")
    rounded = answers(emulated(tmp_path / "fp16.onnx", "fp16"), ROWS)
    by_hand = (ROWS["x"].astype(np.float16).astype(np.float32) @ WEIGHTS.astype(np.float16).astype(np.float32)).astype(np.float16)
    by_hand = np.tanh(by_hand.astype(np.float32)).astype(np.float16) * np.float16(3)
    np.testing.assert_allclose(rounded, by_hand.astype(np.float32), atol=2e-3)
    assert (rounded == rounded.astype(np.float16)).all(), "every answer is a number that fp16 has"


def test_a_weight_is_rounded_to_bf16_once_and_keeps_its_range(tmp_path):
    large = np.full((4, 1), 3e38, np.float32)
    twice = np.full((4, 1), 1 + 2**-8 + 2**-12, np.float32)  # through fp16 it would round down, to 1
    for weights, expected in ((large, 3e38), (twice, 1 + 2**-7)):
        source = write_chain(tmp_path / "model.onnx", ("MatMul", weights))
        half.to_bf16(source, tmp_path / "bf16.onnx")
        (tensor,) = [t for t in onnx.load(tmp_path / "bf16.onnx").graph.initializer if t.data_type == onnx.TensorProto.BFLOAT16]
        assert onnx.numpy_helper.to_array(tensor).astype(np.float32)[0, 0] == pytest.approx(expected, rel=2e-3)


def test_a_node_that_would_overflow_stays_in_fp32_and_is_named(tmp_path):
    source = write_chain(tmp_path / "model.onnx", ("Mul", np.float32(1e5)), ("Mul", np.float32(1e-5)), ("Tanh", None))
    kept = half.to_fp16(source, [ROWS], tmp_path / "fp16.onnx")
    assert kept == ("node0", "node1")
    np.testing.assert_allclose(answers(emulated(tmp_path / "fp16.onnx", "fp16"), ROWS), np.tanh(ROWS["x"]), atol=2e-3)


def test_two_nodes_in_fp32_may_read_one_tensor(tmp_path):
    source = write_chain(tmp_path / "model.onnx", ("Tanh", None), ("Softmax", None), ("Exp", None), ("Mul", np.float32(2)))
    proto = onnx.load(source)
    proto.graph.node.append(onnx.helper.make_node("ReduceSum", ["t0"], ["also"], name="also"))
    proto.graph.node.append(onnx.helper.make_node("Add", ["unused", "also"], ["more"], name="more"))
    proto.graph.node[-1].input[0] = "t1"
    onnx.save(proto, source)
    half.to_fp16(source, [ROWS], tmp_path / "fp16.onnx")
    onnx.checker.check_model(tmp_path / "fp16.onnx", full_check=True)


def test_a_stand_in_for_infinity_is_no_overflow(tmp_path):
    source = write_chain(tmp_path / "model.onnx", ("Add", np.float32([0, 0, 0, -3.4e38])), ("Softmax", None))
    assert half.overflowing(source, [ROWS]) == ()


def test_callers_still_send_and_get_fp32(source, tmp_path):
    half.to_fp16(source, [ROWS], tmp_path / "fp16.onnx")
    half.to_bf16(source, tmp_path / "bf16.onnx")
    for name in ("fp16.onnx", "bf16.onnx"):
        graph = onnx.load(tmp_path / name).graph
        assert {value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)} == {onnx.TensorProto.FLOAT}
