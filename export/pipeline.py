"""One run folder to one published version: convert, prove, measure, publish. Nothing is published unless all of it holds."""

from __future__ import annotations

import logging
from importlib.metadata import version as installed
from pathlib import Path

import numpy as np

from export import parity, profile, report
from export.errors import BelowFloor, ConversionError, ExportError, ParityError
from export.report import ArtifactReport, Report
from export.to_onnx import OPSET, to_onnx
from export.to_tensorrt import choose, to_tensorrt
from modelrepo.errors import ModelNotFound, RepositoryError
from modelrepo.manifest import Artifact, Data, Goldens, Lineage, Manifest, OnnxArtifact, Parity, Standardize, TensorRTArtifact
from modelrepo.repository import Repository, digest, write_goldens
from modelrepo.tasks import Metric
from modelrepo.tensors import Signature, Tensors
from runtime import cuda
from runtime.open import open_session
from runtime.session import Device, Unsuitable
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.data.dataset import Split, Standardized
from training.models import Model

log = logging.getLogger("export")

GOLDEN_ROWS = 16
GOLDEN_TOLERANCE = 1e-3  # what serves may run on another device than the one that proved it
LIBRARIES = ("onnx", "onnxscript")


def export_run(run: Path, repository: Repository, name: str, tensorrt: str = "auto", reuse: bool = False) -> tuple[Report, int]:
    """Publish the best checkpoint of a run folder as the next version of `name`; returns the report and the version.

    With `reuse`, a newest version that is whole and was made from this very checkpoint is kept instead. `tensorrt` is auto,
    off, tensorrt or tensorrt-rtx. Raises ExportError or RepositoryError, and then has published nothing.
    """
    saved, model, holdout = _load(run)
    test = saved.facts.test
    if test is None:
        raise ExportError(f"{run} was left in epoch {saved.facts.epoch}, before its end: train again")
    if not test.reached():
        raise BelowFloor(
            f"{run} has a test {test.name} of {test.value:.4g}, its floor is {test.floor:g}: nothing exported. "
            "Train longer, or lower --floor if this is good enough"
        )
    if reuse and (kept := _already_published(repository, name, saved)):
        return kept

    signature = model.signature()
    flavour, reason = choose(tensorrt)
    with repository.stage(name) as staging:
        onnx_file = staging.path / "model.onnx"
        log.info("%s: exporting to ONNX", name)
        to_onnx(model, signature, parity.take(signature, holdout, np.arange(3) % len(holdout), _odd_length(signature)), onnx_file)
        artifacts: list[Artifact] = [OnnxArtifact(precision="fp32", file=digest(onnx_file), opset=OPSET)]
        notes: list[str] = []
        if flavour is None:
            notes.append(f"no TensorRT engine: {reason}")
        else:
            log.info("%s: building an engine %s", name, reason)
            try:
                engine = to_tensorrt(onnx_file, signature, flavour, staging.path / f"model.{flavour}.plan")
            except ConversionError as error:
                if tensorrt != "auto":
                    raise
                notes.append(f"{name}: {error}")
            else:
                # First in order: where an engine fits it is the fastest, and where it does not the next one serves.
                artifacts.insert(
                    0,
                    TensorRTArtifact(
                        precision=engine.precision,
                        file=digest(staging.path / f"model.{flavour}.plan"),
                        flavour=engine.flavour,
                        version=engine.version,
                        compute_capabilities=engine.compute_capabilities,
                        profiles=engine.profiles,
                        proven=False,
                    ),
                )

        log.info("%s: comparing with PyTorch", name)
        entries = [entry for artifact in artifacts for entry in _prove(artifact, staging.path, signature, model, holdout, test)]
        proofs = tuple(entry.parity for entry in entries if entry.parity is not None)
        proven = {proof.artifact for proof in proofs}
        artifacts = [
            a.model_copy(update={"proven": a.file.path in proven}) if isinstance(a, TensorRTArtifact) else a for a in artifacts
        ]
        summary = Report(model=name, metric=test, machine=report.machine(), artifacts=tuple(entries), notes=tuple(notes))
        (staging.path / report.REPORT).write_text(summary.model_dump_json(indent=2) + "\n")
        _write_goldens(staging.path / "goldens.npz", signature, model, holdout)
        manifest = Manifest(
            family=saved.facts.family,
            signature=signature,
            task=saved.facts.task,
            preprocessing=_preprocessing(saved),
            artifacts=tuple(artifacts),
            goldens=Goldens(file=digest(staging.path / "goldens.npz"), rows=GOLDEN_ROWS, tolerance=GOLDEN_TOLERANCE),
            parity=proofs,
            metric=test,
            lineage=_lineage(saved),
            report=digest(staging.path / report.REPORT),
        )
        version = staging.publish(manifest)
    log.info("%s: published version %d", name, version)
    return summary, version


