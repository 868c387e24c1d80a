"""One run folder to one published version: convert, prove, measure, publish.

Nothing is published unless the fp32 ONNX file equals the original. What else misses its gate is left out, and the report says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from export import engines, half, page, parity, report
from export.candidates import PLAIN, Made, Tried, attempt, ordered, serves_on_cpu, stand_in, ways
from export.errors import BelowFloor, ConversionError, ExportError, ParityError
from export.gates import GATES
from export.optimize import to_optimized
from export.parity import Truth
from export.profile import speed
from export.quantize import Calibration, scheme_for, to_dynamic_int8, to_int8
from export.report import LayerError, Report
from export.to_onnx import OPSET, to_onnx
from export.to_tensorrt import DEFAULTS, EngineOptions, choose, to_tensorrt
from modelrepo.errors import ModelNotFound, RepositoryError
from modelrepo.manifest import (
    FORMAT_VERSION,
    Data,
    Gate,
    Goldens,
    Lineage,
    Manifest,
    OnnxArtifact,
    Precision,
    Preprocessing,
    Tokenize,
)
from modelrepo.preprocessing import Columns, Standardize
from modelrepo.repository import Repository, digest, write_goldens
from modelrepo.tensors import Signature, Tensors
from runtime import tensorrt_flavour
from runtime.machine import machine
from runtime.tensorrt_flavour import Flavour
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.data.dataset import Images, Kind, Rows, Series, Split, Tokens
from training.models import Model

log = logging.getLogger("export")

GOLDEN_ROWS = 16
CALIBRATION_BATCH = 16
LIBRARIES = ("onnx", "onnxscript")
TOKENIZER = "tokenizer.json"
PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


@dataclass(frozen=True)
class Options:
    """What to make. `tensorrt` is auto, off, tensorrt or tensorrt-rtx; fp32 is always among the precisions."""

    tensorrt: str = "auto"
    engines: EngineOptions = DEFAULTS
    precisions: tuple[Precision, ...] = PRECISIONS
    gates: Mapping[str, Gate] = field(default_factory=lambda: GATES)
    command: str = ""

    def recorded(self, flavour: Flavour | None) -> dict[str, JsonValue]:
        """What a version made with these options has in its manifest."""
        return {
            "tensorrt": None if flavour is None else f"{flavour} {tensorrt_flavour.load(flavour).__version__}",
            "engines": {**self.engines.changed(), "capabilities": list(self.engines.capabilities)},
            "precisions": list(self.precisions),
            "gates": {name: gate.model_dump() for name, gate in self.gates.items()},
        }


@dataclass(frozen=True)
class Original:
    """A finished run: its model, the rows it is judged on, rows it learnt from, and PyTorch's answers."""

    saved: Checkpoint
    model: Model
    signature: Signature
    calibration: Split
    truth: Truth


def export_run(run: Path, repository: Repository, name: str, options: Options, reuse: bool = False) -> tuple[Report, int]:
    """Publish the best checkpoint of a run folder as the next version of `name`; returns the report and the version.

    With `reuse`, a newest version that is whole and was made from this very checkpoint with these options is kept instead.
    Raises ExportError or RepositoryError, and then has published nothing.
    """
    saved, model, holdout, calibration = _load(run)
    flavour, reason = choose(options.tensorrt)
    recorded = options.recorded(flavour)
    if reuse and (kept := _already_published(repository, name, saved, recorded)):
        return kept
    assert saved.facts.test is not None  # as _load made sure
    original = Original(saved, model, model.signature(), calibration, parity.truth(model, holdout, saved.facts.test))
    with repository.stage(name) as staging:
        goldens = _goldens(original)
        write_goldens(staging.path / "goldens.npz", *goldens)
        made = Made(staging.path, original.signature, original.truth, goldens, options.gates)
        tried, notes = _try_all(original, made, name, flavour, options)
        if flavour is None:
            notes.append(f"no TensorRT engine: {reason}")
        summary = _report(original, name, tried, notes)
        page.write(staging.path, summary, saved.facts, options.command)
        version = staging.publish(_manifest(original, tried, recorded, staging.path))
    log.info("%s: published version %d", name, version)
    return summary, version


