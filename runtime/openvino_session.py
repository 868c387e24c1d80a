"""OpenVINO: an ONNX artifact on Intel's and AMD's CPUs, in the graph's own precision or in bf16 (an extra).

The file is read by OpenVINO's own ONNX front end; its Python converter, which reports to its makers, is not used.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from modelrepo.manifest import Precision
from modelrepo.tensors import Array, Signature, Tensors
from runtime.session import Session, SessionError, Unsuitable


@cache
def load() -> Any:
    """The module, or None where the extra `openvino` is not installed. Half a second: not for those who serve without it."""
    try:
        import openvino
    except ImportError:
        return None
    return openvino


def available() -> bool:
    """Whether OpenVINO is installed."""
    return load() is not None


def computes_bf16() -> bool:
    """Whether this CPU computes in bf16, rather than emulate it."""
    return available() and "BF16" in load().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVINOSession(Session):
    """An ONNX file under OpenVINO's CPU plugin."""

    provider = "openvino-cpu"

    def __init__(self, path: Path, signature: Signature, precision: Precision, threads: int = 1) -> None:
        """Load `path` to compute in `precision`: bf16 lowers an fp32 file, all else is the file's own.

        `threads` is the number of cores one run uses. Raises Unsuitable where OpenVINO is not installed or the CPU has no bf16,
        SessionError where the file does not load or has other inputs or outputs than the signature.
        """
        super().__init__(signature)
        if not available():
            raise Unsuitable("OpenVINO is not installed: install quartet[openvino]")
        if precision == "bf16" and not computes_bf16():
            raise Unsuitable("this CPU does not compute in bf16")
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            # bound to a core, sessions of several processes would all be bound to the same one
            "ENABLE_CPU_PINNING": False,
            # without the hint a CPU that has bf16 uses it unasked
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        }
        try:
            compiled = load().Core().compile_model(path, "CPU", settings)
        except RuntimeError as error:
            raise SessionError(f"OpenVINO cannot load {path} ({error}): export the model again") from None
        self._compare(compiled, path)
        self._compiled: Any = compiled
        self._tensor = load().Tensor
        self._inputs = [port.any_name for port in compiled.inputs]
        self._outputs = [port.any_name for port in compiled.outputs]
        self._requests: dict[int, Any] = {}

    def _compare(self, compiled: Any, path: Path) -> None:
        def facts(ports: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
            return {
                port.any_name: (
                    np.dtype(port.element_type.to_dtype()).name,
                    tuple(dim.get_length() if dim.is_static else -1 for dim in port.partial_shape),
                )
                for port in ports
            }

        found = (facts(compiled.inputs), facts(compiled.outputs))
        expected = tuple(
            {spec.name: (spec.dtype, tuple(spec.wire_shape)) for spec in specs}
            for specs in (self.signature.inputs, self.signature.outputs)
        )
        if found != expected:
            raise SessionError(f"{path} has tensors {found}, the signature says {expected}: export the model again")

    def _run(self, inputs: Mapping[str, Array]) -> Tensors:
        if self._compiled is None:
            raise SessionError("the session is closed")
        rows = len(next(iter(inputs.values())))
        try:
            # A request that has run a small batch cannot grow to a larger one with some 8-bit graphs: one for each size.
            request = self._requests.get(rows) or self._requests.setdefault(rows, self._compiled.create_infer_request())
            # By number, and without a dictionary of answers: by name it takes some 25 us more, as much as a small model.
            given = [self._tensor(np.ascontiguousarray(inputs[name]), shared_memory=True) for name in self._inputs]
            for number, tensor in enumerate(given):
                request.set_input_tensor(number, tensor)  # which does not keep its memory: `given` does
            request.infer(share_outputs=True)
            return {name: np.array(request.get_output_tensor(number).data) for number, name in enumerate(self._outputs)}
        except RuntimeError as error:
            raise SessionError(f"OpenVINO failed: {error}") from error

    def close(self) -> None:
        self._requests.clear()
        self._compiled = None
