"""Each family through every precision, backend and engine that can be made here, published and opened again."""

from __future__ import annotations

import json
import re
import subprocess
from xml.etree import ElementTree

import numpy as np
import onnx
import onnxruntime
import pytest

from export import gates
from export.pipeline import Options, export_run
from modelrepo.manifest import OnnxArtifact, TensorRTArtifact
from modelrepo.parity import HELD_OUT
from modelrepo.repository import Repository
from runtime import cuda, openvino_session, tensorrt_flavour
from service.loading import load
from service.settings import Settings
from tests.conftest import TINY

RTX = tensorrt_flavour.load("tensorrt-rtx") is not None
needs_rtx = pytest.mark.skipif(not RTX, reason="tensorrt-rtx is not installed")
STATIC = ("mlp", "cnn", "transformer")
# Each takes ten seconds or more: the two whose files differ most stand for all, the others run with `-m slow`.
QUICK = ("mlp", "lstm")
FAMILIES = [pytest.param(family, marks=() if family in QUICK else pytest.mark.slow) for family in TINY]
QUANTIZED_BY_RANGES = [family for family in FAMILIES if family.values[0] in STATIC]


@pytest.fixture(scope="module")
def exported(tiny_runs, tmp_path_factory):
    """Report and published version of a family, made when first asked for."""

    class Exported(dict):
        def __missing__(self, family):
            options = Options(tensorrt="tensorrt-rtx" if RTX else "off", command="--precisions fp32,fp16,bf16,int8")
            report, _ = export_run(tiny_runs[family], repository, f"tiny-{family}", options)
            self[family] = report, repository.open(f"tiny-{family}")
            return self[family]

    repository = Repository(tmp_path_factory.mktemp("models"))
    return Exported()


def onnx_files(version):
    return {artifact.file.path: artifact for artifact in version.manifest.artifacts if isinstance(artifact, OnnxArtifact)}


@pytest.mark.parametrize("family", FAMILIES)
def test_every_precision_is_made_or_said_to_be_left_out(family, exported):
    report, version = exported[family]
    told = {entry.artifact for entry in report.entries} | set(report.layers)
    for name in ("model.onnx", "model.fp16.onnx", "model.bf16.onnx", "model.int8.onnx"):
        assert name in onnx_files(version) or name in told, report.notes
    assert ("model.int8-symmetric.onnx" in told) == (family in STATIC)
    assert not [note for note in report.notes if "could not" in note]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_published_passed_its_gate_and_what_did_not_says_why(family, exported):
    report, version = exported[family]
    for candidate in version.manifest.candidates:
        if candidate.parity is not None:
            assert candidate.parity.gate == gates.gate_for(candidate.precision, candidate.backend)
            assert candidate.parity.used <= 1
            lengths = {case.length for case in candidate.parity.cases if case.rows == HELD_OUT}
            assert len(lengths) > 1 or version.manifest.signature.length is None
    kept = {artifact.file.path for artifact in version.manifest.artifacts}
    for entry in report.entries:
        assert entry.artifact in kept or entry.left_out


@pytest.mark.parametrize("family", FAMILIES)
def test_the_files_hold_the_numbers_they_are_named_after(family, exported):
    _, version = exported[family]
    types = {"fp16": onnx.TensorProto.FLOAT16, "bf16": onnx.TensorProto.BFLOAT16, "int8": onnx.TensorProto.INT8}
    for path, artifact in onnx_files(version).items():
        proto = onnx.load(version.path / path)
        onnx.checker.check_model(proto)
        held = {tensor.data_type for tensor in proto.graph.initializer}
        assert types.get(artifact.precision, onnx.TensorProto.FLOAT) in held
        for value in (*proto.graph.input, *proto.graph.output):
            kind = value.type.tensor_type.elem_type
            assert kind not in (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16), "callers send and get fp32"
            assert value.type.tensor_type.shape.dim[0].dim_param == "batch"


@pytest.mark.parametrize("family", QUANTIZED_BY_RANGES)
def test_ranges_are_found_by_three_methods_on_training_rows_and_the_best_is_kept(family, exported):
    _, version = exported[family]
    quantized = [a.quantization for a in onnx_files(version).values() if a.quantization]
    for how in quantized:
        assert set(how.errors) == {"min-max", "entropy", "percentile"}
        assert how.errors[how.method] == min(how.errors.values())
        assert how.rows == 128


