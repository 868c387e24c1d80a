"""manifest.json: everything a published version says about itself.

Strict in both directions: unknown keys, wrong types and missing keys are refused, each named by its path. A manifest is
written once, by `export`, and never changed. It names neither model nor version: those are the folder it lies in, so that
a version may be copied to another repository as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, JsonValue, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from modelrepo.errors import ManifestError
from modelrepo.preprocessing import Columns, Standardize
from modelrepo.tasks import Metric, Task
from modelrepo.tensors import Signature, Strict

FORMAT_VERSION: Final = 1
MANIFEST = "manifest.json"
HELD_OUT: Final = "held-out"  # rows of a parity case

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class File(Strict):
    """A file beside the manifest, and what it must contain."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    sha256: Sha256
    size: NonNegativeInt


class OnnxArtifact(Strict):
    """An ONNX graph, for ONNX Runtime on any device."""

    format: Literal["onnx"] = "onnx"
    precision: Precision
    file: File
    opset: PositiveInt


class ProfileShape(Strict):
    """Shapes one input of an engine takes: the smallest, the one it was tuned for, the largest."""

    min: tuple[PositiveInt, ...]
    opt: tuple[PositiveInt, ...]
    max: tuple[PositiveInt, ...]


class TensorRTArtifact(Strict):
    """A serialized TensorRT engine: runs only under the flavour and version that built it, on the GPUs it names.

    `proven` says whether it has been run and compared with the original. An engine built where there was no GPU has not:
    the service lets it serve only after its golden rows pass on the serving machine.
    """

    format: Literal["tensorrt"] = "tensorrt"
    precision: Precision
    file: File
    flavour: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    compute_capabilities: Annotated[tuple[Annotated[str, Field(pattern=r"^\d+\.\d$")], ...], Field(min_length=1)]
    profiles: Annotated[tuple[dict[str, ProfileShape], ...], Field(min_length=1)]
    proven: bool


Artifact = Annotated[OnnxArtifact | TensorRTArtifact, Field(discriminator="format")]


class Tokenize(Strict):
    """Text to token ids, done by whoever calls the graph, with the tokenizer in `file` (Hugging Face's tokenizer.json).

    Texts of more than the input's longest length are cut at the end.
    """

    type: Literal["tokenize"] = "tokenize"
    input: str
    file: File


Preprocessing = Annotated[Standardize | Columns | Tokenize, Field(discriminator="type")]


class Goldens(Strict):
    """Held-out rows with PyTorch's outputs, which whatever is to serve must reproduce within `tolerance`, in the task's unit.

    The file is an .npz of arrays `input.NAME` and `output.NAME`, each [rows, …]; sequences are zero-padded to the longest
    and the mask says so.
    """

    file: File
    rows: PositiveInt
    tolerance: NonNegativeFloat


class ParityCase(Strict):
    """One comparison with the original: `batch` rows at one length.

    `rows` are `held-out` ones or an extreme input by its name, such as `zeros`. Errors are those of output elements: absolute in
    the task's unit, relative to the largest element of the row. The cosine is the lowest of any row, None where a row is one
    number; agreement is the share of rows that decide as the original, None where there is no decision or it means nothing.
    """

    rows: str
    batch: PositiveInt
    length: PositiveInt | None
    max_abs_error: NonNegativeFloat
    mean_abs_error: NonNegativeFloat
    max_rel_error: NonNegativeFloat
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None
    top1_agreement: Annotated[float, Field(ge=0, le=1)] | None

    @property
    def error(self) -> float:
        """What is held to the tolerance: the absolute error; of extreme inputs, whose outputs may be of any size, the lesser."""
        return self.max_abs_error if self.rows == HELD_OUT else min(self.max_abs_error, self.max_rel_error)


class Parity(Strict):
    """How far one artifact is from PyTorch, case by case."""

    artifact: str
    provider: str
    tolerance: NonNegativeFloat
    cases: Annotated[tuple[ParityCase, ...], Field(min_length=1)]

    @property
    def max_error(self) -> float:
        """The worst of all cases."""
        return max(case.error for case in self.cases)

    @model_validator(mode="after")
    def _equal(self) -> Self:
        if self.max_error > self.tolerance:
            raise ValueError(f"{self.artifact} differs by {self.max_error:g}, more than its tolerance of {self.tolerance:g}")
        return self


class Data(Strict):
    """The data a model learnt from; the fingerprint is a sha256 over the arrays of its splits.

    `handling` records what was done on the way: how it was split, what was missing and what stands for it.
    """

    name: str
    fingerprint: Sha256
    rows: dict[str, NonNegativeInt]
    handling: dict[str, JsonValue]