def _load(run: Path) -> tuple[Checkpoint, Model, Split]:
    try:
        saved = checkpoint.load(run)
        return saved, saved.model(), checkpoint.load_holdout(run)
    except CheckpointError as error:
        raise ExportError(str(error)) from None


def _already_published(repository: Repository, name: str, saved: Checkpoint) -> tuple[Report, int] | None:
    """The newest version, if it came from this checkpoint and is whole."""
    if not repository.root.exists():
        return None
    try:
        newest = repository.open(name)
    except ModelNotFound:
        return None
    except RepositoryError as error:
        log.info("%s: publishing anew, because %s", name, error)
        return None
    if newest.manifest.lineage.checkpoint_sha256 != saved.sha256:
        return None
    log.info("%s: version %d is this run already", name, newest.version)
    return Report.model_validate_json(newest.report()), newest.version


def _prove(
    artifact: Artifact, folder: Path, signature: Signature, model: Model, holdout: Split, test: Metric
) -> list[ArtifactReport]:
    """Compare and measure an artifact on every device here that runs it. Raises ParityError listing all misses."""
    tolerance = parity.FP32_TOLERANCE if isinstance(artifact, OnnxArtifact) else parity.ENGINE_TOLERANCE
    devices: list[Device] = ["cpu", "cuda"] if isinstance(artifact, OnnxArtifact) and cuda.available() else ["auto"]
    if isinstance(artifact, OnnxArtifact) and not cuda.available():
        devices = ["cpu"]
    entries: list[ArtifactReport] = []
    misses: list[str] = []
    for device in devices:
        try:
            session = open_session(folder / artifact.file.path, artifact, signature, device)
        except Unsuitable as error:
            entries.append(report.unmeasured(artifact, f"built, not proven here: {error}"))
            continue
        with session:
            compared = parity.compare(session, model, holdout, tolerance)
            misses += [f"{artifact.file.path} on {miss}" for miss in compared.misses]
            metric = parity.judge(session, model.task, holdout, test.floor)
            if not metric.reached():
                misses.append(f"{artifact.file.path} on {session.provider}: {metric.name} {metric.value:.4g} is under its floor")
            length = signature.length.opt if signature.length else None
            one = parity.take(signature, holdout, np.zeros(1, np.int64), length)
            entries.append(
                ArtifactReport(
                    file=artifact.file.path,
                    format=report.name_of(artifact),
                    precision=artifact.precision,
                    size=artifact.file.size,
                    provider=session.provider,
                    metric=metric,
                    parity=Parity(
                        artifact=artifact.file.path, provider=session.provider, tolerance=tolerance, cases=compared.cases
                    ),
                    latency=profile.latency(session, one, length),
                    note="",
                )
            )
    if misses:
        raise ParityError("not equal to PyTorch, nothing published:\n  " + "\n  ".join(misses))
    return entries


def _odd_length(signature: Signature) -> int | None:
    """A length for the example that none of the comparisons uses, so that a frozen axis cannot pass by luck."""
    if signature.length is None:
        return None
    compared = set(parity.lengths(signature))
    candidates = range(signature.length.min, signature.length.max + 1)
    return next((length for length in candidates if length not in compared and length > 1), signature.length.max)


def _write_goldens(path: Path, signature: Signature, model: Model, holdout: Split) -> None:
    """Held-out rows with PyTorch's answers; sequences of evenly spread lengths, shortest and longest among them."""
    index = np.arange(len(holdout))
    if signature.mask:
        index = np.argsort(holdout.inputs[signature.mask.name].sum(axis=1), kind="stable")
    chosen = index[np.linspace(0, len(index) - 1, GOLDEN_ROWS).astype(int)]
    inputs: Tensors = {name: np.ascontiguousarray(array) for name, array in holdout.rows(chosen).inputs.items()}
    write_goldens(path, inputs, {model.task.output: parity.reference(model, signature, inputs)})


def _preprocessing(saved: Checkpoint) -> tuple[Standardize, ...]:
    kind = saved.facts.kind
    return (Standardize(input=kind.input, mean=kind.mean, scale=kind.scale),) if isinstance(kind, Standardized) else ()


def _lineage(saved: Checkpoint) -> Lineage:
    facts = saved.facts
    return Lineage(
        created=facts.created,
        git_commit=facts.git_commit,
        git_dirty=facts.git_dirty,
        seed=facts.seed,
        config=facts.config,
        data=Data(name=facts.data, fingerprint=facts.fingerprint, rows=facts.rows),
        versions={**facts.versions, **{library: installed(library) for library in LIBRARIES}},
        checkpoint_sha256=saved.sha256,
    )
