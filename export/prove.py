"""One artifact against the original, on every device here that runs it: parity, the task's metric, latency."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export import parity, profile
from export.report import ArtifactReport, name_of
from modelrepo.manifest import Artifact, OnnxArtifact, Parity
from modelrepo.tasks import Metric
from modelrepo.tensors import Signature
from runtime import cuda
from runtime.open import open_session
from runtime.session import Device, Session, SessionError
from training.data.dataset import Split
from training.models import Model


@dataclass(frozen=True)
class Original:
    """What an artifact must equal: the model, held-out rows, and the test metric it reached."""

    model: Model
    signature: Signature
    holdout: Split
    test: Metric


def prove(artifact: Artifact, folder: Path, original: Original) -> tuple[list[ArtifactReport], list[str]]:
    """Measure an artifact through the sessions that would serve it; returns the entries and every miss in words.

    A device that cannot run the artifact gets an entry without measurements, which says why.
    """
    devices: tuple[Device, ...] = ("cuda",)
    if isinstance(artifact, OnnxArtifact):
        devices = ("cpu", "cuda") if cuda.available() else ("cpu",)
    entries: list[ArtifactReport] = []
    misses: list[str] = []
    for device in devices:
        try:
            with open_session(folder / artifact.file.path, artifact, original.signature, device) as session:
                entry, missed = _measure(session, artifact, original)
        except SessionError as error:
            entries.append(_entry(artifact, note=f"not proven on {device}: {error}"))
            continue
        entries.append(entry)
        misses += [f"{artifact.file.path} on {miss}" for miss in missed]
    return entries, misses


def _measure(session: Session, artifact: Artifact, original: Original) -> tuple[ArtifactReport, list[str]]:
    tolerance = parity.FP32_TOLERANCE if isinstance(artifact, OnnxArtifact) else parity.ENGINE_TOLERANCE
    compared = parity.compare(session, original.model, original.holdout, tolerance)
    misses = list(compared.misses)
    metric = parity.judge(session, original.model.task, original.holdout, original.test.floor)
    if not metric.reached():
        misses.append(f"{session.provider}: test {metric.name} of {metric.value:.4g}, its floor is {metric.floor:g}")
    length = original.signature.length.opt if original.signature.length else None
    one = parity.take(original.signature, original.holdout, np.zeros(1, np.int64), length)
    proof = Parity(artifact=artifact.file.path, provider=session.provider, tolerance=tolerance, cases=compared.cases)
    return _entry(artifact, session.provider, metric, proof, profile.latency(session, one, length)), misses


def _entry(
    artifact: Artifact,
    provider: str | None = None,
    metric: Metric | None = None,
    proof: Parity | None = None,
    latency: profile.Latency | None = None,
    note: str = "",
) -> ArtifactReport:
    return ArtifactReport(
        file=artifact.file.path,
        format=name_of(artifact),
        precision=artifact.precision,
        size=artifact.file.size,
        provider=provider,
        metric=metric,
        parity=proof,
        latency=latency,
        note=note,
    )