def _load(run: Path) -> tuple[Checkpoint, Model, Split, Split]:
    """A finished run that reached its floor: checkpoint, model, test split, calibration rows. Raises ExportError."""
    try:
        saved = checkpoint.load(run)
        model = saved.model()
        holdout, calibration = (checkpoint.load_rows(run, rows, saved.facts) for rows in ("holdout", "calibration"))
    except CheckpointError as error:
        raise ExportError(str(error)) from None
    test = saved.facts.test
    if test is None:
        raise ExportError(
            f"{run} holds a checkpoint of epoch {saved.facts.epoch}, whose training has not ended: go on with --resume"
        )
    if not test.reached():
        raise BelowFloor(
            f"{run} has a test {test.name} of {test.value:.4g}, its floor is {test.floor:g}: nothing exported. "
            "Train longer, or train with another --floor if this is good enough"
        )
    return saved, model, holdout, calibration


def _already_published(
    repository: Repository, name: str, saved: Checkpoint, recorded: dict[str, JsonValue]
) -> tuple[Report, int] | None:
    """The newest version, if it is whole and came from this checkpoint with these options."""
    if not repository.root.exists():
        return None
    try:
        newest = repository.open(name)
    except ModelNotFound:
        return None
    except RepositoryError as error:
        log.warning("%s: publishing anew, because %s", name, error)
        return None
    if newest.manifest.lineage.checkpoint_sha256 != saved.sha256 or newest.manifest.export != recorded:
        return None
    log.info("%s: version %d is this run already", name, newest.version)
    return Report.model_validate_json((newest.path / report.REPORT).read_text()), newest.version


def _try_all(original: Original, made: Made, name: str, flavour: Flavour | None, options: Options) -> tuple[list[Tried], list[str]]:
    """Make every artifact and try every way to serve it; notes say what could not be made. Raises ParityError."""
    log.info("%s: exporting to ONNX", name)
    plain = _fp32(original, made.folder)
    log.info("%s: comparing with PyTorch", name)
    base = stand_in(made, plain)
    if base.missed:
        fault = "could not be compared with" if base.comparison is None else "is not equal to"
        raise ParityError(
            f"{name} {fault} PyTorch, nothing published: {plain.file.path} on {base.candidate.provider}: {base.missed}"
        )
    tried, notes = [base], []
    for precision, what, make in _conversions(original, made.folder, plain):
        if precision not in options.precisions:
            continue
        log.info("%s: trying %s", name, what)
        try:
            artifact = make()
        except ConversionError as error:
            notes.append(f"could not make {what}: {error}")
            continue
        if artifact is not None:
            tried.append(_worth_it(stand_in(made, artifact), base))
    passed = [one for one in tried if not one.missed and isinstance(one.artifact, OnnxArtifact)]
    if flavour is not None:
        tried += _engines(made, passed, name, flavour, options, notes)
    for one in passed:
        tried += [attempt(made, one.artifact, way, one) for way in ways(one.artifact)]
    for path in {one.artifact.file.path for one in tried} - {one.artifact.file.path for one in tried if not one.missed}:
        (made.folder / path).unlink()
    return tried, notes


def _fp32(original: Original, folder: Path) -> OnnxArtifact:
    holdout = original.truth.holdout
    example = parity.take(original.signature, holdout, np.arange(3) % len(holdout), _unlike_the_compared(original.signature))
    to_onnx(original.model, original.signature, example, folder / PLAIN)
    return OnnxArtifact(precision="fp32", file=digest(folder / PLAIN), opset=OPSET)


