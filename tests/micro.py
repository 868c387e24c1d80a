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
    Preprocessing,
    ProfileShape,
    TensorRTArtifact,
    Tokenize,
)
from modelrepo.parity import Gate, Parity, ParityCase
from modelrepo.preprocessing import Categorical, Columns, Numeric, Standardize
from modelrepo.reference import Reference
from modelrepo.repository import Repository, Staging, digest, write_goldens
from modelrepo.tasks import Metric, Multiclass, Regression, Task
from modelrepo.tensors import Bounds, ShapeRange, Signature, Tensors, TensorSpec
from training.data.tokenizer import byte_tokens

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


def write_double(path: Path, batch: str | int = "batch", factor: float = 2.0, work: int = 0) -> None:
    """`work` products of matrices, each half a millisecond or so, are done for nothing; they depend on the input, or would be done
    once and for all when the file is loaded."""
    nodes = [helper.make_node("Mul", ["x", "factor"], ["logits" if not work else "scaled"])]
    constants = [helper.make_tensor("factor", TensorProto.FLOAT, [1], [factor])]
    if work:
        nodes += [
            helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
            helper.make_node("Mul", ["least", "zero"], ["none"]),
            helper.make_node("Add", ["matrix", "none"], ["m0"]),
            *(helper.make_node("MatMul", [f"m{i}", "matrix"], [f"m{i + 1}"]) for i in range(work)),
            helper.make_node("ReduceSum", [f"m{work}"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["scaled", "nothing"], ["logits"]),
        ]
        constants.append(helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]))
        constants.append(helper.make_tensor("matrix", TensorProto.FLOAT, [256, 256], np.zeros(256 * 256, np.float32)))
    graph = helper.make_graph(
        nodes,
        "double",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 2])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, 2])],
        constants,
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


def publish_times(root: Path, factor: float, name: str = "double", work: int = 0) -> int:
    """A version that was trained otherwise: logits = factor * x, golden rows and all."""
    inputs = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
    with Repository(root).stage(name) as staging:
        write_double(staging.path / "model.onnx", factor=factor, work=work)
        return finish(staging, DOUBLE, Multiclass(labels=("a", "b")), inputs, {"logits": inputs["x"] * np.float32(factor)})


def publish_mean(root: Path, name: str = "mean") -> int:
    lengths = np.array([1, 3, 4])
    mask = np.arange(4) < lengths[:, None]
    inputs = {"sequence": np.arange(12, dtype=np.float32).reshape(3, 4, 1) * mask[:, :, None], "mask": mask}
    with Repository(root).stage(name) as staging:
        write_mean(staging.path / "model.onnx")
        return finish(staging, MEAN, Regression(targets=("mean",)), inputs, mean(inputs))


COLUMNS = Columns(
    input="features",
    columns=(
        Numeric(name="age", mean=40.0, scale=10.0),
        Categorical(name="town", categories=("Bergen", "Oslo", "Å, Lofoten")),
        Numeric(name="pay", mean=0.0, scale=1.0),
    ),
)
TABLE = Signature(
    inputs=(TensorSpec(name="features", dtype="float32", shape=(BATCH, 3)),),
    outputs=(TensorSpec(name="values", dtype="float32", shape=(BATCH, 3)),),
)
PICTURE = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(BATCH, 1, 2, 3)),),
    outputs=(TensorSpec(name="values", dtype="float32", shape=(BATCH, 6)),),
)
TEXT = Signature(
    inputs=(
        TensorSpec(name="tokens", dtype="int64", shape=(BATCH, LENGTH), bounds=Bounds(min=0, max=256)),
        TensorSpec(name="mask", dtype="bool", shape=(BATCH, LENGTH), role="mask"),
    ),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(BATCH, 2)),),
)


def publish_table(root: Path, name: str = "table", reference: Reference | None = None) -> int:
    """values = the features, -1 where one is missing. No golden row is without a missing value."""
    inputs = {"features": np.array([[31, 1, np.nan], [np.nan, 0, 5]], np.float32)}
    nodes = [
        helper.make_node("IsNaN", ["features"], ["absent"]),
        helper.make_node("Where", ["absent", "minus_one", "features"], ["values"]),
    ]
    constants = [helper.make_tensor("minus_one", TensorProto.FLOAT, [1], [-1])]
    with Repository(root).stage(name) as staging:
        save_graph(staging.path / "model.onnx", TABLE, nodes, constants)
        outputs = {"values": np.nan_to_num(inputs["features"], nan=-1)}
        task = Regression(targets=("age", "town", "pay"))
        return finish(staging, TABLE, task, inputs, outputs, (), (COLUMNS,), reference)


