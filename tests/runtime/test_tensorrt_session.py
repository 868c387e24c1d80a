"""TensorRT without a GPU: what can be checked is that every name our code calls exists, and that nothing is tried in vain.

What needs a GPU carries the `gpu` marker.
"""

from __future__ import annotations

import ast
import re
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
    assert [name for name in used - {"ComputeCapability"} if not hasattr(trt, name)] == []
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


class FakeCuda:
    """Counts what is held; the allocation after `allowed` others fails, as on a full GPU."""

    def __init__(self, allowed):
        self.allowed, self.held = allowed, []

    def __getattr__(self, name):
        if name in ("cudaError_t", "cudaStreamNonBlocking", "cudaEventDisableTiming", "cudaEventBlockingSync"):
            return mock.MagicMock(cudaSuccess=0, __or__=lambda *_: 0)
        if name == "cudaGetErrorName":
            return lambda status: (0, b"cudaErrorMemoryAllocation")

        def call(*arguments):
            kind = re.sub("^cuda(Malloc|Free)?|(Create.*|Destroy)$", "", name)
            if name.startswith("cudaFree") or name.endswith("Destroy"):
                self.held.remove(kind)
            elif "Malloc" in name or "Create" in name:
                if len(self.held) == self.allowed:
                    return (2,)
                self.held.append(kind)
            return (0, 1)

        return call


def on_fake_cuda(monkeypatch, allowed):
    fake = FakeCuda(allowed)
    monkeypatch.setattr(cuda, "cudart", fake)
    monkeypatch.setattr(cuda, "utils", mock.MagicMock(), raising=False)
    monkeypatch.setattr(tensorrt_session, "_require", lambda artifact: None)
    monkeypatch.setattr(tensorrt_session, "_deserialize", lambda *arguments: (None, mock.MagicMock()))
    monkeypatch.setattr(tensorrt_session, "_compare", lambda *arguments: None)
    return fake


@pytest.mark.parametrize("allowed", range(6))
def test_a_session_that_finds_the_gpu_full_gives_back_what_it_had_taken(monkeypatch, tmp_path, allowed):
    fake = on_fake_cuda(monkeypatch, allowed)
    with pytest.raises(tensorrt_session.SessionError, match="cudaErrorMemoryAllocation"):
        opened(tmp_path, artifact(), micro.DOUBLE)
    assert fake.held == []


def test_a_closed_session_gives_back_all_it_took(monkeypatch, tmp_path):
    fake = on_fake_cuda(monkeypatch, allowed=100)
    session = opened(tmp_path, artifact(), micro.DOUBLE)
    assert len(fake.held) == 6, "stream, event, and host and device memory of input and output"
    session.close()
    session.close()
    assert fake.held == []
    with pytest.raises(tensorrt_session.SessionError, match="closed"):
        session.run({"x": np.ones((1, 2), np.float32)})


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
