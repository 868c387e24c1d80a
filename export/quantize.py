"""Eight bits in the graph: Q/DQ with ranges from calibration rows, or ranges measured at every run.

Three schemes, because no kernel library takes all of them: u8s8 is what ONNX Runtime is fast with on CPUs; s8s8, symmetric and
with float biases, is what TensorRT and OpenVINO take; an LSTM has only dynamic ranges, in ONNX Runtime on CPUs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import onnx
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, quantize_dynamic
from onnxruntime.quantization.calibrate import create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.shape_inference import quant_pre_process

from export.quiet import quietly
from modelrepo.manifest import Quantization
from modelrepo.tensors import Array, Tensors

Method = Literal["min-max", "entropy", "percentile"]
METHODS: dict[Method, tuple[CalibrationMethod, dict[str, Any]]] = {
    "min-max": (CalibrationMethod.MinMax, {}),
    "entropy": (CalibrationMethod.Entropy, {"num_bins": 256}),  # with the default, 128, it can cut nothing off
    "percentile": (CalibrationMethod.Percentile, {}),
}
HEAVY = ["Conv", "Gemm", "MatMul"]  # where the time goes; quantising all else costs accuracy and wins nothing
RECURRENT = {"GRU", "LSTM", "RNN"}


class Judge:
    """How far another graph's answers are from those of the fp32 one, on rows that no range was found on."""

    def __init__(self, source: Path, batches: list[Tensors], output: str, unit: Array) -> None:
        """Of `batches` the odd ones are judged by, as the error of `output` in `unit`s; the even ones are for calibration."""
        self._output, self._unit = output, unit
        self._batches = batches[1::2]
        self._truth = _run(source, self._batches, output)

    def error(self, path: Path) -> float:
        """The mean absolute error of a quantised graph."""
        return float(np.mean(np.abs(_run(path, self._batches, self._output) - self._truth) / self._unit))


class Calibration:
    """The ranges that each method finds for the tensors of an fp32 graph."""

    def __init__(self, source: Path, batches: list[Tensors]) -> None:
        """Find ranges on the even `batches`. Raises ConversionError where ONNX Runtime's calibrator fails."""
        self.rows = sum(len(next(iter(batch.values()))) for batch in batches[::2])
        with tempfile.TemporaryDirectory() as folder, quietly("finding ranges for 8 bits"):
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(source, prepared, skip_symbolic_shape=True)
            self.graph = prepared.read_bytes()
            self.ranges: dict[Method, Any] = {}
            for method in get_args(Method):
                kind, options = METHODS[method]
                calibrator = create_calibrator(
                    prepared, HEAVY, str(Path(folder) / "augmented.onnx"), calibrate_method=kind, extra_options=options
                )
                calibrator.collect_data(_Reader(batches[::2]))
                self.ranges[method] = calibrator.compute_data()


def to_int8(calibration: Calibration, judge: Judge, scheme: Literal["u8s8", "s8s8"], path: Path) -> Quantization:
    """Write the calibrated graph with weights, and what flows into them, in 8 bits to `path`.

    Weights have a scale for each channel and use 7 bits: a CPU without VNNI adds pairs of products in 16 bits, and would
    saturate. Products of two activations, as in attention, stay as they are: 8 bits make them no faster in ONNX Runtime, and
    OpenVINO 2026.4 fails on some. Each method's ranges are tried, the best kept. Raises ConversionError where the quantizer fails.
    """
    errors: dict[str, float] = {}
    options = {
        "ActivationSymmetric": scheme == "s8s8",
        "WeightSymmetric": True,
        "QuantizeBias": scheme == "u8s8",  # TensorRT takes no int32 biases
    }
    activations = QuantType.QUInt8 if scheme == "u8s8" else QuantType.QInt8
    with tempfile.TemporaryDirectory() as folder:
        for method, ranges in calibration.ranges.items():
            trial = Path(folder) / f"{method}.onnx"
            with quietly(f"quantising with {method} ranges"):
                proto = onnx.load_from_string(calibration.graph)
                left = _without_weights(proto.graph)
                quantizer = QDQQuantizer(proto, True, True, QuantType.QInt8, activations, ranges, [], left, HEAVY, options)
                quantizer.quantize_model()
                quantizer.model.save_model_to_file(str(trial), False)
                errors[method] = judge.error(trial)
        best: Method = min(calibration.ranges, key=lambda method: errors[method])
        path.write_bytes((Path(folder) / f"{best}.onnx").read_bytes())
    return Quantization(scheme=scheme, method=best, errors=errors, rows=calibration.rows)


def to_dynamic_int8(source: Path, path: Path) -> Quantization:
    """Write `source` with the weights of its LSTM and dense layers in 8 bits to `path`, activations rounded as they come.

    Raises ConversionError where ONNX Runtime's quantizer fails.
    """
    proto = onnx.load(source)
    del proto.graph.value_info[:]  # the quantizer trips over shapes it did not infer itself
    with quietly("quantising"):
        quantize_dynamic(
            proto, path, op_types_to_quantize=["LSTM", *HEAVY], per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )
    return Quantization(scheme="dynamic", method=None, errors={}, rows=0)


def scheme_for(source: Path) -> Literal["static", "dynamic", "none"]:
    """Which kind of quantisation a graph can have: recurrent cells other than the LSTM have none."""
    found = {node.op_type for node in onnx.load(source).graph.node} & RECURRENT
    return "static" if not found else "dynamic" if found == {"LSTM"} else "none"


def _without_weights(graph: onnx.GraphProto) -> list[str]:
    """The names of the nodes that multiply two activations."""
    weights = {tensor.name for tensor in graph.initializer}
    return [node.name for node in graph.node if node.op_type == "MatMul" and weights.isdisjoint(node.input)]


class _Reader(CalibrationDataReader):  # type: ignore[misc]  # the module has no types
    def __init__(self, batches: list[Tensors]) -> None:
        self._batches: Iterator[Tensors] = iter(batches)

    def get_next(self) -> Tensors | None:
        return next(self._batches, None)


def _run(path: Path, batches: list[Tensors], output: str) -> Array:
    """The output for all rows of the batches."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run([output], batch)[0] for batch in batches])
