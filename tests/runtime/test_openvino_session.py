from __future__ import annotations

import weakref

import numpy as np
import pytest

from runtime import openvino_session
from runtime.openvino_session import OpenVINOSession
from runtime.session import SessionError, Unsuitable, promised_shapes
from tests import micro

installed = pytest.mark.skipif(not openvino_session.available(), reason="openvino is not installed")


@pytest.fixture
def mean(tmp_path):
    micro.write_mean(tmp_path / "model.onnx")
    with OpenVINOSession(tmp_path / "model.onnx", micro.MEAN, "fp32") as session:
        yield session


@installed
def test_every_promised_shape_is_answered_in_any_order(mean):
    rng = np.random.default_rng(0)
    shapes = list(promised_shapes(micro.MEAN))
    for batch, length in [*shapes, *reversed(shapes)]:
        mask = np.arange(length) < rng.integers(1, length + 1, batch)[:, None]
        inputs = {"sequence": rng.random((batch, length, 1)).astype(np.float32) * mask[:, :, None], "mask": mask}
        np.testing.assert_allclose(mean.run(inputs)["values"], micro.mean(inputs)["values"], rtol=1e-5)
    assert mean.provider == "openvino-cpu"


@installed
def test_no_run_is_bound_to_a_core_to_which_other_processes_bind_theirs(mean):
    assert mean._compiled.get_property("ENABLE_CPU_PINNING") is False


@installed
def test_an_answer_is_not_overwritten_by_the_next_run(mean):
    ones = {"sequence": np.ones((1, 2, 1), np.float32), "mask": np.ones((1, 2), bool)}
    first = mean.run(ones)["values"]
    mean.run({**ones, "sequence": ones["sequence"] * 7})
    assert first[0, 0] == 1


@installed
def test_views_that_are_not_contiguous_are_read_right(mean):
    sequence = np.arange(16, dtype=np.float32).reshape(4, 4)[:, ::2, None]
    inputs = {"sequence": sequence, "mask": np.ones((4, 2), bool)}
    np.testing.assert_allclose(mean.run(inputs)["values"], micro.mean(inputs)["values"])


@installed
def test_what_openvino_reads_is_kept_until_it_has(mean, monkeypatch):
    inputs = {"sequence": np.ones((4, 4, 1), np.float32)[:, ::2], "mask": np.ones((4, 4), bool)[:, ::2]}
    mean.run(inputs)
    (request,) = mean._requests.values()
    copies = []

    class Watched:
        def __getattr__(self, name):
            return getattr(request, name)

        def infer(self, **options):
            assert len(copies) == 2
            assert all(copy() is not None for copy in copies), "their memory may be anybody's by now"
            return request.infer(**options)

    def tensor(array, **options):
        copies.append(weakref.ref(array))
        return made(array, **options)

    made = mean._tensor
    monkeypatch.setattr(mean, "_tensor", tensor)
    monkeypatch.setattr(mean, "_requests", {4: Watched()})
    mean.run(inputs)


@installed
def test_a_file_with_other_tensors_than_the_signature_is_refused(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    with pytest.raises(SessionError, match="the signature says .*export the model again"):
        OpenVINOSession(tmp_path / "model.onnx", micro.MEAN, "fp32")


@installed
def test_a_frozen_batch_axis_is_refused(tmp_path):
    micro.write_double(tmp_path / "model.onnx", batch=3)
    with pytest.raises(SessionError, match="the signature says"):
        OpenVINOSession(tmp_path / "model.onnx", micro.DOUBLE, "fp32")


@installed
@pytest.mark.parametrize("content", [b"", b"not onnx"])
def test_a_file_that_is_no_model_is_a_session_error(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(SessionError, match="OpenVINO cannot load"):
        OpenVINOSession(tmp_path / "model.onnx", micro.DOUBLE, "fp32")


@installed
def test_a_closed_session_says_so(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    session = OpenVINOSession(tmp_path / "model.onnx", micro.DOUBLE, "fp32")
    session.close()
    session.close()
    with pytest.raises(SessionError, match="closed"):
        session.run({"x": np.ones((1, 2), np.float32)})


@installed
def test_bf16_is_unsuitable_where_the_cpu_would_only_pretend(tmp_path, monkeypatch):
    micro.write_double(tmp_path / "model.onnx")
    monkeypatch.setattr(openvino_session, "computes_bf16", lambda: False)
    with pytest.raises(Unsuitable, match="does not compute in bf16"):
        OpenVINOSession(tmp_path / "model.onnx", micro.DOUBLE, "bf16")


@installed
@pytest.mark.skipif(not openvino_session.computes_bf16(), reason="this CPU has no bf16")
def test_bf16_rounds_and_is_near(tmp_path):
    micro.write_double(tmp_path / "model.onnx", factor=1.0009765625)
    with OpenVINOSession(tmp_path / "model.onnx", micro.DOUBLE, "bf16") as session:
        x = np.random.default_rng(0).random((4, 2)).astype(np.float32)
        np.testing.assert_allclose(session.run({"x": x})["logits"], x, rtol=2e-2)


def test_without_openvino_its_way_is_unsuitable(tmp_path, monkeypatch):
    monkeypatch.setattr(openvino_session, "load", lambda: None)
    assert not openvino_session.available()
    assert not openvino_session.computes_bf16()
    with pytest.raises(Unsuitable, match=r"install quartet\[openvino\]"):
        OpenVINOSession(tmp_path / "model.onnx", micro.DOUBLE, "fp32")
