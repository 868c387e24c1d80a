"""Fused operators of ONNX Runtime's own: layer norm with the residual before it, GELU with its bias, attention."""

from __future__ import annotations

from pathlib import Path

from onnxruntime.transformers.optimizer import optimize_model

from export.quiet import quietly


def to_optimized(source: Path, path: Path) -> bool:
    """Write the fp32 graph `source` with what can be fused to `path`, for ONNX Runtime only; False where nothing can.

    What ONNX Runtime fuses by itself at load (constants, batch norm, activations) is left to it. Raises ConversionError.
    """
    with quietly("fusing operators"):
        model = optimize_model(str(source), model_type="bert", opt_level=0)
    if not any(model.get_fused_operator_statistics().values()):
        return False
    model.save_model_to_file(str(path))
    return True