@pytest.mark.parametrize("family", FAMILIES)
def test_candidates_are_in_the_order_of_their_speed(family, exported):
    _, version = exported[family]
    devices = [candidate.device for candidate in version.manifest.candidates]
    assert devices == sorted(devices, key=("cuda", "cpu").index)
    measured = [c for c in version.manifest.candidates if c.costs and c.device == "cpu"]
    means = [np.mean([np.log(cost.median_ms) for cost in candidate.costs]) for candidate in measured]
    assert means == sorted(means)
    assert "onnxruntime-cpu" in {candidate.provider for candidate in measured}
    if openvino_session.available():
        assert "openvino-cpu" in {candidate.provider for candidate in measured}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_service_proves_and_loads_what_was_published(family, exported):
    _, version = exported[family]
    loaded = load(version, Settings(repository=version.path.parent.parent, device="cpu", threads=1))
    loaded.sessions[0].close()
    candidate = loaded.way.candidate
    assert candidate == next(c for c in version.manifest.candidates if c.device == "cpu")
    assert loaded.way.skipped == {}
    assert loaded.costs == {(c.batch, c.length): c.median_ms / 1e3 for c in candidate.costs}, "this machine measured them"


@needs_rtx
@pytest.mark.parametrize("family", FAMILIES)
def test_an_engine_is_built_from_every_file_tensorrt_takes(family, exported):
    _, version = exported[family]
    engines = {a.precision: a for a in version.manifest.artifacts if isinstance(a, TensorRTArtifact)}
    sources = {a.precision for a in onnx_files(version).values() if not a.optimized and _taken(a)}
    assert set(engines) == sources
    trt = tensorrt_flavour.load("tensorrt-rtx")
    for precision, engine in engines.items():
        assert engine.version == trt.__version__
        assert engine.source in onnx_files(version)
        assert onnx_files(version)[engine.source].precision == precision
        plan = (version.path / engine.file.path).read_bytes()
        assert len(plan) > trt.Runtime(tensorrt_flavour.logger("tensorrt-rtx")).engine_header_size


def _taken(artifact):
    return artifact.quantization is None or artifact.quantization.scheme == "s8s8"


@needs_rtx
@pytest.mark.skipif(not cuda.available(), reason="only a GPU deserializes an engine")
@pytest.mark.gpu
@pytest.mark.parametrize("family", FAMILIES)
def test_engines_serve_here_with_golden_rows_right(family, exported):
    _, version = exported[family]
    loaded = load(version, Settings(repository=version.path.parent.parent, device="cuda"))
    loaded.session.close()
    assert loaded.candidate.device == "cuda"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_page_needs_nothing_else_and_names_every_file(family, exported):
    report, version = exported[family]
    page = (version.path / "report.html").read_text()
    assert not re.search(r'(src|href)="https?:', page)
    assert "<script" not in page
    for entry in report.entries:
        assert entry.artifact in page
    for picture in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(picture)
    assert page.count("<svg") == 3
    assert json.loads((version.path / "report.json").read_text())["model"] == version.name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_script_that_makes_it_again_is_whole(family, exported):
    _, version = exported[family]
    script = version.path / "reproduce.sh"
    subprocess.run(["sh", "-n", script], check=True)
    text = script.read_text()
    config = text.split("<<'CONFIG'\n")[1].split("\nCONFIG")[0]
    assert json.loads(config) == version.manifest.lineage.config
    assert f"python -m training {family} --config config.json" in text
    assert "--precisions fp32,fp16,bf16,int8" in text


def test_an_lstm_in_eight_bits_uses_onnx_runtimes_own_operator(exported, tmp_path):
    report, version = exported["lstm"]
    path = version.path / "model.int8.onnx"
    if not path.exists():
        pytest.skip(next(entry.left_out for entry in report.entries if entry.artifact == path.name))
    assert "DynamicQuantizeLSTM" in {node.op_type for node in onnx.load(path).graph.node}
    assert onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
