"""One run folder to one published version: convert, prove, measure, publish. Nothing is published unless all of it holds."""

from __future__ import annotations

import logging
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from export import parity, report
from export.errors import BelowFloor, ConversionError, ExportError, ParityError
from export.prove import Original, prove
from export.report import Report
from export.to_onnx import OPSET, to_onnx
from export.to_tensorrt import choose, to_tensorrt
from modelrepo.errors import ModelNotFound, RepositoryError
from modelrepo.manifest import (
    FORMAT_VERSION,
    Artifact,
    Data,
    Goldens,
    Lineage,
    Manifest,
    OnnxArtifact,
    Preprocessing,
    TensorRTArtifact,
    Tokenize,
)
from modelrepo.preprocessing import Columns, Standardize
from modelrepo.repository import Repository, digest, write_goldens
from modelrepo.tensors import Signature, Tensors
from runtime import tensorrt_flavour
from runtime.tensorrt_flavour import Flavour
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.data.dataset import Images, Kind, Rows, Series, Tokens

log = logging.getLogger("export")

GOLDEN_ROWS = 16
GOLDEN_TOLERANCE = 1e-3  # what serves may run on another device than the one that proved it
LIBRARIES = ("onnx", "onnxscript")
TOKENIZER = "tokenizer.json"


def export_run(run: Path, repository: Repository, name: str, tensorrt: str = "auto", reuse: bool = False) -> tuple[Report, int]:
    """Publish the best checkpoint of a run folder as the next version of `name`; returns the report and the version.

    With `reuse`, a newest version that is whole and holds what would come out is kept instead: made from this very
    checkpoint, with an engine of the same TensorRT or with none. `tensorrt` is auto, off, tensorrt or tensorrt-rtx. Raises
    ExportError or RepositoryError, and then has published nothing.
    """
    saved, original = _load(run)
    flavour, reason = choose(tensorrt)
    if reuse and (kept := _already_published(repository, name, saved, flavour)):
        return kept
    with repository.stage(name) as staging:
        artifacts, notes = _convert(original, name, staging.path, flavour, must=tensorrt != "auto")
        if flavour is None:
            notes.append(f"no TensorRT engine: {reason}")
        log.info("%s: comparing with PyTorch", name)
        proofs = [prove(artifact, staging.path, original) for artifact in artifacts]
        if misses := [miss for _, missed in proofs for miss in missed]:
            raise ParityError(f"{name} is not equal to PyTorch, nothing published:\n  " + "\n  ".join(misses))
        entries = tuple(entry for measured, _ in proofs for entry in measured)
        if not any(entry.parity for entry in entries if entry.format == "onnx"):
            raise ParityError(f"{name} could not be compared with PyTorch, nothing published: {entries[-1].note}")
        summary = Report(model=name, metric=original.test, machine=report.machine(), artifacts=entries, notes=tuple(notes))
        (staging.path / report.REPORT).write_text(summary.model_dump_json(indent=2) + "\n")
        _write_goldens(staging.path / "goldens.npz", original)
        version = staging.publish(_manifest(saved, original, artifacts, summary, staging.path))
    log.info("%s: published version %d", name, version)
    return summary, version


def _load(run: Path) -> tuple[Checkpoint, Original]:
    """A finished run that reached its floor. Raises ExportError."""
    try:
        saved = checkpoint.load(run)
        model, holdout = saved.model(), checkpoint.load_rows(run, "holdout", saved.facts)
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
    return saved, Original(model, model.signature(), holdout, test)


