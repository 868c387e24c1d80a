from __future__ import annotations

import pytest
from onnx import TensorProto, helper, save

from export.errors import ConversionError
from export.to_tensorrt import RTX_CAPABILITIES, choose, profile_shape, to_tensorrt
from modelrepo.manifest import ProfileShape
from runtime import cuda, tensorrt_flavour
from tests import micro

needs_rtx = pytest.mark.skipif(tensorrt_flavour.load("tensorrt-rtx") is None, reason="tensorrt-rtx is not installed")


def test_profiles_come_from_the_signature():
    shapes = {spec.name: profile_shape(spec) for spec in micro.MEAN.inputs}
    assert shapes["sequence"] == ProfileShape(min=(1, 1, 1), opt=(4, 4, 1), max=(8, 12, 1))
    assert shapes["mask"] == ProfileShape(min=(1, 1), opt=(4, 4), max=(8, 12))


@needs_rtx
def test_an_engine_is_built_without_a_gpu(tmp_path):
    micro.write_mean(tmp_path / "model.onnx")
    engine = to_tensorrt(tmp_path / "model.onnx", micro.MEAN, "tensorrt-rtx", tmp_path / "model.plan")
    assert engine.compute_capabilities == RTX_CAPABILITIES
    assert set(engine.profiles[0]) == {"sequence", "mask"}
    assert (tmp_path / "model.plan").stat().st_size > 1000


@needs_rtx
def test_an_operation_tensorrt_cannot_take_is_named_with_its_node(tmp_path):
    graph = helper.make_graph(
        [helper.make_node("BitShift", ["x", "by"], ["logits"], name="the_shift", direction="LEFT")],
        "shift",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["batch", 2])],
        [helper.make_tensor_value_info("logits", TensorProto.UINT8, ["batch", 2])],
        [helper.make_tensor("by", TensorProto.UINT8, [1], [1])],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "model.onnx")
    with pytest.raises(ConversionError, match=r"cannot parse model.onnx: .*the_shift.*BitShift"):
        to_tensorrt(tmp_path / "model.onnx", micro.DOUBLE, "tensorrt-rtx", tmp_path / "model.plan")
    assert not (tmp_path / "model.plan").exists()


@needs_rtx
def test_a_signature_that_is_not_the_graphs_builds_nothing(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    with pytest.raises(ConversionError, match="built no engine"):
        to_tensorrt(tmp_path / "model.onnx", micro.MEAN, "tensorrt-rtx", tmp_path / "model.plan")


def test_switched_off_means_off():
    assert choose("off") == (None, "switched off")


@pytest.mark.skipif(cuda.available(), reason="this machine has a GPU")
def test_a_flavour_asked_for_by_name_that_cannot_build_is_an_error():
    with pytest.raises(ConversionError, match="no engine can be built: tensorrt "):
        choose("tensorrt")


def test_auto_without_any_flavour_says_what_to_install(monkeypatch):
    monkeypatch.setattr(tensorrt_flavour, "load", lambda flavour: None)
    flavour, reason = choose("auto")
    assert flavour is None
    assert "pip install 'quartet[tensorrt-rtx]'" in reason
