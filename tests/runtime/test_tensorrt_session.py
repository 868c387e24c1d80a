"""TensorRT without a GPU: what can be checked is that every name our code calls exists, and that nothing is tried in vain.

What needs a GPU carries the `gpu` marker.
"""

from __future__ import annotations

import ast
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from export.to_tensorrt import DEFAULTS, choose, to_tensorrt
from modelrepo.manifest import OnnxArtifact, ProfileShape, TensorRTArtifact
from modelrepo.repository import digest
from modelrepo.tensors import Signature
from runtime import cuda, tensorrt_flavour, tensorrt_session
from runtime.goldens import prove
from runtime.open import open_session
from runtime.session import Session, Unsuitable
from tests import micro
from tests.runtime.simulated_cuda import DoublingEngine, SimulatedCuda

ROOT = Path(__file__).parents[2]


def artifact(**changes) -> TensorRTArtifact:
    return micro.engine(Path("model.plan"), **changes)


def opened(path: Path, engine: TensorRTArtifact, signature: Signature) -> Session:
    return open_session(path, engine, micro.candidate(engine), signature)


def attributes_of(path: Path, owner: str) -> set[str]:
    """Every `owner.name` in a source file."""
    return {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in (owner, f"self._{owner}")
    }


def test_every_cuda_call_we_make_exists_in_the_bindings():
    cudart = pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    used = attributes_of(ROOT / "runtime/cuda.py", "cudart")
    assert {"cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaEventSynchronize"} <= used
    assert [name for name in used if not hasattr(cudart, name)] == []


@pytest.mark.parametrize("flavour", tensorrt_flavour.FLAVOURS)
def test_every_tensorrt_name_we_use_exists_in_the_flavour(flavour):
    trt = tensorrt_flavour.load(flavour)
    if trt is None:
        pytest.skip(f"{flavour} is not installed")
    sources = ("runtime/tensorrt_session.py", "runtime/tensorrt_flavour.py", "export/to_tensorrt.py")
    used = set().union(*(attributes_of(ROOT / source, "trt") for source in sources))
    assert {"Builder", "OnnxParser", "Runtime", "TensorIOMode"} <= used
    rtx_only = {"ComputeCapability", "CudaGraphStrategy", "DynamicShapesKernelSpecializationStrategy"}
    assert [name for name in used - rtx_only if not hasattr(trt, name)] == []
    calls = {
        "IExecutionContext": attributes_of(ROOT / "runtime/tensorrt_session.py", "context"),
        "Runtime": attributes_of(ROOT / "runtime/tensorrt_session.py", "runtime"),
        "ICudaEngine": attributes_of(ROOT / "runtime/tensorrt_session.py", "engine"),
        "IBuilderConfig": attributes_of(ROOT / "export/to_tensorrt.py", "config")
        - {"num_compute_capabilities", "set_compute_capability"},
        "OnnxParser": attributes_of(ROOT / "export/to_tensorrt.py", "parser"),
        "Builder": attributes_of(ROOT / "export/to_tensorrt.py", "builder"),
        "ParserError": attributes_of(ROOT / "export/to_tensorrt.py", "error"),
    }
    for owner, names in calls.items():
        assert names, f"no call on {owner} was found: has a variable been renamed?"
        assert [name for name in names if not hasattr(getattr(trt, owner), name)] == []


@pytest.mark.skipif(tensorrt_flavour.load("tensorrt") is not None, reason="tensorrt is installed")
def test_an_engine_of_a_flavour_that_is_not_installed_is_unsuitable():
    with pytest.raises(Unsuitable, match=r"tensorrt is not installed: install quartet\[tensorrt\]"):
        opened(Path("model.plan"), artifact(flavour="tensorrt"), micro.DOUBLE)