class Lineage(Strict):
    """Where a version comes from: enough to train it again."""

    created: str
    git_commit: str | None
    git_dirty: bool | None
    seed: int
    config: dict[str, JsonValue]
    data: Data
    versions: dict[str, str]
    checkpoint_sha256: Sha256


class Manifest(Strict):
    """One published version. `metric` is what it was judged by, `metrics` all that was measured on the test split."""

    format_version: Literal[1]
    family: str
    signature: Signature
    task: Annotated[Task, Field(discriminator="type")]
    preprocessing: tuple[Preprocessing, ...]
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1)]
    goldens: Goldens
    parity: tuple[Parity, ...]
    metric: Metric
    metrics: dict[str, float]
    lineage: Lineage
    report: File

    def files(self) -> Iterator[File]:
        """Every file that belongs to the version, the manifest itself left out."""
        yield from (artifact.file for artifact in self.artifacts)
        yield from (step.file for step in self.preprocessing if isinstance(step, Tokenize))
        yield self.goldens.file
        yield self.report

    @property
    def onnx(self) -> OnnxArtifact:
        """The fp32 ONNX artifact, which every version has."""
        return next(a for a in self.artifacts if isinstance(a, OnnxArtifact) and a.precision == "fp32")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        paths = [file.path for file in self.files()]
        inputs = {spec.name for spec in self.signature.inputs}
        outputs = {spec.name: spec for spec in self.signature.outputs}
        if len(set(paths)) != len(paths) or MANIFEST in paths:
            raise ValueError(f"file paths must differ from each other and from {MANIFEST}, not {paths}")
        if not any(isinstance(a, OnnxArtifact) and a.precision == "fp32" for a in self.artifacts):
            raise ValueError("every version has an ONNX artifact of precision fp32")
        if self.task.output not in outputs or outputs[self.task.output].shape[1:] != (self.task.outputs,):
            raise ValueError(f"a {self.task.type} task needs an output {self.task.output!r} of shape [batch, {self.task.outputs}]")
        for step in self.preprocessing:
            if step.input not in inputs:
                raise ValueError(f"preprocessing names input {step.input!r}, which the signature lacks")
        ranks = {spec.name: len(spec.shape) for spec in self.signature.inputs}
        for artifact in self.artifacts:
            for profile in artifact.profiles if isinstance(artifact, TensorRTArtifact) else ():
                found = {name: {len(shape.min), len(shape.opt), len(shape.max)} for name, shape in profile.items()}
                if found != {name: {rank} for name, rank in ranks.items()}:
                    raise ValueError(f"every profile of {artifact.file.path} must name the inputs {sorted(inputs)} in their ranks")
        if not self.metric.reached():
            raise ValueError(f"{self.metric.name} {self.metric.value:g} misses its floor, {self.metric.floor:g}")
        unproven = {a.file.path for a in self.artifacts if isinstance(a, TensorRTArtifact) and not a.proven}
        compared = {parity.artifact for parity in self.parity}
        if compared != {a.file.path for a in self.artifacts} - unproven:
            raise ValueError("parity must hold one entry for every artifact that is not marked as unproven, and no other")
        return self

    def to_json(self) -> str:
        """The text of manifest.json."""
        return self.model_dump_json(indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, source: str) -> Manifest:
        """Read manifest.json. Raises ManifestError that lists every fault with its path; `source` names the file."""
        remedy = "export the model again, or restore the file"
        try:
            document = json.loads(text, object_pairs_hook=_unique)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{source} is not JSON ({error}): {remedy}") from None
        if isinstance(document, dict):
            found: Any = document.get("format_version")
            if isinstance(found, int) and found > FORMAT_VERSION:
                raise ManifestError(
                    f"{source} has format_version {found}; this Quartet reads up to {FORMAT_VERSION}: upgrade Quartet"
                )
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            faults = "; ".join(f"{_path(fault['loc'])}: {_explain(fault)}" for fault in error.errors(include_url=False))
            raise ManifestError(f"{source} is not a valid manifest: {faults}. To fix it, {remedy}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a key given twice is an error, where Python would keep the last."""
    document = dict(pairs)
    if len(document) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return document


def _path(location: tuple[int | str, ...]) -> str:
    path = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in location)
    return path.lstrip(".") or "manifest"


def _explain(fault: Any) -> str:
    if fault["type"] == "extra_forbidden":
        return "unknown key, remove it"
    if fault["type"] == "missing":
        return "this key is missing"
    shown = repr(fault["input"])
    return f"{fault['msg']} (found {shown if len(shown) <= 80 else shown[:77] + '...'})"
