"""Engines for a published version, built where it will serve: another GPU, another TensorRT, an init container. No PyTorch."""

from __future__ import annotations

import logging
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

from export.errors import ConversionError
from export.to_tensorrt import EngineOptions, choose, to_tensorrt
from modelrepo.manifest import Artifact, Candidate, EngineSet, OnnxArtifact, Precision, TensorRTArtifact
from modelrepo.repository import ModelVersion, add_engines
from runtime import cuda, tensorrt_flavour
from runtime.tensorrt_flavour import Flavour

log = logging.getLogger("export")

UNMEASURED: tuple[Precision, ...] = ("fp16", "bf16", "fp8", "int8", "fp32")  # the order of engines nobody could time


def build(version: ModelVersion, tensorrt: str, options: EngineOptions, dry_run: bool = False) -> Iterator[str]:
    """Build an engine from every ONNX file of a version that TensorRT takes, and add them to it; yields lines that say so.

    Where the key of this GPU and TensorRT is there already, nothing is built. A file that TensorRT cannot take is passed over,
    unless none can be built. Raises ConversionError or RepositoryError, OSError where the disk fails; nothing is added then.
    """
    flavour, reason = choose(tensorrt)
    if flavour is None:
        raise ConversionError(f"no engine can be built: {reason}")
    name, label = key(flavour), f"{version.name}:{version.version}"
    if any(engines.key == name for engines in version.engines):
        yield f"{label} has engines for {name} already"
        return
    sources = _sources(version)
    if dry_run:
        yield from (f"would build {artifact.file.path} with {name}" for artifact in sources)
        return
    with tempfile.TemporaryDirectory() as folder:
        built: list[TensorRTArtifact] = []
        refused: list[str] = []
        for source in sources:
            path = Path(folder) / source.file.path
            path.write_bytes((version.path / source.file.path).read_bytes())
            log.info("%s: building an engine of %s with %s", label, source.file.path, flavour)
            try:
                plan = path.with_name(plan_of(source, flavour))
                built.append(to_tensorrt(source, version.manifest.signature, flavour, plan, options))
            except ConversionError as error:
                refused.append(str(error))
        if not built:
            raise ConversionError(f"no engine of {label} can be built: " + "; ".join(refused))
        built.sort(key=lambda engine: UNMEASURED.index(engine.precision))
        added = EngineSet(key=name, engines=tuple(built), candidates=tuple(_candidate(version, engine) for engine in built))
        add_engines(version, added, Path(folder))
    yield from (f"{label}: {name}/{engine.file.path} built in {engine.build_seconds:.1f} s" for engine in built)
    yield from (f"{label}: left out, {fault}" for fault in refused)


def key(flavour: Flavour) -> str:
    """What an engine is tied to, as a folder's name: GPU and TensorRT. An engine of TensorRT-RTX needs no GPU to be built."""
    gpu = f"{cuda.name()}-{cuda.compute_capability()}" if cuda.available() else "no-gpu"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", f"{gpu}-{flavour}-{tensorrt_flavour.load(flavour).__version__}")


def plan_of(source: OnnxArtifact, flavour: Flavour) -> str:
    """The name of the engine's file: that of the ONNX file it is built from, of which one precision may have several."""
    return f"{Path(source.file.path).stem}.{flavour}.plan"


def suits(artifact: Artifact) -> TypeGuard[OnnxArtifact]:
    """Whether TensorRT takes it: an ONNX file without ONNX Runtime's own operators or unsigned activations."""
    if not isinstance(artifact, OnnxArtifact) or artifact.optimized:
        return False
    return artifact.quantization is None or artifact.quantization.scheme in ("s8s8", "fp8")


def _sources(version: ModelVersion) -> list[OnnxArtifact]:
    """The files to build from."""
    return [artifact for artifact in version.manifest.artifacts if suits(artifact)]


def _candidate(version: ModelVersion, engine: TensorRTArtifact) -> Candidate:
    """An engine nobody has compared yet: the service does, with the golden rows, before it answers."""
    source = next(artifact for artifact in _sources(version) if artifact.file.path == engine.source)
    return Candidate(
        artifact=engine.file.path,
        backend=engine.flavour,
        device="cuda",
        precision=engine.precision,
        golden_tolerance=source.golden_tolerance,
        parity=None,
        costs=(),
    )
