"""Which ONNX files are made of a model, and how: the fp32 one, and from it those of other precisions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np

from export import half, parity
from export.candidates import PLAIN
from export.modelopt import PRECISIONS as MODELOPT
from export.modelopt import ModelOpt
from export.optimize import to_optimized
from export.original import Original
from export.quantize import Calibration, Judge, scheme_for, to_dynamic_int8, to_int8
from export.to_onnx import OPSET, to_onnx
from modelrepo.manifest import OnnxArtifact, Precision
from modelrepo.repository import digest
from modelrepo.tensors import Signature, Tensors

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
CALIBRATION_BATCH = 16


def to_fp32(original: Original, folder: Path) -> tuple[OnnxArtifact, dict[str, str]]:
    """Write the fp32 file that all others are made from; returns it, and the module of each node. Raises ConversionError."""
    holdout = original.holdout
    example = parity.take(original.signature, holdout, np.arange(3) % len(holdout), _unlike_the_compared(original.signature))
    modules = to_onnx(original.model, original.signature, example, folder / PLAIN)
    return OnnxArtifact(precision="fp32", file=digest(folder / PLAIN), opset=OPSET), modules


def conversions(
    original: Original, folder: Path, plain: OnnxArtifact, modelopt: Path | None = None
) -> Iterable[tuple[Precision, str, Callable[[], OnnxArtifact | None]]]:
    """(precision, what it is, how to make it) for every ONNX file that may be made from the fp32 one.

    `modelopt` is the interpreter of an environment that has NVIDIA ModelOpt. Making raises ConversionError where the graph cannot
    be had so, and returns None where it would be no other.
    """
    source = folder / plain.file.path
    batches = _calibration_batches(original)
    judge = Judge(source, batches, original.model.task.output, np.array(original.model.task.unit))

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
            ranges[:] = ranges or [Calibration(source, batches)]
            how = to_int8(ranges[0], judge, "u8s8" if scheme == "u8s8" else "s8s8", path)
            return OnnxArtifact(precision="int8", file=digest(path), opset=OPSET, quantization=how)

        yield "int8", "an int8 file for ONNX Runtime", partial(static, "u8s8", folder / "model.int8.onnx")
        yield "int8", "an int8 file for TensorRT and OpenVINO", partial(static, "s8s8", folder / "model.int8-symmetric.onnx")
    if modelopt is not None:
        other = ModelOpt(modelopt, source, batches, judge)
        for precision in MODELOPT:
            path = folder / f"model.{precision}-modelopt.onnx"
            yield precision, f"ModelOpt's {precision} file", partial(other.make, precision, path)


def _calibration_batches(original: Original) -> list[Tensors]:
    """The calibration rows in batches of one shape, as ONNX Runtime's calibrators need them; two at least, if need be of the
    same rows."""
    signature, rows = original.signature, original.calibration
    longest = int(rows.inputs[signature.mask.name].sum(axis=1).max()) if signature.mask else None
    count = max(2, len(rows) // CALIBRATION_BATCH) * CALIBRATION_BATCH
    index = np.resize(np.arange(len(rows)), count).reshape(-1, CALIBRATION_BATCH)
    return [parity.take(signature, rows, batch, longest) for batch in index]


def _unlike_the_compared(signature: Signature) -> int | None:
    """A length for the example that none of the comparisons uses, so that a frozen axis cannot pass by luck."""
    if signature.length is None:
        return None
    compared = set(parity.lengths(signature))
    candidates = range(max(2, signature.length.min), signature.length.max)
    return next((length for length in candidates if length not in compared), signature.length.max)
