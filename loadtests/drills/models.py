"""Models for drills: copies of a published version, and tiny ones whose answers, or failures, are known without running them."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, save

from loadtests.calls import Call, infer_request
from modelrepo.repository import Repository
from modelrepo.tasks import Multiclass, Regression
from modelrepo.tensors import Signature, TensorSpec
from tests import micro

TABLE = 16


def publish_copy(source: Path, name: str, target: Path, number: int | None = None) -> None:
    """A version of a model, the newest unless a number is given, as the next version of that model in `target`."""
    version = Repository(source).open(name, number)
    with Repository(target).stage(name) as staging:
        for file in version.manifest.files():
            shutil.copyfile(version.path / file.path, staging.path / file.path)
        staging.publish(version.manifest)


def publish_torn(root: Path, name: str) -> Path:
    """The folder of a next version that is like the newest one, but for an ONNX file that ends half way."""
    newest = Repository(root).open(name)
    hidden = newest.path.parent / ".torn"
    shutil.copytree(newest.path, hidden)
    torn = hidden / newest.manifest.onnx.file.path
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    return hidden.rename(newest.path.parent / str(newest.version + 1))  # at once, so that watching cannot see it whole


def publish_scale(root: Path) -> int:
    """The next version of a model whose version n answers n times its input: an answer that names the wrong version is wrong."""
    repository = Repository(root)
    factor = len(repository.versions("scale")) + 1 if "scale" in repository.models() else 1
    inputs = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
    with repository.stage("scale") as staging:
        micro.write_double(staging.path / "model.onnx", factor=factor)
        outputs = {"logits": inputs["x"] * factor}
        return micro.finish(staging, micro.DOUBLE, Multiclass(labels=("a", "b")), inputs, outputs)


def scale_calls(versions: tuple[int, ...]) -> list[Call]:
    """Rows for that model, and the answers of these versions."""
    calls = []
    for value in range(1, 9):
        x = np.array([[value, -value]], np.float32)
        right = {str(version): {"logits": x * version} for version in versions}
        calls.append(Call("scale", infer_request("scale", {"x": x}), right, 1e-4))
    return calls


def publish_lookup(root: Path) -> None:
    """A model that looks rows up in a table of 16 after some milliseconds of work: ONNX Runtime fails for a larger index.

    Its signature has no bounds, so nothing but the run itself finds that out.
    """
    batch = micro.BATCH
    signature = Signature(
        inputs=(TensorSpec(name="index", dtype="int64", shape=(batch, 1)),),
        outputs=(TensorSpec(name="values", dtype="float32", shape=(batch, 1)),),
    )
    size, rounds = 256, 6
    # Products that depend on the input, else they would be computed once and for all when the file is loaded.
    nodes = [
        helper.make_node("ReduceMin", ["index"], ["least"], keepdims=0),
        helper.make_node("Cast", ["least"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["number", "zero"], ["none"]),
        helper.make_node("Mul", ["matrix", "none"], ["m0"]),
        *(helper.make_node("MatMul", [f"m{i}", "matrix"], [f"m{i + 1}"]) for i in range(rounds)),
        helper.make_node("ReduceSum", [f"m{rounds}"], ["nothing"], keepdims=0),
        helper.make_node("Gather", ["table", "index"], ["found"]),
        helper.make_node("Add", ["found", "nothing"], ["values"]),
    ]
    graph = helper.make_graph(
        nodes,
        "lookup",
        [helper.make_tensor_value_info("index", TensorProto.INT64, ["batch", 1])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", 1])],
        [
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("matrix", TensorProto.FLOAT, [size, size], np.zeros(size * size, np.float32)),
            helper.make_tensor("table", TensorProto.FLOAT, [TABLE], np.arange(TABLE, dtype=np.float32) * 3),
        ],
    )
    inputs = {"index": np.arange(4, dtype=np.int64)[:, None]}
    with Repository(root).stage("lookup") as staging:
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), staging.path / "model.onnx")
        outputs = {"values": inputs["index"].astype(np.float32) * 3}
        micro.finish(staging, signature, Regression(targets=("value",)), inputs, outputs)


def lookup_calls() -> list[Call]:
    """A good row for each entry of the table."""
    calls = []
    for entry in range(TABLE):
        request = infer_request("lookup", {"index": np.array([[entry]])})
        calls.append(Call("lookup", request, {"1": {"values": np.array([[entry * 3]], np.float32)}}, 1e-4))
    return calls


def poisonous_lookup() -> bytes:
    """A row that is not in the table."""
    return infer_request("lookup", {"index": np.array([[TABLE + 1000]])})
