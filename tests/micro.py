"""Published models small enough to reason about, made without PyTorch: their answers are plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save

from modelrepo.manifest import (
    Artifact,
    Candidate,
    Data,
    File,
    Goldens,
    Lineage,
    Machine,
    Manifest,
    OnnxArtifact,
    ProfileShape,
    TensorRTArtifact,
)
from modelrepo.parity import Gate, Parity, ParityCase
from modelrepo.repository import Repository, Staging, digest, write_goldens
from modelrepo.tasks import Metric, Multiclass, Regression, Task
from modelrepo.tensors import ShapeRange, Signature, Tensors, TensorSpec

BATCH = ShapeRange(axis="batch", min=1, opt=4, max=8)
LENGTH = ShapeRange(axis="length", min=1, opt=4, max=12)

DOUBLE = Signature(
    inputs=(TensorSpec(name="x", dtype="float32", shape=(BATCH, 2)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(BATCH, 2)),),
)
MEAN = Signature(
    inputs=(
        TensorSpec(name="sequence", dtype="float32", shape=(BATCH, LENGTH, 1)),
        TensorSpec(name="mask", dtype="bool", shape=(BATCH, LENGTH), role="mask"),
    ),
    outputs=(TensorSpec(name="values", dtype="float32", shape=(BATCH, 1)),),
)


def double(inputs: Tensors) -> Tensors:
    """logits = 2x: whose row is whose can be read off the answer."""
    return {"logits": inputs["x"] * 2}


def mean(inputs: Tensors) -> Tensors:
    """values = the mean of the real steps: wrong as soon as padding or a neighbour's mask leaks in."""
    mask = inputs["mask"][:, :, None]
    return {"values": (inputs["sequence"] * mask).sum(axis=1) / mask.sum(axis=1).astype(np.float32)}


def write_double(path: Path, batch: str | int = "batch", factor: float = 2.0) -> None:
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "factor"], ["logits"])],
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])],
    )
    _save(graph, path)


def write_mean(path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["real", "last"], ["weights"]),
        helper.make_node("Mul", ["sequence", "weights"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "time"], ["total"], keepdims=0),
        helper.make_node("ReduceSum", ["weights", "time"], ["count"], keepdims=0),
        helper.make_node("Div", ["total", "count"], ["values"]),
    ]
    graph = helper.make_graph(
        nodes,
        "mean",
        [
            helper.make_tensor_value_info("sequence", TensorProto.FLOAT, ["batch", "length", 1]),
            helper.make_tensor_value_info("mask", TensorProto.BOOL, ["batch", "length"]),
        ],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", 1])],
        [
            helper.make_tensor("last", TensorProto.INT64, [1], [2]),
            helper.make_tensor("time", TensorProto.INT64, [1], [1]),
        ],
    )
    _save(graph, path)


def _save(graph, path: Path) -> None:
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)


def publish_double(root: Path, name: str = "double", factor: float = 2.0) -> int:
    inputs = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
    with Repository(root).stage(name) as staging:
        write_double(staging.path / "model.onnx", factor=factor)
        return finish(staging, DOUBLE, Multiclass(labels=("a", "b")), inputs, double(inputs))


def publish_mean(root: Path, name: str = "mean") -> int:
    lengths = np.array([1, 3, 4])
    mask = np.arange(4) < lengths[:, None]
    inputs = {"sequence": np.arange(12, dtype=np.float32).reshape(3, 4, 1) * mask[:, :, None], "mask": mask}
    with Repository(root).stage(name) as staging:
        write_mean(staging.path / "model.onnx")
        return finish(staging, MEAN, Regression(targets=("mean",)), inputs, mean(inputs))


def finish(
    staging: Staging,
    signature: Signature,
    task: Task,
    inputs: Tensors,
    outputs: Tensors,
    extra: tuple[Artifact, ...] = (),
) -> int:
    """Publish what lies in the staging folder as model.onnx, with these golden rows; `extra` artifacts come first."""
    return staging.publish(manifest(staging.path, signature, task, inputs, outputs, extra))


def manifest(
    folder: Path,
    signature: Signature,
    task: Task,
    inputs: Tensors,
    outputs: Tensors,
    extra: tuple[Artifact, ...] = (),
) -> Manifest:
    write_goldens(folder / "goldens.npz", inputs, outputs)
    (folder / "report.json").write_text("{}")
    plain = OnnxArtifact(precision="fp32", file=digest(folder / "model.onnx"), opset=20)
    return Manifest(
        format_version=2,
        family="micro",
        signature=signature,
        task=task,
        preprocessing=(),
        artifacts=(*extra, plain),
        candidates=(*(candidate(artifact) for artifact in extra), candidate(plain)),
        machine=Machine(processor="none", cores=1, platform="none", gpu=None, versions={}),
        goldens=Goldens(file=digest(folder / "goldens.npz"), rows=len(next(iter(inputs.values())))),
        metric=Metric(name="accuracy", value=1.0, better="higher", floor=0.5),
        metrics={"accuracy": 1.0},
        lineage=Lineage(
            created="2026-11-21T00:00:00+00:00",
            git_commit=None,
            git_dirty=None,
            seed=0,
            config={},
            data=Data(name="made up", fingerprint="0" * 64, rows={"test": 4}, handling={}),
            versions={},
            checkpoint_sha256="0" * 64,
        ),
        export={},
        reports=(digest(folder / "report.json"),),
    )


def candidate(artifact: Artifact) -> Candidate:
    """A way to serve an artifact: an ONNX file on the CPU, compared; an engine, never run."""
    engine = isinstance(artifact, TensorRTArtifact)
    return Candidate(
        artifact=artifact.file.path,
        backend=artifact.flavour if engine else "onnxruntime",
        device="cuda" if engine else "cpu",
        precision=artifact.precision,
        golden_tolerance=1e-3,
        parity=None if engine else EQUAL,
        costs=(),
    )


EQUAL = Parity(
    provider="onnxruntime-cpu",
    gate=Gate(atol=1e-4),
    cases=(
        ParityCase(
            rows="held-out",
            batch=1,
            length=None,
            max_abs_error=0.0,
            mean_abs_error=0.0,
            max_rel_error=0.0,
            min_cosine=None,
            used=0.0,
        ),
    ),
    metric=Metric(name="accuracy", value=1.0, better="higher", floor=0.5),
    loss=0.0,
    agreement=1.0,
)


def engine(path: Path, **changes) -> TensorRTArtifact:
    """An engine file that nobody built."""
    facts = {
        "precision": "fp32",
        "file": digest(path) if path.exists() else File(path=path.name, sha256="0" * 64, size=1),
        "source": "model.onnx",
        "flavour": "tensorrt-rtx",
        "version": "1.7.1.116",
        "compute_capabilities": ("8.9",),
        "gpu": None,
        "driver": None,
        "cuda": None,
        "options": {},
        "profiles": ({"x": ProfileShape(min=(1, 2), opt=(4, 2), max=(8, 2))},),
        "build_seconds": 0.1,
    }
    return TensorRTArtifact(**{**facts, **changes})