def _conversions(
    original: Original, folder: Path, plain: OnnxArtifact
) -> Iterable[tuple[Precision, str, Callable[[], OnnxArtifact | None]]]:
    """(precision, what it is, how to make it) for every ONNX file that may be made from the fp32 one."""
    source = folder / plain.file.path
    batches = _calibration_batches(original)

    def optimized(path: Path) -> OnnxArtifact | None:
        if not to_optimized(source, path):
            return None
        return OnnxArtifact(precision="fp32", file=digest(path), opset=OPSET, optimized=True)

    def fp16(path: Path) -> OnnxArtifact:
        kept = half.to_fp16(source, batches, path)
        return OnnxArtifact(precision="fp16", file=digest(path), opset=OPSET, kept_fp32=kept)

    def bf16(path: Path) -> OnnxArtifact:
        half.to_bf16(source, path)
        return OnnxArtifact(precision="bf16", file=digest(path), opset=half.BF16_OPSET)

    def dynamic(path: Path) -> OnnxArtifact:
        how = to_dynamic_int8(source, path)
        return OnnxArtifact(precision="int8", file=digest(path), opset=OPSET, quantization=how)

    yield "fp32", "an fp32 file with fused operators", partial(optimized, folder / "model.fused.onnx")
    yield "fp16", "an fp16 file", partial(fp16, folder / "model.fp16.onnx")
    yield "bf16", "a bf16 file", partial(bf16, folder / "model.bf16.onnx")
    kind = scheme_for(source)
    if kind == "dynamic":
        yield "int8", "an int8 file", partial(dynamic, folder / "model.int8.onnx")
    if kind == "static":
        ranges: list[Calibration] = []  # found once, when the first of the two is made

        def static(scheme: str, path: Path) -> OnnxArtifact:
            task = original.model.task
            ranges[:] = ranges or [Calibration(source, batches, task.output, np.array(task.unit))]
            how = to_int8(ranges[0], "u8s8" if scheme == "u8s8" else "s8s8", path)
            return OnnxArtifact(precision="int8", file=digest(path), opset=OPSET, quantization=how)

        yield "int8", "an int8 file for ONNX Runtime", partial(static, "u8s8", folder / "model.int8.onnx")
        yield "int8", "an int8 file for TensorRT and OpenVINO", partial(static, "s8s8", folder / "model.int8-symmetric.onnx")