def _already_published(repository: Repository, name: str, saved: Checkpoint, flavour: Flavour | None) -> tuple[Report, int] | None:
    """The newest version, if it is whole, came from this checkpoint and has the engine that would be built now."""
    if not repository.root.exists():
        return None
    try:
        newest = repository.open(name)
    except ModelNotFound:
        return None
    except RepositoryError as error:
        log.warning("%s: publishing anew, because %s", name, error)
        return None
    engines = {(a.flavour, a.version) for a in newest.manifest.artifacts if isinstance(a, TensorRTArtifact)}
    expected = {(flavour, tensorrt_flavour.load(flavour).__version__)} if flavour else set()
    if newest.manifest.lineage.checkpoint_sha256 != saved.sha256 or engines != expected:
        return None
    log.info("%s: version %d is this run already", name, newest.version)
    return Report.model_validate_json(newest.report()), newest.version


def _convert(original: Original, name: str, folder: Path, flavour: Flavour | None, must: bool) -> tuple[list[Artifact], list[str]]:
    """Write the artifacts, in the order in which a service should try them; notes say what was left out and why.

    An engine that cannot be built is left out, unless it must be.
    """
    model, signature, holdout = original.model, original.signature, original.holdout
    onnx_file = folder / "model.onnx"
    log.info("%s: exporting to ONNX", name)
    example = parity.take(signature, holdout, np.arange(3) % len(holdout), _unlike_the_compared(signature))
    to_onnx(model, signature, example, onnx_file)
    artifacts: list[Artifact] = [OnnxArtifact(precision="fp32", file=digest(onnx_file), opset=OPSET)]
    if flavour is None:
        return artifacts, []
    log.info("%s: building an engine with %s", name, flavour)
    try:
        # First in order: where an engine fits it is the fastest, and where it does not the next one serves.
        return [to_tensorrt(onnx_file, signature, flavour, folder / f"model.{flavour}.plan"), *artifacts], []
    except ConversionError as error:
        if must:
            raise
        return artifacts, [f"{name}: {error}"]


def _unlike_the_compared(signature: Signature) -> int | None:
    """A length for the example that none of the comparisons uses, so that a frozen axis cannot pass by luck."""
    if signature.length is None:
        return None
    compared = set(parity.lengths(signature))
    candidates = range(max(2, signature.length.min), signature.length.max)
    return next((length for length in candidates if length not in compared), signature.length.max)


def _write_goldens(path: Path, original: Original) -> None:
    """Held-out rows with PyTorch's answers; sequences of evenly spread lengths, shortest and longest among them."""
    index = np.arange(len(original.holdout))
    if original.signature.mask:
        index = np.argsort(original.holdout.inputs[original.signature.mask.name].sum(axis=1), kind="stable")
    chosen = index[np.linspace(0, len(index) - 1, GOLDEN_ROWS).astype(int)]
    inputs: Tensors = {name: np.ascontiguousarray(array) for name, array in original.holdout.rows(chosen).inputs.items()}
    outputs: Tensors = {original.model.task.output: parity.reference(original.model, original.signature, inputs)}
    write_goldens(path, inputs, outputs)


def _manifest(saved: Checkpoint, original: Original, artifacts: list[Artifact], summary: Report, folder: Path) -> Manifest:
    facts = saved.facts
    proofs = tuple(entry.parity for entry in summary.artifacts if entry.parity is not None)
    proven = {proof.artifact for proof in proofs}
    return Manifest(
        format_version=FORMAT_VERSION,
        family=facts.family,
        signature=original.signature,
        task=facts.task,
        preprocessing=_preprocessing(facts.kind, folder),
        artifacts=tuple(_marked(artifact, proven) for artifact in artifacts),
        goldens=Goldens(file=digest(folder / "goldens.npz"), rows=GOLDEN_ROWS, tolerance=GOLDEN_TOLERANCE),
        parity=proofs,
        metric=original.test,
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
        report=digest(folder / report.REPORT),
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


def _marked(artifact: Artifact, proven: set[str]) -> Artifact:
    """An engine says whether it was run and compared; an ONNX file always was."""
    if isinstance(artifact, TensorRTArtifact):
        return artifact.model_copy(update={"proven": artifact.file.path in proven})
    return artifact