def test_a_version_compatible_engine_runs_under_later_versions_only(monkeypatch):
    trt = mock.MagicMock(__version__="11.4.0")
    monkeypatch.setattr(tensorrt_flavour, "load", lambda flavour: trt)
    monkeypatch.setattr(cuda, "available", lambda: True)
    monkeypatch.setattr(cuda, "compute_capability", lambda: "8.9")
    for built, fits in (("11.3.0", True), ("10.13.2", True), ("11.5.0", False)):
        engine = artifact(version=built, options={"version_compatible": True})
        if fits:
            assert tensorrt_session._require(engine) is trt
        else:
            with pytest.raises(Unsuitable, match="install that version"):
                tensorrt_session._require(engine)


def test_an_engine_of_another_version_is_unsuitable():
    if tensorrt_flavour.load("tensorrt-rtx") is None:
        pytest.skip("tensorrt-rtx is not installed")
    with pytest.raises(Unsuitable, match=r"built by tensorrt-rtx 0.9, here is .*: install that version or build the engine again"):
        opened(Path("model.plan"), artifact(version="0.9"), micro.DOUBLE)


@pytest.mark.skipif(cuda.available(), reason="this machine has a GPU")
def test_an_engine_is_unsuitable_without_a_gpu_and_no_runtime_is_even_made():
    trt = tensorrt_flavour.load("tensorrt-rtx")
    if trt is None:
        pytest.skip("tensorrt-rtx is not installed")
    with pytest.raises(Unsuitable, match="no NVIDIA GPU is visible"):
        opened(Path("does-not-exist.plan"), artifact(version=trt.__version__), micro.DOUBLE)


def test_a_batch_finds_the_first_profile_that_covers_it():
    small, large = ({"x": ProfileShape(min=(low, 2), opt=(low, 2), max=(high, 2))} for low, high in ((1, 1), (2, 8)))
    session = object.__new__(tensorrt_session.TensorRTSession)
    session._profiles = (small, large)
    assert session._fitting_profile({"x": np.ones((1, 2))}) == 0
    assert session._fitting_profile({"x": np.ones((5, 2))}) == 1
    with pytest.raises(tensorrt_session.SessionError, match=r"no profile of the engine covers \{'x': \[9, 2\]\}"):
        session._fitting_profile({"x": np.ones((9, 2))})


def simulated(monkeypatch, allowed=1000, capturable=True):
    """CUDA and an engine without a GPU."""
    fake = SimulatedCuda(allowed)
    engine = DoublingEngine(fake, capturable)
    monkeypatch.setattr(cuda, "cudart", fake)
    monkeypatch.setattr(cuda, "utils", mock.MagicMock(), raising=False)
    monkeypatch.setattr(tensorrt_session, "_require", lambda artifact: mock.MagicMock())
    monkeypatch.setattr(tensorrt_session, "_deserialize", lambda *arguments: (None, engine))
    monkeypatch.setattr(tensorrt_session, "_compare", lambda *arguments: None)
    return fake, engine


def engine_of_double(**changes) -> TensorRTArtifact:
    shape = ProfileShape(min=(1, 2), opt=(8, 2), max=(8, 2))
    return artifact(flavour="tensorrt", profiles=({"x": shape},), **changes)


def rows(count, value):
    return {"x": np.full((count, 2), value, np.float32)}


@pytest.mark.parametrize("allowed", range(7))
def test_a_session_that_finds_the_gpu_full_gives_back_what_it_had_taken(monkeypatch, tmp_path, allowed):
    fake, _ = simulated(monkeypatch, allowed)
    with pytest.raises(tensorrt_session.SessionError, match="cudaErrorMemoryAllocation"):
        opened(tmp_path, artifact(), micro.DOUBLE)
    assert fake.held == []


def test_a_closed_session_gives_back_all_it_took(monkeypatch, tmp_path):
    fake, _ = simulated(monkeypatch)
    session = opened(tmp_path, engine_of_double(), micro.DOUBLE)
    assert len(fake.held) == 7, "stream, event, scratch memory, and host and device memory of input and output"
    session.run(rows(2, 1))
    assert fake.held[7:] == ["executable graph"]
    session.close()
    session.close()
    assert fake.held == []
    with pytest.raises(tensorrt_session.SessionError, match="closed"):
        session.run(rows(1, 1))