def _calibration_batches(original: Original) -> list[Tensors]:
    """The calibration rows in batches of one shape, as ONNX Runtime's calibrators need them; two at least, if need be of the
    same rows."""
    signature, rows = original.signature, original.calibration
    longest = int(rows.inputs[signature.mask.name].sum(axis=1).max()) if signature.mask else None
    count = max(2, len(rows) // CALIBRATION_BATCH) * CALIBRATION_BATCH
    index = np.resize(np.arange(len(rows)), count).reshape(-1, CALIBRATION_BATCH)
    return [parity.take(signature, rows, batch, longest) for batch in index]


def _worth_it(tried: Tried, base: Tried) -> Tried:
    """What only ONNX Runtime on CPUs would serve is kept where it is faster than the plain file."""
    if tried.missed or not serves_on_cpu(tried.artifact):
        return tried
    ratio = speed(base.candidate.costs) / speed(tried.candidate.costs)
    if ratio >= 1:
        return tried
    reason = f"no faster than {base.artifact.file.path} on this machine: {ratio:.2f} times its speed over all buckets"
    return replace(tried, missed=reason)


def _engines(made: Made, passed: list[Tried], name: str, flavour: Flavour, options: Options, notes: list[str]) -> Iterable[Tried]:
    """An engine from every ONNX file that TensorRT can take. One that cannot be built is left out, unless it must be."""
    for one in passed:
        artifact = one.artifact
        if not engines.suits(artifact):
            continue
        log.info("%s: building an engine of %s with %s", name, artifact.file.path, flavour)
        path = made.folder / f"model.{artifact.precision}.{flavour}.plan"
        try:
            engine = to_tensorrt(artifact, made.signature, flavour, path, options.engines)
        except ConversionError as error:
            if options.tensorrt != "auto":
                raise
            notes.append(f"could not build an engine of {artifact.file.path}: {error}")
            continue
        yield from (attempt(made, engine, way, one) for way in ways(engine))


def _unlike_the_compared(signature: Signature) -> int | None:
    """A length for the example that none of the comparisons uses, so that a frozen axis cannot pass by luck."""
    if signature.length is None:
        return None
    compared = set(parity.lengths(signature))
    candidates = range(max(2, signature.length.min), signature.length.max)
    return next((length for length in candidates if length not in compared), signature.length.max)


def _goldens(original: Original) -> tuple[Tensors, Tensors]:
    """Held-out rows with PyTorch's answers; sequences of evenly spread lengths, shortest and longest among them."""
    signature, holdout = original.signature, original.truth.holdout
    index = np.arange(len(holdout))
    if signature.mask:
        index = np.argsort(holdout.inputs[signature.mask.name].sum(axis=1), kind="stable")
    chosen = index[np.linspace(0, len(index) - 1, GOLDEN_ROWS).astype(int)]
    inputs: Tensors = {name: np.ascontiguousarray(array) for name, array in holdout.rows(chosen).inputs.items()}
    return inputs, {original.model.task.output: parity.reference(original.model, signature, inputs)}


def _report(original: Original, name: str, tried: list[Tried], notes: list[str]) -> Report:
    usual = original.signature.length.opt if original.signature.length else None
    kept = [one for one in tried if not one.missed and _is_served(one)]
    rank = {id(candidate): index for index, candidate in enumerate(ordered(kept))}
    kept.sort(key=lambda one: rank[id(one.candidate)])
    missed = [one for one in tried if one.missed]
    return Report(
        model=name,
        metric=original.truth.metric,
        machine=machine(),
        entries=tuple(report.entry(one, usual) for one in [*kept, *missed]),
        layers={
            one.artifact.file.path: tuple(LayerError(node=e.node, operator=e.operator, error=_finite(e.error)) for e in one.layers)
            for one in tried
            if one.layers
        },
        notes=tuple(notes),
    )


def _finite(error: float) -> float:
    """JSON has no infinity."""
    return error if np.isfinite(error) else float(np.finfo(np.float64).max)


def _is_served(tried: Tried) -> bool:
    """Whether it is a way to serve, rather than the proof of a file that others run."""
    return tried.candidate.provider != "onnxruntime-cpu" or serves_on_cpu(tried.artifact)


def _manifest(original: Original, tried: list[Tried], recorded: dict[str, JsonValue], folder: Path) -> Manifest:
    saved, facts = original.saved, original.saved.facts
    artifacts = {one.artifact.file.path: one.artifact for one in tried if not one.missed}
    return Manifest(
        format_version=FORMAT_VERSION,
        family=facts.family,
        signature=original.signature,
        task=facts.task,
        preprocessing=_preprocessing(facts.kind, folder),
        artifacts=tuple(artifacts.values()),
        candidates=ordered([one for one in tried if not one.missed and _is_served(one)]),
        machine=machine(),
        goldens=Goldens(file=digest(folder / "goldens.npz"), rows=GOLDEN_ROWS),
        metric=original.truth.metric,
        metrics=facts.metrics or {},
        lineage=Lineage(
            created=facts.created,
            git_commit=facts.git_commit,
            git_dirty=facts.git_dirty,
            seed=facts.seed,
            config=facts.config,
            data=Data(name=facts.data, fingerprint=facts.fingerprint, rows=facts.rows, handling=facts.handling),
            versions={**facts.versions, **{library: installed(library) for library in LIBRARIES}},
            checkpoint_sha256=saved.sha256,
        ),
        export=recorded,
        reports=tuple(digest(folder / name) for name in (report.REPORT, page.PAGE, page.SCRIPT)),
    )


def _preprocessing(kind: Kind, folder: Path) -> tuple[Preprocessing, ...]:
    """What happens to raw input, recorded for callers; a tokenizer is written into the version's folder."""
    match kind:
        case Rows():
            return (Columns(input=kind.input, columns=kind.columns),)
        case Images() | Series():
            return (Standardize(input=kind.input, mean=kind.mean, scale=kind.scale),)
        case Tokens() if kind.tokenizer is not None:
            (folder / TOKENIZER).write_text(kind.tokenizer, encoding="utf-8")
            return (Tokenize(input=kind.input, file=digest(folder / TOKENIZER)),)
        case Tokens():
            return ()