def publish_picture(root: Path, name: str = "picture") -> int:
    """values = the pixels, row by row."""
    inputs = {"image": np.array([0, 1, 2, 50, 100, 255] * 2, np.float32).reshape(2, 1, 2, 3)}
    nodes = [helper.make_node("Flatten", ["image"], ["values"], axis=1)]
    task = Regression(targets=tuple("abcdef"))
    step = Standardize(input="image", mean=(33.0,), scale=(79.0,))
    with Repository(root).stage(name) as staging:
        save_graph(staging.path / "model.onnx", PICTURE, nodes, [])
        return finish(staging, PICTURE, task, inputs, {"values": inputs["image"].reshape(2, 6)}, preprocessing=(step,))


def publish_text(root: Path, name: str = "text", tokenized: bool = True) -> int:
    """logits = 0 and the number of bytes in the text; the tokenizer is that of bytes."""
    inputs = {"tokens": np.array([[0xFF, 0, 0], *[list("hé".encode())] * 2]), "mask": np.ones((3, 3), np.bool_)}
    nodes = [
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["real", "time"], ["count"], keepdims=1),
        helper.make_node("Cast", ["tokens"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["numbers", "time"], ["total"], keepdims=1),
        helper.make_node("Mul", ["total", "nothing"], ["zero"]),
        helper.make_node("Concat", ["zero", "count"], ["logits"], axis=1),
    ]
    constants = [
        helper.make_tensor("time", TensorProto.INT64, [1], [1]),
        helper.make_tensor("nothing", TensorProto.FLOAT, [1], [0]),
    ]
    task = Multiclass(labels=("short", "long"))
    with Repository(root).stage(name) as staging:
        save_graph(staging.path / "model.onnx", TEXT, nodes, constants)
        outputs = {"logits": np.array([[0, 3]] * 3, np.float32)}
        if not tokenized:
            return finish(staging, TEXT, task, inputs, outputs)
        (staging.path / "tokenizer.json").write_text(byte_tokens())
        step = Tokenize(input="tokens", file=digest(staging.path / "tokenizer.json"))
        return finish(staging, TEXT, task, inputs, outputs, preprocessing=(step,))


def save_graph(path: Path, signature: Signature, nodes: list, constants: list) -> None:
    """A graph with the inputs and outputs of a signature."""
    kinds = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "bool": TensorProto.BOOL}

    def values(specs):
        dims = [[dim if isinstance(dim, int) else dim.axis for dim in spec.shape] for spec in specs]
        return [helper.make_tensor_value_info(s.name, kinds[s.dtype], d) for s, d in zip(specs, dims, strict=True)]

    _save(helper.make_graph(nodes, "micro", values(signature.inputs), values(signature.outputs), constants), path)


def finish(
    staging: Staging,
    signature: Signature,
    task: Task,
    inputs: Tensors,
    outputs: Tensors,
    extra: tuple[Artifact, ...] = (),
    preprocessing: tuple[Preprocessing, ...] = (),
    reference: Reference | None = None,
) -> int:
    """Publish what lies in the staging folder as model.onnx, with these golden rows; `extra` artifacts come first."""
    return staging.publish(manifest(staging.path, signature, task, inputs, outputs, extra, preprocessing, reference))


def manifest(
    folder: Path,
    signature: Signature,
    task: Task,
    inputs: Tensors,
    outputs: Tensors,
    extra: tuple[Artifact, ...] = (),
    preprocessing: tuple[Preprocessing, ...] = (),
    reference: Reference | None = None,
) -> Manifest:
    write_goldens(folder / "goldens.npz", inputs, outputs)
    (folder / "report.json").write_text("{}")
    plain = OnnxArtifact(precision="fp32", file=digest(folder / "model.onnx"), opset=20)
    return Manifest(
        format_version=2,
        family="micro",
        signature=signature,
        task=task,
        preprocessing=preprocessing,
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
        reference=reference,
        export={},
        reports=tuple(digest(path) for path in sorted(folder.glob("report.*"))),
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
