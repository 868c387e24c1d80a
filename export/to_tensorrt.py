"""ONNX to a TensorRT engine, with whichever flavour is at hand.

`tensorrt` builds for the GPU it runs on and needs one; `tensorrt-rtx` builds without any for the capabilities named here.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from export.errors import ConversionError
from modelrepo.manifest import OnnxArtifact, Precision, ProfileShape, TensorRTArtifact
from modelrepo.repository import digest
from modelrepo.tensors import Signature, TensorSpec
from runtime import cuda, tensorrt_flavour
from runtime.tensorrt_flavour import FLAVOURS, Flavour

AMPERE_PLUS = ("8.0", "8.6", "8.7", "8.9", "9.0", "10.0", "10.3", "11.0", "12.0", "12.1")
RTX_CAPABILITIES = ("8.6", "8.9", "12.0")  # RTX 30, RTX 40 and L4, RTX 50
FP8_SINCE = 8.9


def choose(wanted: str) -> tuple[Flavour | None, str]:
    """The flavour to build with; None where there is none, with the reason in words.

    `wanted` is auto, off, tensorrt or tensorrt-rtx. Raises ConversionError where a flavour asked for by name cannot build here.
    """
    if wanted == "off":
        return None, "switched off"
    reasons = []
    for flavour in FLAVOURS:
        if wanted not in ("auto", flavour):
            continue
        if tensorrt_flavour.load(flavour) is None:
            reasons.append(f"{flavour} is not installed (pip install 'quartet[{flavour}]')")
        elif flavour == "tensorrt" and not cuda.available():
            reasons.append("tensorrt builds only on a machine with an NVIDIA GPU")
        else:
            return flavour, ""
    reason = "; ".join(reasons)
    if wanted != "auto":
        raise ConversionError(f"no engine can be built: {reason}")
    return None, reason


@dataclass(frozen=True)
class EngineOptions:
    """How to build; the defaults are those of a release.

    `level` is the builder's effort, 0 to 5 (3). `workspace` limits scratch memory, in MiB. `timing_cache` is a file that
    makes the next build on the same GPU quicker. `hardware_compatible` engines run on every GPU from Ampere on, slower;
    `version_compatible` ones under later TensorRT versions and the lean runtime, with fewer kernels to choose from. `tf32` rounds
    fp32 factors to 10 bits: quicker, and rarely within fp32's gate. `refit` lets weights be exchanged, `strip` leaves them out
    of the file; both cost speed. `every_bucket` tunes a profile for each batch bucket: seven times the build and the file.
    `capabilities` are those a TensorRT-RTX engine is for.
    """

    level: int | None = None
    workspace: int | None = None
    timing_cache: Path | None = None
    hardware_compatible: bool = False
    version_compatible: bool = False
    tf32: bool = False
    refit: bool = False
    strip: bool = False
    every_bucket: bool = False
    capabilities: tuple[str, ...] = RTX_CAPABILITIES

    def changed(self) -> dict[str, JsonValue]:
        """What differs from the defaults and shapes the engine, for its manifest entry."""
        chosen: dict[str, JsonValue] = {field.name: getattr(self, field.name) for field in fields(self)}
        defaults = {field.name: field.default for field in fields(self)}
        return {name: value for name, value in chosen.items() if value != defaults[name] and name in SHAPING}


SHAPING = ("level", "workspace", "hardware_compatible", "version_compatible", "tf32", "refit", "strip")
DEFAULTS = EngineOptions()


def to_tensorrt(
    source: OnnxArtifact, signature: Signature, flavour: Flavour, path: Path, options: EngineOptions
) -> TensorRTArtifact:
    """Build an engine from the ONNX file beside `path`, for every shape of the signature, write it to `path`, and describe it.

    Precision is the graph's own: networks are strongly typed. Raises ConversionError, with the parser's errors and the nodes
    they name, where TensorRT cannot take the graph, or where this flavour has no such option.
    """
    trt = tensorrt_flavour.load(flavour)
    _check(options, flavour)
    onnx_file = path.with_name(source.file.path)
    started = time.perf_counter()
    try:
        builder = trt.Builder(tensorrt_flavour.logger(flavour))
    except TypeError as error:  # what pybind makes of a null pointer
        raise ConversionError(f"{flavour} {trt.__version__} cannot start here ({error}); its log says why") from None
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, tensorrt_flavour.logger(flavour))
    if not parser.parse_from_file(str(onnx_file)):
        faults = [_describe(parser.get_error(index)) for index in range(parser.num_errors)]
        raise ConversionError(f"{flavour} {trt.__version__} cannot parse {onnx_file.name}: " + "; ".join(faults))

    config = builder.create_builder_config()
    found = profiles(signature, options.every_bucket)
    for shapes in found:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape.min, shape.opt, shape.max)
        config.add_optimization_profile(profile)
    _configure(trt, config, options)
    capabilities = _target(trt, flavour, config, options, source.precision)
    with _timing_cache(config, options.timing_cache):
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise ConversionError(f"{flavour} {trt.__version__} parsed {onnx_file.name} but built no engine; its log says why")
    path.write_bytes(plan)
    gpu = cuda.available()
    return TensorRTArtifact(
        precision=source.precision,
        file=digest(path),
        source=source.file.path,
        flavour=flavour,
        version=trt.__version__,
        compute_capabilities=capabilities,
        gpu=cuda.name() if gpu else None,
        driver=cuda.versions()[0] if gpu else None,
        cuda=cuda.versions()[1] if gpu else None,
        options=options.changed(),
        profiles=found,
        build_seconds=round(time.perf_counter() - started, 3),
    )


def profiles(signature: Signature, every_bucket: bool = False) -> tuple[dict[str, ProfileShape], ...]:
    """Shapes to tune for: one row alone and more than one, or every batch bucket, each with every range of lengths.

    Kernels are chosen for a profile's `opt`, and a range from the shortest to the longest sequence has none that suits
    (github.com/NVIDIA/TensorRT/issues/1166).
    """
    batch = signature.batch
    batches = list(_ranges(batch.min, batch.buckets))
    if not every_bucket and batch.max > 1:
        low = max(2, batch.min)
        batches = [(1, 1, 1)] * (batch.min == 1) + [(low, max(low, batch.opt), batch.max)]
    lengths: list[tuple[int, int, int] | None] = [None]
    if signature.length:
        lengths = list(_ranges(signature.length.min, _few(signature.length.buckets)))
    return tuple({spec.name: _shape(spec, rows, length) for spec in signature.inputs} for rows in batches for length in lengths)


LENGTHS = 4  # profiles multiply: two for batches, these for lengths


def _few(buckets: tuple[int, ...]) -> tuple[int, ...]:
    """At most LENGTHS of the buckets, evenly spread by rank, the longest among them."""
    if len(buckets) <= LENGTHS:
        return buckets
    return tuple(buckets[round((rank + 1) * len(buckets) / LENGTHS) - 1] for rank in range(LENGTHS))


def _ranges(low: int, buckets: tuple[int, ...]) -> Iterator[tuple[int, int, int]]:
    """(min, opt, max) of neighbouring ranges that end at the buckets, tuned for their largest size, the usual one: padded to it."""
    for bucket in buckets:
        yield low, bucket, bucket
        low = bucket + 1


def _shape(spec: TensorSpec, rows: tuple[int, int, int], length: tuple[int, int, int] | None) -> ProfileShape:
    sizes = [spec.shape_at(rows[rank], None if length is None else length[rank]) for rank in range(3)]
    return ProfileShape(min=sizes[0], opt=sizes[1], max=sizes[2])


def _check(options: EngineOptions, flavour: Flavour) -> None:
    """Raises ConversionError for options that TensorRT-RTX refuses (refit and strip) or passes over in silence (the others)."""
    given = {"hardware_compatible", "version_compatible", "refit", "strip"} & set(options.changed())
    if options.timing_cache is not None:
        given.add("timing_cache")
    if flavour == "tensorrt-rtx" and given:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(given))
        raise ConversionError(f"tensorrt-rtx does not know {names}: leave that out, or build with --tensorrt tensorrt")


def _configure(trt: Any, config: Any, options: EngineOptions) -> None:
    if not options.tf32:  # on by default
        config.clear_flag(trt.BuilderFlag.TF32)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    for wanted, flag in (
        (options.version_compatible, "VERSION_COMPATIBLE"),
        (options.version_compatible, "EXCLUDE_LEAN_RUNTIME"),
        (options.refit, "REFIT"),
        (options.strip, "STRIP_PLAN"),
    ):
        if wanted:
            config.set_flag(getattr(trt.BuilderFlag, flag))


@contextmanager
def _timing_cache(config: Any, path: Path | None) -> Iterator[None]:
    """Start from the timings in the file, and leave there what has been added. A file of another GPU or version is replaced."""
    if path is None:
        yield
        return
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    yield
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(bytes(cache.serialize()))
    part.replace(path)


def _target(trt: Any, flavour: Flavour, config: Any, options: EngineOptions, precision: Precision) -> tuple[str, ...]:
    """The compute capabilities the engine will run on; for RTX they are set here."""
    if flavour == "tensorrt":
        return AMPERE_PLUS if options.hardware_compatible else (cuda.compute_capability(),)
    capabilities = tuple(one for one in options.capabilities if precision != "fp8" or float(one) >= FP8_SINCE)
    if not capabilities:
        raise ConversionError(
            f"none of the compute capabilities {', '.join(options.capabilities)} has fp8: it begins at {FP8_SINCE}"
        )
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        target = getattr(trt.ComputeCapability, "SM" + capability.replace(".", ""), None)
        if target is None or not config.set_compute_capability(target, index):
            raise ConversionError(f"tensorrt-rtx {trt.__version__} builds no engine for compute capability {capability}")
    return capabilities


def _describe(error: Any) -> str:
    """One parser error, with the node it is about."""
    return f"node {error.node_name()!r} ({error.node_operator()}): {error.desc()}"
