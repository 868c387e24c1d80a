"""One run folder to one published version: convert, prove, measure, publish.

Nothing is published unless the fp32 ONNX file equals the original. What else misses its gate is left out, and the report says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np
from pydantic import JsonValue

from export import engines, internals, modelopt, page, report
from export.candidates import Made, Tried, attempt, ordered, serves_on_cpu, stand_in, ways
from export.conversions import PRECISIONS, conversions, to_fp32
from export.errors import ConversionError, ParityError
from export.gates import GATES
from export.original import GOLDEN_ROWS, Original, load
from export.profile import speed
from export.report import LayerError, Report
from export.to_tensorrt import DEFAULTS, EngineOptions, choose, to_tensorrt
from modelrepo.errors import ModelNotFound, RepositoryError
from modelrepo.manifest import (
    FORMAT_VERSION,
    Data,
    Goldens,
    Internals,
    Lineage,
    Manifest,
    OnnxArtifact,
    Precision,
    Preprocessing,
    Tokenize,
)
from modelrepo.parity import Gate
from modelrepo.preprocessing import Columns, Standardize
from modelrepo.repository import Repository, digest, write_goldens
from runtime import tensorrt_flavour
from runtime.machine import machine
from runtime.tensorrt_flavour import Flavour
from training.checkpoint import Checkpoint
from training.data.dataset import Images, Kind, Rows, Series, Tokens

log = logging.getLogger("export")

LIBRARIES = ("onnx", "onnxscript")
TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Options:
    """What to make. `tensorrt` is auto, off, tensorrt or tensorrt-rtx; fp32 is always among the precisions."""

    tensorrt: str = "auto"
    engines: EngineOptions = DEFAULTS
    precisions: tuple[Precision, ...] = PRECISIONS
    gates: Mapping[str, Gate] = field(default_factory=lambda: GATES)
    modelopt: Path | None = None  # the interpreter of an environment that has NVIDIA ModelOpt
    internals: bool = True
    command: str = ""

    def recorded(self, flavour: Flavour | None) -> dict[str, JsonValue]:
        """What a version made with these options has in its manifest."""
        return {
            "tensorrt": None if flavour is None else f"{flavour} {tensorrt_flavour.load(flavour).__version__}",
            "engines": {**self.engines.changed(), "capabilities": list(self.engines.capabilities)},
            "precisions": list(self.precisions),
            "modelopt": None if self.modelopt is None else modelopt.version(self.modelopt),
            "gates": {name: gate.model_dump() for name, gate in self.gates.items()},
            "internals": self.internals,
        }


def export_run(run: Path, repository: Repository, name: str, options: Options, reuse: bool = False) -> tuple[Report, int]:
    """Publish the best checkpoint of a run folder as the next version of `name`; returns the report and the version.

    With `reuse`, a newest version that is whole and was made from this very checkpoint with these options is kept instead.
    Raises ExportError or RepositoryError, and then has published nothing.
    """
    original = load(run)
    flavour, reason = choose(options.tensorrt)
    recorded = options.recorded(flavour)
    if reuse and (kept := _already_published(repository, name, original.saved, recorded)):
        return kept
    with repository.stage(name) as staging:
        goldens = original.goldens()
        write_goldens(staging.path / "goldens.npz", *goldens)
        made = Made(staging.path, original.signature, original.truth, goldens, options.gates)
        tried, explained, notes = _try_all(original, made, name, flavour, options)
        if flavour is None:
            notes.append(f"no TensorRT engine: {reason}")
        summary = _report(original, name, tried, notes)
        page.write(staging.path, summary, original.saved.facts, options.command)
        version = staging.publish(_manifest(original, tried, explained, recorded, staging.path))
    log.info("%s: published version %d", name, version)
    return summary, version


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


def _try_all(
    original: Original, made: Made, name: str, flavour: Flavour | None, options: Options
) -> tuple[list[Tried], Internals | None, list[str]]:
    """Make every artifact and try every way to serve it; notes say what could not be made. Raises ParityError."""
    log.info("%s: exporting to ONNX", name)
    plain, modules = to_fp32(original, made.folder)
    log.info("%s: comparing with PyTorch", name)
    base = stand_in(made, plain)
    if base.missed:
        fault = "could not be compared with" if base.comparison is None else "is not equal to"
        raise ParityError(
            f"{name} {fault} PyTorch, nothing published: {plain.file.path} on {base.candidate.provider}: {base.missed}"
        )
    tried, notes = [base], list[str]()
    explained = _explained(original, made, modules, name, notes) if options.internals else None
    for precision, what, make in conversions(original, made.folder, plain, options.modelopt):
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
    return tried, explained, notes


def _explained(original: Original, made: Made, modules: Mapping[str, str], name: str, notes: list[str]) -> Internals | None:
    """explain.onnx, for a model that has something to show."""
    log.info("%s: making %s", name, internals.EXPLAIN)
    try:
        return internals.make(made, original.model, modules)
    except ConversionError as error:
        notes.append(f"could not make {internals.EXPLAIN}: {error}")
        return None


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
        path = made.folder / engines.plan_of(artifact, flavour)
        try:
            engine = to_tensorrt(artifact, made.signature, flavour, path, options.engines)
        except ConversionError as error:
            if options.tensorrt != "auto":
                raise
            notes.append(f"could not build an engine of {artifact.file.path}: {error}")
            continue
        yield from (attempt(made, engine, way, one) for way in ways(engine))


def _report(original: Original, name: str, tried: list[Tried], notes: list[str]) -> Report:
    usual = original.signature.length.opt if original.signature.length else None
    kept = [one for one in tried if not one.missed and _is_served(one)]
    rank = {id(candidate): index for index, candidate in enumerate(ordered(kept))}
    kept.sort(key=lambda one: rank[id(one.candidate)])
    missed = [one for one in tried if one.missed]
    return Report(
        model=name,
        metric=original.metric,
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


def _manifest(
    original: Original, tried: list[Tried], explained: Internals | None, recorded: dict[str, JsonValue], folder: Path
) -> Manifest:
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
        metric=original.metric,
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
        reference=facts.reference,
        export=recorded,
        reports=tuple(digest(folder / name) for name in (report.REPORT, page.PAGE, page.SCRIPT)),
        internals=explained,
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