def test_a_shape_met_again_is_one_launch_of_a_graph_with_the_new_rows(monkeypatch, tmp_path):
    fake, engine = simulated(monkeypatch)
    with opened(tmp_path, engine_of_double(), micro.DOUBLE) as session:
        for turn, (count, value) in enumerate([(1, 1), (2, 2), (1, 3), (2, 4), (1, 5)]):
            assert np.array_equal(session.run(rows(count, value))["logits"], np.full((count, 2), 2 * value)), turn
        assert fake.launches == 3
        assert engine.contexts == 3, "the profile's, and one for each captured shape"


def test_what_cannot_be_captured_runs_without_a_graph_and_is_not_tried_again(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO", "quartet.tensorrt")
    fake, _ = simulated(monkeypatch, capturable=False)
    with opened(tmp_path, engine_of_double(), micro.DOUBLE) as session:
        for value in (1, 2, 3):
            assert np.array_equal(session.run(rows(2, value))["logits"], np.full((2, 2), 2 * value))
    assert fake.launches == 0
    assert [record.getMessage() for record in caplog.records] == [
        "{'x': (2, 2)} runs without a CUDA graph: CUDA call failed: cudaErrorMemoryAllocation"
    ]
    assert fake.held == []


def test_graphs_are_bounded_however_many_shapes_are_sent(monkeypatch, tmp_path):
    monkeypatch.setattr(tensorrt_session, "GRAPHS", 2)
    fake, _ = simulated(monkeypatch)
    with opened(tmp_path, engine_of_double(), micro.DOUBLE) as session:
        for count in (1, 2, 3, 4, 3, 4):
            assert np.array_equal(session.run(rows(count, count))["logits"], np.full((count, 2), 2 * count))
        assert fake.held.count("executable graph") == 2


def test_tensorrt_rtx_makes_its_graphs_itself(monkeypatch, tmp_path):
    fake, engine = simulated(monkeypatch)
    settings = mock.MagicMock()
    engine.create_runtime_config = lambda: settings
    session = opened(tmp_path, engine_of_double().model_copy(update={"flavour": "tensorrt-rtx"}), micro.DOUBLE)
    assert settings.cuda_graph_strategy is session._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    session.run(rows(2, 1))
    session.run(rows(2, 1))
    assert fake.launches == 0
    session.close()


def test_no_gpu_is_reported_as_none_not_as_a_crash(monkeypatch):
    monkeypatch.setattr(cuda, "cudart", None)
    assert cuda.available() is False


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("signature", "write", "answer"),
    [
        pytest.param(micro.DOUBLE, micro.write_double, micro.double, id="rows"),
        pytest.param(micro.MEAN, micro.write_mean, micro.mean, id="sequences"),
    ],
)
def test_an_engine_built_here_answers_every_promised_shape(tmp_path, signature, write, answer):
    flavour, reason = choose("auto")
    if flavour is None:
        pytest.skip(reason)
    write(tmp_path / "model.onnx")
    source = OnnxArtifact(precision="fp32", file=digest(tmp_path / "model.onnx"), opset=20)
    engine = to_tensorrt(source, signature, flavour, tmp_path / "model.plan", DEFAULTS)
    if cuda.compute_capability() not in engine.compute_capabilities:
        pytest.skip(f"{flavour} does not build for compute capability {cuda.compute_capability()}")
    rng = np.random.default_rng(0)
    inputs = {"x": rng.random((8, 2)).astype(np.float32)}
    if signature is micro.MEAN:
        mask = np.arange(12) < rng.integers(1, 13, 8)[:, None]
        inputs = {"sequence": rng.random((8, 12, 1)).astype(np.float32) * mask[:, :, None], "mask": mask}
    with opened(tmp_path / "model.plan", engine, signature) as session:
        assert session.provider == flavour
        assert prove(session, inputs, answer(inputs), 1e-3) < 1e-3
        assert prove(session, inputs, answer(inputs), 1e-3) < 1e-3, "now from CUDA graphs, where they could be captured"
