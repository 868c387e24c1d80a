"""What the tests of all families need: tasks, kinds, random inputs, and the comparison of an export with its original."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import torch

from export.to_onnx import to_onnx
from modelrepo.preprocessing import Categorical, Numeric
from modelrepo.tasks import Binary, Multiclass, Regression
from modelrepo.tensors import ShapeRange
from tests.export.internals.inside import assert_the_inside_is_equal
from training.data.dataset import Images, Rows, Series, Tokens

LABELS = Multiclass(labels=("a", "b", "c"))
NUMBERS = Regression(targets=("t", "u"), mean=(5.0, -100.0), scale=(0.5, 30.0))
TASKS = (LABELS, Binary(labels=("no", "yes")), NUMBERS)

LENGTH = ShapeRange(axis="length", min=1, opt=5, max=19)
SERIES = Series(length=LENGTH, mean=(0.5, -1.0), scale=(2.0, 1.0))
TOKENS = Tokens(length=LENGTH, vocabulary=11)
GREY = Images(height=8, width=8, mean=(0.5,), scale=(2.0,))
COLOUR = Images(height=9, width=7, mean=(0.5, 0.0, 1.0), scale=(2.0, 1.0, 0.5))
TABLE = Rows(columns=(Numeric(name="x", mean=1.0, scale=2.0), Numeric(name="y", mean=-1.0, scale=0.5)))
MIXED = Rows(
    columns=(
        Categorical(name="colour", categories=("red", "green", "blue"), missing=True),
        Numeric(name="x", mean=1.0, scale=2.0, missing=True),
        Categorical(name="shape", categories=("round", "square")),
        Numeric(name="y", mean=-1.0, scale=0.5),
    )
)


def inputs(model, rows=5, length=7, seed=0):
    """Random inputs of a model: sequences of several lengths, the first the longest, and tables with missing values."""
    rng = np.random.default_rng(seed)
    made = {}
    for spec in model.signature().inputs:
        shape = spec.shape_at(rows, length)
        if spec.role == "mask":
            lengths = np.concatenate([[length], rng.integers(1, length + 1, rows - 1)])
            made[spec.name] = np.arange(length) < lengths[:, None]
        elif spec.bounds:
            made[spec.name] = rng.integers(spec.bounds.min, spec.bounds.max + 1, shape)
        else:
            made[spec.name] = rng.normal(size=shape).astype(np.float32)
    if isinstance(getattr(model, "data", None), Rows):
        for at, column in enumerate(model.data.columns):
            if isinstance(column, Categorical):
                made["features"][:, at] = rng.integers(0, len(column.categories), rows)
        made["features"][rng.random((rows, len(model.data.columns))) < 0.2] = np.nan
    model.signature().check(made)
    return {name: torch.from_numpy(array) for name, array in made.items()}


def without_gradient(model):
    """The parameters that one backward pass through random inputs does not reach."""
    model.train()
    model(**inputs(model, rows=16)).square().sum().backward()
    return [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-6]


@torch.no_grad()
def padding_changes(model, length=13):
    """Largest difference between rows answered together, padded with wild numbers, and each alone without padding."""
    model.eval()
    batch = inputs(model, rows=8, length=length)
    value = next(name for name in batch if name != "mask")
    batch[value][~batch["mask"]] = 1e6 if batch[value].is_floating_point() else 1
    together = model(**batch)
    assert together.isfinite().all()
    differences = []
    for row, real in enumerate(batch["mask"].sum(1).tolist()):
        alone = {name: tensor[row : row + 1, :real] for name, tensor in batch.items()}
        differences.append((model(**alone)[0] - together[row]).abs().max().item())
    return max(differences)


@torch.no_grad()
def assert_export_is_equal(model, folder, tolerance=1e-4):
    """ONNX Runtime answers as PyTorch does, and inside too, at batches and lengths unlike the example's. Returns the operations."""
    model.eval()
    example = {name: tensor.numpy() for name, tensor in inputs(model, rows=3, length=6).items()}
    modules = to_onnx(model, model.signature(), example, folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    for rows, length in ((1, 1), (4, 9), (7, 18)):
        batch = inputs(model, rows, length, seed=1)
        answer = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})[0]
        np.testing.assert_allclose(answer, model(**batch).numpy(), atol=tolerance, rtol=tolerance)
    assert_the_inside_is_equal(model, modules, folder / "model.onnx", inputs(model, 4, 9, seed=1), folder / "explain.onnx")
    return [node.op_type for node in onnx.load(folder / "model.onnx").graph.node]
