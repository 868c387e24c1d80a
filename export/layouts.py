"""A published version in the folders that other servers read.

- triton: a Triton model repository. NAME/config.pbtxt, NAME/VERSION/model.onnx, and the labels where there are some. Its fields
  are those of model_config.proto (github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto).
- kserve: what a `storageUri` names for a ServingRuntime of Quartet: NAME/VERSION/ with every file of the version.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Literal, TypeGuard

from export.errors import ExportError
from modelrepo.manifest import MANIFEST
from modelrepo.repository import ModelVersion, verify
from modelrepo.tasks import Multiclass, Multilabel, Task
from modelrepo.tensors import DType, ShapeRange, TensorSpec
from runtime.session import promised_shapes

Layout = Literal["triton", "kserve"]

TYPES: dict[DType, str] = {
    "bool": "TYPE_BOOL",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
    **{name: f"TYPE_{name.upper()}" for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
CONFIG, LABELS = "config.pbtxt", "labels.txt"


def copy(version: ModelVersion, layout: Layout, root: Path) -> Path:
    """Write the version below `root` and return its folder. What is there already of other models and versions stays.

    A server that watches `root` sees the whole version or none of it. Raises ExportError where the version is there already
    or others of the model have another configuration, OSError where the disk fails; either leaves no version behind.
    """
    model = root / version.name
    target = model / str(version.version)
    if target.exists():
        raise ExportError(f"{target} is there already: remove it, or give another --out")
    model.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=model, prefix=".", ignore_cleanup_errors=True) as folder:
        staged = Path(folder) / "version"
        staged.mkdir()
        match layout:
            case "triton":
                shutil.copyfile(version.path / version.manifest.onnx.file.path, staged / "model.onnx")
                _configure(model, version)
            case "kserve":
                for file in version.manifest.files():
                    shutil.copyfile(version.path / file.path, staged / file.path)
                shutil.copyfile(version.path / MANIFEST, staged / MANIFEST)
                verify(staged, version.manifest)
        staged.rename(target)
    return target


def _configure(model: Path, version: ModelVersion) -> None:
    """Write what Triton keeps once for all versions of a model. Raises ExportError where those there have another one."""
    texts = {CONFIG: config(version)}
    task = version.manifest.task
    if _has_labels(task):
        texts[LABELS] = "".join(f"{label}\n" for label in task.labels)
    versions = [entry.name for entry in model.iterdir() if entry.name.isdecimal()]
    for name, text in texts.items():
        path = model / name
        if versions and (not path.exists() or path.read_text(encoding="utf-8") != text):
            raise ExportError(
                f"{path} is not that of version {version.version}, and Triton has one for all versions of a model "
                f"({', '.join(versions)} are there): give another --out"
            )
        part = path.with_name(f".{name}")
        part.write_text(text, encoding="utf-8")
        part.replace(path)


def _has_labels(task: Task) -> TypeGuard[Multiclass | Multilabel]:
    """Whether each column of the answer is a label's; a binary answer has one column for two labels."""
    return isinstance(task, Multiclass | Multilabel)


def config(version: ModelVersion) -> str:
    """The text of config.pbtxt: tensors, dynamic batching, and a warm-up of every batch and length that Quartet promises."""
    signature, task = version.manifest.signature, version.manifest.task
    lines = [
        f'name: "{version.name}"',
        'backend: "onnxruntime"',
        f"max_batch_size: {signature.batch.max}",
        *(_tensor("input", spec, None) for spec in signature.inputs),
        *(_tensor("output", spec, task) for spec in signature.outputs),
        "dynamic_batching { }",
    ]
    for batch, length in promised_shapes(signature):
        name = f"batch {batch}" + ("" if length is None else f", length {length}")
        inputs = " ".join(_warm_up(spec, batch, length) for spec in signature.inputs)
        lines.append(f'model_warmup {{ name: "{name}" batch_size: {batch} {inputs} }}')
    return "\n".join(lines) + "\n"


def _tensor(kind: str, spec: TensorSpec, task: Task | None) -> str:
    dims = ", ".join("-1" if isinstance(dim, ShapeRange) else str(dim) for dim in spec.shape[1:])
    labelled = task is not None and _has_labels(task) and spec.name == task.output
    labels = f' label_filename: "{LABELS}"' if labelled else ""
    return f'{kind} {{ name: "{spec.name}" data_type: {TYPES[spec.dtype]} dims: [ {dims} ]{labels} }}'


def _warm_up(spec: TensorSpec, batch: int, length: int | None) -> str:
    """Zeros: Triton throws the answers away."""
    dims = ", ".join(str(size) for size in spec.shape_at(batch, length)[1:])
    return f'inputs {{ key: "{spec.name}" value {{ data_type: {TYPES[spec.dtype]} dims: [ {dims} ] zero_data: true }} }}'
