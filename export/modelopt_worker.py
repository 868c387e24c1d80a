"""NVIDIA ModelOpt's conversions of one ONNX file: a script of its own, for the interpreter that has ModelOpt.

It pins other versions of onnx and ONNX Runtime than Quartet's, so nothing of Quartet's is imported. Arguments: the fp32 file, an
.npz with calibration rows under the names of the inputs, the folder to write to. Prints one JSON object: for each file asked for,
null, or why it could not be made.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np


def convert(source: Path, rows: Path, folder: Path) -> dict[str, str | None]:
    """Write {fp16,bf16,int8.entropy,int8.min-max,fp8.entropy,fp8.min-max}.onnx, as far as they can be made."""
    import onnx
    from modelopt.onnx.autocast import convert_to_mixed_precision
    from modelopt.onnx.quantization import quantize

    def cast(kind: str, path: Path) -> None:
        onnx.save(convert_to_mixed_precision(str(source), kind, keep_io_types=True, calibration_data=str(rows)), path)

    def eight_bits(kind: str, path: Path) -> None:
        mode, method = kind.split(".")
        with np.load(rows) as calibration:
            quantize(
                str(source),
                mode,
                calibration_data=dict(calibration),
                calibration_method="max" if method == "min-max" else method,
                calibration_eps=["cpu"],
                op_types_to_quantize=["Conv", "Gemm", "MatMul"],
                high_precision_dtype="fp32",
                output_path=str(path),
                log_level="ERROR",
            )
        if not any(node.op_type == "QuantizeLinear" for node in onnx.load(path).graph.node):
            raise ValueError("it found nothing worth 8 bits")

    results: dict[str, str | None] = {}
    for kind in ("fp16", "bf16", "int8.entropy", "int8.min-max", "fp8.entropy", "fp8.min-max"):
        try:
            (eight_bits if "." in kind else cast)(kind, folder / f"{kind}.onnx")
        except Exception as error:  # noqa: BLE001 - whatever ModelOpt raises belongs into the report
            results[kind] = f"{type(error).__name__}: {error}"
        else:
            results[kind] = None
    return results


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):  # ModelOpt prints
        found = convert(*(Path(argument) for argument in sys.argv[1:]))
    sys.stdout.write(json.dumps(found))
