"""Published models that the page has a view for, made without training: their answers are arithmetic, and right."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from sklearn.datasets import load_digits

from modelrepo.preprocessing import Standardize
from modelrepo.repository import Repository
from modelrepo.tasks import Multiclass, Regression
from modelrepo.tensors import Bounds, ShapeRange, Signature, TensorSpec
from tests import micro
from tests.micro import BATCH

STEPS = ShapeRange(axis="length", min=20, opt=40, max=60)
TOKENS = ShapeRange(axis="length", min=2, opt=10, max=17)

DIGITS = Signature(
    inputs=(TensorSpec(name="image", dtype="float32", shape=(BATCH, 1, 8, 8)),),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(BATCH, 10)),),
)
ADDING = Signature(
    inputs=(
        TensorSpec(name="sequence", dtype="float32", shape=(BATCH, STEPS, 2)),
        TensorSpec(name="mask", dtype="bool", shape=(BATCH, STEPS), role="mask"),
    ),
    outputs=(TensorSpec(name="values", dtype="float32", shape=(BATCH, 1)),),
)
RECALL = Signature(
    inputs=(
        TensorSpec(
            name="tokens",
            dtype="int64",
            shape=(BATCH, TOKENS),
            bounds=Bounds(min=0, max=271),
            description="pairs as 16 * key + value, then the query as 256 + key",
        ),
        TensorSpec(name="mask", dtype="bool", shape=(BATCH, TOKENS), role="mask"),
    ),
    outputs=(TensorSpec(name="logits", dtype="float32", shape=(BATCH, 16)),),
)


def publish_all(root: Path) -> None:
    """Every kind of model that the page tells apart, in the order of its names."""
    publish_adding(root)
    publish_digits(root)
    micro.publish_picture(root)
    micro.publish_double(root, "plane")
    publish_recall(root)
    micro.publish_table(root)
    micro.publish_text(root)


def publish_digits(root: Path, name: str = "digits") -> None:
    """The nearest of ten mean pictures: right for nine digits of ten."""
    pictures, digits = load_digits(return_X_y=True)
    means = np.stack([pictures[digits == digit].mean(axis=0) for digit in range(10)])
    weights, bias = (means.T / 16).astype(np.float32), (-(means**2).sum(axis=1) / 32).astype(np.float32)
    inputs = {"image": pictures[:4].reshape(4, 1, 8, 8).astype(np.float32)}
    nodes = [
        helper.make_node("Flatten", ["image"], ["row"], axis=1),
        helper.make_node("Gemm", ["row", "weights", "bias"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("weights", TensorProto.FLOAT, [64, 10], weights.ravel()),
        helper.make_tensor("bias", TensorProto.FLOAT, [10], bias),
    ]
    step = Standardize(input="image", mean=(4.88,), scale=(6.01,))
    task = Multiclass(labels=tuple(str(digit) for digit in range(10)))
    outputs = {"logits": inputs["image"].reshape(4, 64) @ weights + bias}
    with Repository(root).stage(name) as staging:
        micro.save_graph(staging.path / "model.onnx", DIGITS, nodes, constants)
        micro.finish(staging, DIGITS, task, inputs, outputs, preprocessing=(step,))


def publish_adding(root: Path, name: str = "adding") -> None:
    """values = the sum of the marked numbers."""
    rng = np.random.default_rng(0)
    sequence = np.stack([rng.random((2, 20)), rng.integers(0, 2, (2, 20))], axis=2).astype(np.float32)
    inputs = {"sequence": sequence, "mask": np.ones((2, 20), np.bool_)}
    nodes = [
        helper.make_node("ReduceProd", ["sequence", "pair"], ["marked"], keepdims=0),
        helper.make_node("Cast", ["mask"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["marked", "real"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "time"], ["values"], keepdims=1),
    ]
    constants = [
        helper.make_tensor("pair", TensorProto.INT64, [1], [2]),
        helper.make_tensor("time", TensorProto.INT64, [1], [1]),
    ]
    with Repository(root).stage(name) as staging:
        micro.save_graph(staging.path / "model.onnx", ADDING, nodes, constants)
        outputs = {"values": sequence.prod(axis=2).sum(axis=1, keepdims=True)}
        micro.finish(staging, ADDING, Regression(targets=("sum",)), inputs, outputs)


def publish_recall(root: Path, name: str = "recall") -> None:
    """logits = 10 for the value of the pair whose key is asked for; the query is the largest token."""
    tokens = np.array([[16 * 3 + 5, 16 * 7 + 2, 256 + 7], [16 * 3 + 5, 16 * 7 + 2, 256 + 3]])
    nodes = [
        helper.make_node("ReduceMax", ["tokens", "time"], ["query"], keepdims=1),
        helper.make_node("Sub", ["query", "pairs"], ["asked"]),
        helper.make_node("Div", ["tokens", "values"], ["keys"]),
        helper.make_node("Equal", ["keys", "asked"], ["same"]),
        helper.make_node("And", ["same", "mask"], ["found"]),
        helper.make_node("Cast", ["found"], ["weight"], to=TensorProto.FLOAT),
        helper.make_node("Mod", ["tokens", "values"], ["stored"]),
        helper.make_node("OneHot", ["stored", "values", "off_on"], ["one_hot"]),
        helper.make_node("Unsqueeze", ["weight", "last"], ["weights"]),
        helper.make_node("Mul", ["one_hot", "weights"], ["picked"]),
        helper.make_node("ReduceSum", ["picked", "time"], ["logits"], keepdims=0),
    ]
    constants = [
        helper.make_tensor("time", TensorProto.INT64, [1], [1]),
        helper.make_tensor("last", TensorProto.INT64, [1], [2]),
        helper.make_tensor("pairs", TensorProto.INT64, [1], [256]),
        helper.make_tensor("values", TensorProto.INT64, [1], [16]),
        helper.make_tensor("off_on", TensorProto.FLOAT, [2], [0, 10]),
    ]
    outputs = {"logits": 10 * np.eye(16, dtype=np.float32)[[2, 5]]}
    task = Multiclass(labels=tuple(str(value) for value in range(16)))
    with Repository(root).stage(name) as staging:
        micro.save_graph(staging.path / "model.onnx", RECALL, nodes, constants)
        micro.finish(staging, RECALL, task, {"tokens": tokens, "mask": np.ones((2, 3), np.bool_)}, outputs)
