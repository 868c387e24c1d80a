from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from modelrepo.errors import OutOfRange, WrongTensor
from runtime import cuda
from runtime.onnxruntime_session import OnnxRuntimeSession
from runtime.session import SessionError, Unsuitable, promised_shapes
from tests import micro


@pytest.fixture
def double(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    with OnnxRuntimeSession(tmp_path / "model.onnx", micro.DOUBLE, "cpu") as session:
        yield session


def test_it_answers_every_batch_size(double):
    for rows in range(1, 9):
        x = np.random.default_rng(rows).random((rows, 2)).astype(np.float32)
        np.testing.assert_array_equal(double.run({"x": x})["logits"], 2 * x)
    assert double.provider == "onnxruntime-cpu"


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells how much memory is resident")
def test_what_a_large_batch_took_is_given_back_and_can_be_had_again(tmp_path):
    """Each row is widened to two million numbers, 8 MiB, before they are summed up."""
    wide = 2**21
    ones = helper.make_tensor("ones", TensorProto.FLOAT, [2, wide], np.ones(2 * wide, np.float32))
    nodes = [helper.make_node("MatMul", ["x", "ones"], ["wide"]), helper.make_node("ReduceMean", ["wide"], ["mean"], axes=[1])]
    nodes += [helper.make_node("Mul", ["x", "one"], ["same"]), helper.make_node("Mul", ["mean", "zero"], ["nothing"])]
    nodes.append(helper.make_node("Add", ["same", "nothing"], ["logits"]))
    single = [helper.make_tensor(name, TensorProto.FLOAT, [], [value]) for name, value in (("one", 2.0), ("zero", 0.0))]
    x, logits = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("x", "logits"))
    graph = helper.make_graph(nodes, "wide", [x], [logits], [ones, *single])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")

    def resident():
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") / 2**20

    rows = np.ones((8, 2), np.float32)
    with OnnxRuntimeSession(tmp_path / "model.onnx", micro.DOUBLE, "cpu") as session:
        for size in (1, 8):
            session.run({"x": rows[:size]})
        before = resident()
        session.trim({"x": rows[:1]})
        assert before - resident() > 32
        np.testing.assert_array_equal(session.run({"x": rows})["logits"], 2 * rows)


def test_it_refuses_what_the_signature_does_not_have(double):
    with pytest.raises(WrongTensor, match="'x' is float64"):
        double.run({"x": np.ones((1, 2))})
    with pytest.raises(OutOfRange, match="a batch of 9 rows is more than the session takes, 8"):
        double.run({"x": np.ones((9, 2), np.float32)})


def test_a_closed_session_says_so(double):
    double.close()
    double.close()
    with pytest.raises(SessionError, match="closed"):
        double.run({"x": np.ones((1, 2), np.float32)})


def test_a_file_with_a_frozen_batch_axis_is_refused(tmp_path):
    micro.write_double(tmp_path / "model.onnx", batch=4)
    with pytest.raises(SessionError, match=r"the signature says .*-1, 2"):
        OnnxRuntimeSession(tmp_path / "model.onnx", micro.DOUBLE, "cpu")


def test_a_file_of_another_model_is_refused(tmp_path):
    micro.write_mean(tmp_path / "model.onnx")
    with pytest.raises(SessionError, match="the signature says"):
        OnnxRuntimeSession(tmp_path / "model.onnx", micro.DOUBLE, "cpu")


@pytest.mark.parametrize("content", [b"", b"not onnx", b"\x08\x0a\x12"])
def test_a_torn_file_is_refused(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(SessionError, match=r"cannot load .*model.onnx|the signature says"):
        OnnxRuntimeSession(tmp_path / "model.onnx", micro.DOUBLE, "cpu")


@pytest.mark.skipif(cuda.available(), reason="this machine has a GPU")
def test_asking_for_cuda_where_there_is_none_is_an_error_not_the_cpu(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    with pytest.raises(Unsuitable, match="CUDA was asked for, but"):
        OnnxRuntimeSession(tmp_path / "model.onnx", micro.DOUBLE, "cuda")


def test_no_session_may_replace_its_device_in_the_middle_of_a_run(double):
    assert double._session._enable_fallback is False


@pytest.mark.gpu
def test_cuda_answers_as_the_cpu_does(tmp_path):
    micro.write_mean(tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    with OnnxRuntimeSession(tmp_path / "model.onnx", micro.MEAN, "cuda") as session:
        assert session.provider == "onnxruntime-cuda"
        for batch, length in promised_shapes(micro.MEAN):
            mask = np.arange(length) < rng.integers(1, length + 1, batch)[:, None]
            inputs = {"sequence": rng.random((batch, length, 1)).astype(np.float32), "mask": mask}
            np.testing.assert_allclose(session.run(inputs)["values"], micro.mean(inputs)["values"], atol=1e-5)
