"""manifest.json: everything a published version says about itself.

Strict in both directions: unknown keys, wrong types and missing keys are refused, each named by its path. A manifest is
written once, by `export`, and never changed. It names neither model nor version: those are the folder it lies in, so that
a version may be copied to another repository as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Final, Literal, Self, TypeGuard

from pydantic import Field, JsonValue, NonNegativeFloat, NonNegativeInt, PositiveInt, ValidationError, model_validator

from modelrepo.errors import ManifestError
from modelrepo.internals import Internal
from modelrepo.parity import Parity
from modelrepo.preprocessing import Columns, Standardize
from modelrepo.reference import Reference
from modelrepo.tasks import Metric, Task
from modelrepo.tensors import Signature, Strict

FORMAT_VERSION: Final = 2
MANIFEST = "manifest.json"
ENGINES = "engines.json"
GOLDEN_TOLERANCE: Final = 1e-3  # at least: what serves may run on another device than the one that was compared

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]
Backend = Literal["onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]
DeviceKind = Literal["cpu", "cuda"]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Machine(Strict):
    """Where something was measured; versions of the libraries that ran it by name. `gpu` is None where there was none."""

    processor: str
    cores: PositiveInt
    platform: str
    gpu: str | None
    versions: dict[str, str]


class File(Strict):
    """A file beside the manifest, and what it must contain."""

    path: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    sha256: Sha256
    size: NonNegativeInt


class Quantization(Strict):
    """How 8 bits stand for floats: u8s8 and s8s8 name the types of activations and weights, fp8 is E4M3 for both.

    Ranges of activations are fixed by `method` from `rows` rows of the training split; the mean absolute error of each method
    that was tried, in the task's unit, is in `errors`. A dynamic scheme measures them at every run.
    """

    scheme: Literal["u8s8", "s8s8", "fp8", "dynamic"]
    method: Literal["min-max", "entropy", "percentile"] | None
    errors: dict[str, NonNegativeFloat]
    rows: NonNegativeInt


class OnnxArtifact(Strict):
    """An ONNX graph. An `optimized` one holds ONNX Runtime's own fused operators, which nothing else runs.

    `kept_fp32` names the nodes that stay in fp32 because 16 bits would overflow there. `golden_tolerance` is how far from
    PyTorch the golden rows of an engine made from it may come out, in the task's unit. `converter` is who made it, where that was
    not Quartet itself.
    """

    format: Literal["onnx"] = "onnx"
    precision: Precision
    file: File
    opset: PositiveInt
    optimized: bool = False
    quantization: Quantization | None = None
    kept_fp32: tuple[str, ...] = ()
    converter: str | None = None
    golden_tolerance: NonNegativeFloat = GOLDEN_TOLERANCE


class ProfileShape(Strict):
    """Shapes one input of an engine takes: the smallest, the one it was tuned for, the largest."""

    min: tuple[PositiveInt, ...]
    opt: tuple[PositiveInt, ...]
    max: tuple[PositiveInt, ...]


class TensorRTArtifact(Strict):
    """A serialized TensorRT engine: runs only under the flavour and version that built it, on the GPUs it names.

    `source` is the ONNX file it was built from; `gpu`, `driver` and `cuda` (versions) are those of the machine that built it,
    None where it had none; `options` are the builder's that differ from its defaults.
    """

    format: Literal["tensorrt"] = "tensorrt"
    precision: Precision
    file: File
    source: str
    flavour: Literal["tensorrt", "tensorrt-rtx"]
    version: str
    compute_capabilities: Annotated[tuple[Annotated[str, Field(pattern=r"^\d+\.\d$")], ...], Field(min_length=1)]
    gpu: str | None
    driver: str | None
    cuda: str | None
    options: dict[str, JsonValue]
    profiles: Annotated[tuple[dict[str, ProfileShape], ...], Field(min_length=1)]
    build_seconds: NonNegativeFloat


Artifact = Annotated[OnnxArtifact | TensorRTArtifact, Field(discriminator="format")]


class Tokenize(Strict):
    """Text to token ids, done by whoever calls the graph, with the tokenizer in `file` (Hugging Face's tokenizer.json).

    Texts of more than the input's longest length are cut at the end.
    """

    type: Literal["tokenize"] = "tokenize"
    input: str
    file: File


Preprocessing = Annotated[Standardize | Columns | Tokenize, Field(discriminator="type")]


class Internals(Strict):
    """explain.onnx: the fp32 graph, proven equal like it, with more outputs. It never serves, and is loaded only when asked for."""

    file: File
    outputs: Annotated[tuple[Internal, ...], Field(min_length=1)]


class Goldens(Strict):
    """Held-out rows with PyTorch's outputs, which whatever is to serve must reproduce on the machine it serves on.

    The file is an .npz of arrays `input.NAME` and `output.NAME`, each [rows, …]; sequences are zero-padded to the longest
    and the mask says so.
    """

    file: File
    rows: PositiveInt


class Cost(Strict):
    """Milliseconds of one run over a batch of one length: the median of `repeats`, and the 10th and 90th percentile."""

    batch: PositiveInt
    length: PositiveInt | None
    median_ms: NonNegativeFloat
    p10_ms: NonNegativeFloat
    p90_ms: NonNegativeFloat
    repeats: PositiveInt


class Candidate(Strict):
    """One way to serve a version: an artifact under a backend on a kind of device.

    `precision` is what it computes in, which a backend may lower below the file's. Golden rows must come out within
    `golden_tolerance` of PyTorch's, in the task's unit. `parity` and `costs` were measured by the exporter; where it had no such
    device, parity is that of the same file on another provider or None, and there are no costs.
    """

    artifact: str
    backend: Backend
    device: DeviceKind
    precision: Precision
    golden_tolerance: NonNegativeFloat
    parity: Parity | None
    costs: tuple[Cost, ...]

    @property
    def provider(self) -> str:
        """What runs it, as sessions call themselves."""
        return self.backend if self.backend.startswith("tensorrt") else f"{self.backend}-{self.device}"


class EngineSet(Strict):
    """engines.json: engines added to a version after it was published, for the GPU and TensorRT that `key` names."""

    format_version: Literal[1] = 1
    key: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    engines: Annotated[tuple[TensorRTArtifact, ...], Field(min_length=1)]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each(self) -> Self:
        if [candidate.artifact for candidate in self.candidates] != [engine.file.path for engine in self.engines]:
            raise ValueError("there must be one candidate for each engine, in the same order")
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
    """One published version. `metric` is what it was judged by, `metrics` all that was measured on the test split.

    A service tries the `candidates` in order, which is that of speed where `machine` could measure it. `export`
    holds the options it was made with. `reference` is what drift is told from; versions of before have none.
    """

    format_version: Literal[2]
    family: str
    signature: Signature
    task: Annotated[Task, Field(discriminator="type")]
    preprocessing: tuple[Preprocessing, ...]
    artifacts: Annotated[tuple[Artifact, ...], Field(min_length=1)]
    candidates: Annotated[tuple[Candidate, ...], Field(min_length=1)]
    machine: Machine
    goldens: Goldens
    metric: Metric
    metrics: dict[str, float]
    lineage: Lineage
    reference: Reference | None = None
    export: dict[str, JsonValue]
    reports: Annotated[tuple[File, ...], Field(min_length=1)]
    internals: Internals | None = None

    def files(self) -> Iterator[File]:
        """Every file that belongs to the version, the manifest itself left out."""
        yield from (artifact.file for artifact in self.artifacts)
        yield from (step.file for step in self.preprocessing if isinstance(step, Tokenize))
        yield self.goldens.file
        yield from self.reports
        if self.internals is not None:
            yield self.internals.file

    @property
    def onnx(self) -> OnnxArtifact:
        """The fp32 ONNX artifact, which every version has."""
        return next(a for a in self.artifacts if _is_plain(a))

    def artifact(self, candidate: Candidate) -> Artifact:
        """What a candidate runs."""
        return next(a for a in self.artifacts if a.file.path == candidate.artifact)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        paths = [file.path for file in self.files()]
        inputs = {spec.name for spec in self.signature.inputs}
        outputs = {spec.name: spec for spec in self.signature.outputs}
        if len(set(paths)) != len(paths) or MANIFEST in paths:
            raise ValueError(f"file paths must differ from each other and from {MANIFEST}, not {paths}")
        if not any(_is_plain(a) for a in self.artifacts):
            raise ValueError("every version has an ONNX artifact of precision fp32, not optimized")
        if self.task.output not in outputs or outputs[self.task.output].shape[1:] != (self.task.outputs,):
            raise ValueError(f"a {self.task.type} task needs an output {self.task.output!r} of shape [batch, {self.task.outputs}]")
        if self.internals is not None:
            names = [*inputs, *outputs, *(shown.name for shown in self.internals.outputs)]
            if len(set(names)) != len(names):
                raise ValueError(f"names of internals must differ from each other and from inputs and outputs, not {names}")
        for step in self.preprocessing:
            if step.input not in inputs:
                raise ValueError(f"preprocessing names input {step.input!r}, which the signature lacks")
        if self.reference is not None and self.reference.input not in inputs:
            raise ValueError(f"the reference names input {self.reference.input!r}, which the signature lacks")
        ranks = {spec.name: len(spec.shape) for spec in self.signature.inputs}
        for artifact in self.artifacts:
            for profile in artifact.profiles if isinstance(artifact, TensorRTArtifact) else ():
                found = {name: {len(shape.min), len(shape.opt), len(shape.max)} for name, shape in profile.items()}
                if found != {name: {rank} for name, rank in ranks.items()}:
                    raise ValueError(f"every profile of {artifact.file.path} must name the inputs {sorted(inputs)} in their ranks")
        if not self.metric.reached():
            raise ValueError(f"{self.metric.name} {self.metric.value:g} misses its floor, {self.metric.floor:g}")
        ways = [(c.artifact, c.backend, c.device, c.precision) for c in self.candidates]
        if len(set(ways)) != len(ways) or not {c.artifact for c in self.candidates} <= {a.file.path for a in self.artifacts}:
            raise ValueError("candidates must differ, and name artifacts of this version")
        if not any(c.artifact == self.onnx.file.path and c.device == "cpu" and c.parity for c in self.candidates):
            raise ValueError(f"one candidate must be {self.onnx.file.path} on the cpu, compared with the original")
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


def _is_plain(artifact: Artifact) -> TypeGuard[OnnxArtifact]:
    """Whether it is the ONNX file that stands for the model everywhere."""
    return isinstance(artifact, OnnxArtifact) and artifact.precision == "fp32" and not artifact.optimized


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
