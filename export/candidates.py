"""Every way to serve what was made: compare it with the original, measure its speed, keep what passes, put it in order."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import onnx

from export.divergence import NodeError, first_leaving, node_errors
from export.emulation import EMULATED, emulated
from export.engines import UNMEASURED
from export.errors import ConversionError
from export.gates import gate_for
from export.parity import Comparison, Truth, compare
from export.profile import costs, speed
from modelrepo.manifest import GOLDEN_TOLERANCE, Artifact, Candidate, DeviceKind, OnnxArtifact, Precision, TensorRTArtifact
from modelrepo.parity import Gate
from modelrepo.tensors import Signature, Tensors
from runtime import openvino_session
from runtime.goldens import prove
from runtime.onnxruntime_session import OnnxRuntimeSession
from runtime.open import open_session
from runtime.session import Session, SessionError

PLAIN = "model.onnx"  # the fp32 file that all others are made from


@dataclass(frozen=True)
class Made:
    """A version in the making: where its files lie, and what they must equal."""

    folder: Path
    signature: Signature
    truth: Truth
    goldens: tuple[Tensors, Tensors]
    gates: Mapping[str, Gate]


@dataclass(frozen=True)
class Tried:
    """One way to serve, and what came of it: `missed` says why it is left out, `unmeasured` why it could not be run here.

    `layers` are the errors within, where the file is another than the plain one.
    """

    artifact: Artifact
    candidate: Candidate
    comparison: Comparison | None
    missed: str = ""
    unmeasured: str = ""
    layers: tuple[NodeError, ...] = ()


def stand_in(made: Made, artifact: OnnxArtifact) -> Tried:
    """An ONNX file on the CPU, which runs everywhere: 16 bits and fp8 emulated, all else by ONNX Runtime itself.

    What misses here is not converted any further.
    """
    candidate = _candidate(made, artifact, "onnxruntime", "cpu", artifact.precision)
    path = made.folder / artifact.file.path
    with tempfile.TemporaryDirectory() as folder:
        runnable = path
        try:
            if artifact.precision in EMULATED:
                runnable = Path(folder) / path.name
                onnx.save(emulated(path, artifact.precision), runnable)
            with OnnxRuntimeSession(runnable, made.signature, "cpu") as session:
                tried = _measured(made, artifact, candidate, session, timed=runnable == path)
        except (SessionError, ConversionError) as error:
            return Tried(artifact, candidate, None, missed=str(error))
        tolerance = {"golden_tolerance": tried.candidate.golden_tolerance}
        tried = replace(tried, artifact=artifact.model_copy(update=tolerance))
        if path.name == PLAIN or tried.comparison is None:
            return tried
        layers = node_errors(made.folder / PLAIN, runnable, tried.comparison.worst.inputs)
        first = first_leaving(layers, tried.comparison.gate) if tried.missed else None
        return replace(tried, layers=layers, missed=f"{tried.missed}; it begins at {first}" if first else tried.missed)


def ways(artifact: Artifact) -> list[tuple[str, DeviceKind, Precision]]:
    """How a service could run an artifact besides ONNX Runtime on the CPU: (backend, device, precision)."""
    if isinstance(artifact, TensorRTArtifact):
        return [(artifact.flavour, "cuda", artifact.precision)]
    found: list[tuple[str, DeviceKind, Precision]] = []
    openvino = openvino_session.available() and not artifact.optimized
    scheme = artifact.quantization.scheme if artifact.quantization else None
    if openvino and (artifact.precision == "fp32" or scheme == "s8s8"):
        found.append(("openvino", "cpu", artifact.precision))
    if openvino and artifact.precision == "fp32" and openvino_session.computes_bf16():
        found.append(("openvino", "cpu", "bf16"))
    if artifact.precision in ("fp32", "fp16") and not artifact.optimized:
        found.append(("onnxruntime", "cuda", artifact.precision))
    return found


def serves_on_cpu(artifact: Artifact) -> bool:
    """Whether ONNX Runtime on the CPU is a way to serve it: 16 bits and s8s8 are for others."""
    if isinstance(artifact, TensorRTArtifact) or artifact.precision in EMULATED:
        return False
    return artifact.quantization is None or artifact.quantization.scheme != "s8s8"


def attempt(made: Made, artifact: Artifact, way: tuple[str, DeviceKind, Precision], proven: Tried | None) -> Tried:
    """Run an artifact in one way, where this machine can. `proven` is its stand-in, or that of the file it was built from."""
    backend, device, precision = way
    candidate = _candidate(made, artifact, backend, device, precision)
    try:
        with open_session(made.folder / artifact.file.path, artifact, candidate, made.signature) as session:
            return _measured(made, artifact, candidate, session)
    except SessionError as error:
        if device == "cpu":
            return Tried(artifact, candidate, None, missed=str(error))
        if proven is not None:
            tolerance = max(proven.candidate.golden_tolerance, _allowed(made, gate_for(precision, backend, made.gates)))
            parity = proven.candidate.parity if isinstance(artifact, OnnxArtifact) else None
            candidate = candidate.model_copy(update={"parity": parity, "golden_tolerance": tolerance})
        return Tried(artifact, candidate, None, unmeasured=str(error))


def ordered(tried: list[Tried]) -> tuple[Candidate, ...]:
    """GPU before CPU, what was measured by its speed before what was not, engines before ONNX files."""

    def rank(one: Tried) -> tuple[bool, bool, bool, float]:
        candidate = one.candidate
        measured = bool(candidate.costs)
        order = speed(candidate.costs) if measured else float(UNMEASURED.index(candidate.precision))
        return candidate.device == "cpu", not measured, not measured and isinstance(one.artifact, OnnxArtifact), order

    return tuple(one.candidate for one in sorted(tried, key=rank))


def _measured(made: Made, artifact: Artifact, candidate: Candidate, session: Session, timed: bool = True) -> Tried:
    compared = compare(session, made.truth, gate_for(candidate.precision, candidate.backend, made.gates))
    if compared.misses:
        shown = "; ".join(compared.misses[:3])
        if len(compared.misses) > 3:
            shown += f"; and {len(compared.misses) - 3} more"
        return Tried(artifact, candidate, compared, missed=shown)
    inputs, outputs = made.goldens
    worst = prove(session, inputs, outputs, math.inf, made.truth.task.unit)
    tolerance = max(GOLDEN_TOLERANCE, 2 * worst)
    if candidate.precision != "fp32":
        tolerance = max(tolerance, _allowed(made, compared.gate))
    found = costs(session, made.truth.holdout) if timed else ()
    update = {"parity": compared.proof, "golden_tolerance": tolerance, "costs": found}
    return Tried(artifact, candidate.model_copy(update=update), compared)


def _allowed(made: Made, gate: Gate) -> float:
    """What a gate allows for the largest golden answer, in the task's unit."""
    largest = max(float(np.max(np.abs(array) / made.truth.task.unit)) for array in made.goldens[1].values())
    return 0.0 if gate.atol is None else gate.atol + gate.rtol * largest


def _candidate(made: Made, artifact: Artifact, backend: str, device: DeviceKind, precision: Precision) -> Candidate:
    return Candidate.model_validate(
        {
            "artifact": artifact.file.path,
            "backend": backend,
            "device": device,
            "precision": precision,
            "golden_tolerance": max(GOLDEN_TOLERANCE, _allowed(made, gate_for(precision, backend, made.gates))),
            "parity": None,
            "costs": (),
        }
    )
