from __future__ import annotations

from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from export.errors import ConversionError
from export.to_tensorrt import DEFAULTS, RTX_CAPABILITIES, EngineOptions, choose, profiles, to_tensorrt
from modelrepo.manifest import OnnxArtifact, ProfileShape
from modelrepo.repository import digest
from modelrepo.tensors import ShapeRange, Signature, TensorSpec
from runtime import cuda, tensorrt_flavour
from runtime.tensorrt_session import _within
from tests import micro

needs_rtx = pytest.mark.skipif(tensorrt_flavour.load("tensorrt-rtx") is None, reason="tensorrt-rtx is not installed")


def build(folder, signature, options=DEFAULTS):
    source = OnnxArtifact(precision="fp32", file=digest(folder / "model.onnx"), opset=20)
    return to_tensorrt(source, signature, "tensorrt-rtx", folder / "model.plan", options)


def test_profiles_are_one_row_and_more_by_a_few_ranges_of_lengths():
    found = profiles(micro.MEAN)
    assert micro.MEAN.length.buckets == (1, 2, 3, 4, 6, 8, 12)
    assert len(found) == 2 * 4
    assert found[0]["sequence"] == ProfileShape(min=(1, 1, 1), opt=(1, 2, 1), max=(1, 2, 1))
    assert found[-1]["sequence"] == ProfileShape(min=(2, 7, 1), opt=(4, 12, 1), max=(8, 12, 1))
    assert found[-1]["mask"] == ProfileShape(min=(2, 7), opt=(4, 12), max=(8, 12))


@pytest.mark.parametrize("signature", [micro.DOUBLE, micro.MEAN], ids=["rows", "sequences"])
@pytest.mark.parametrize("every_bucket", [False, True])
def test_every_shape_that_is_promised_has_a_profile(signature, every_bucket):
    found = profiles(signature, every_bucket)
    for batch in range(1, signature.batch.max + 1):
        for length in range(1, 13) if signature.length else [None]:
            shapes = {spec.name: spec.shape_at(batch, length) for spec in signature.inputs}
            fitting = [p for p in found if all(_within(shape, p[name]) for name, shape in shapes.items())]
            assert len(fitting) == 1


def test_a_model_of_one_row_at_a_time_has_one_profile():
    one = ShapeRange(axis="batch", min=1, opt=1, max=1)
    spec = TensorSpec(name="x", dtype="float32", shape=(one, 2))
    answer = TensorSpec(name="y", dtype="float32", shape=(one, 1))
    assert profiles(Signature(inputs=(spec,), outputs=(answer,))) == ({"x": ProfileShape(min=(1, 2), opt=(1, 2), max=(1, 2))},)


@needs_rtx
def test_an_engine_is_built_without_a_gpu(tmp_path):
    micro.write_mean(tmp_path / "model.onnx")
    engine = build(tmp_path, micro.MEAN)
    assert engine.compute_capabilities == RTX_CAPABILITIES
    assert set(engine.profiles[0]) == {"sequence", "mask"}
    assert (tmp_path / "model.plan").stat().st_size > 1000


@needs_rtx
def test_an_engines_entry_says_how_it_was_built(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    engine = build(tmp_path, micro.DOUBLE, EngineOptions(level=1, workspace=64, tf32=True, capabilities=("8.9",)))
    assert engine.compute_capabilities == ("8.9",)
    assert engine.options == {"level": 1, "workspace": 64, "tf32": True}
    assert engine.source == "model.onnx"
    assert 0 < engine.build_seconds < 60


@needs_rtx
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (EngineOptions(refit=True, strip=True), "tensorrt-rtx does not know --refit, --strip: leave that out"),
        (EngineOptions(version_compatible=True), "tensorrt-rtx does not know --version-compatible"),
        (EngineOptions(hardware_compatible=True), "tensorrt-rtx does not know --hardware-compatible"),
        (EngineOptions(timing_cache=Path("cache")), "tensorrt-rtx does not know --timing-cache"),
        (EngineOptions(capabilities=("9.0",)), "builds no engine for compute capability 9.0"),
    ],
)
def test_an_option_this_flavour_lacks_is_refused_not_ignored(tmp_path, options, message):
    micro.write_double(tmp_path / "model.onnx")
    with pytest.raises(ConversionError, match=message):
        build(tmp_path, micro.DOUBLE, options)
    assert not (tmp_path / "model.plan").exists()


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
        build(tmp_path, micro.DOUBLE)
    assert not (tmp_path / "model.plan").exists()


@needs_rtx
def test_a_signature_that_is_not_the_graphs_builds_nothing(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    with pytest.raises(ConversionError, match="built no engine"):
        build(tmp_path, micro.MEAN)


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
