"""ONNX Runtime: any ONNX artifact, on the CPU or through CUDA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from modelrepo.tensors import Array, Signature, Tensors, TensorSpec
from runtime import cuda
from runtime.session import Session, SessionError, Unsuitable

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CUDA_OPTIONS = {
    "use_tf32": "0",  # parity with PyTorch's fp32
    "cudnn_conv_algo_search": "HEURISTIC",  # the default searches again for every new batch size
    "arena_extend_strategy": "kSameAsRequested",  # doubling would hold twice the memory the buckets need
}
DTYPES = {
    "bool": "tensor(bool)",
    "float16": "tensor(float16)",
    "float32": "tensor(float)",
    "float64": "tensor(double)",
    **{name: f"tensor({name})" for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}
# The backend's exceptions share no base of their own.
ERRORS: tuple[type[Exception], ...] = (
    *(kind for kind in vars(failures).values() if isinstance(kind, type) and issubclass(kind, Exception)),
    RuntimeError,
    ValueError,
)


class OnnxRuntimeSession(Session):
    """An ONNX file under ONNX Runtime."""

    def __init__(
        self, path: Path, signature: Signature, device: Literal["cpu", "cuda"], threads: int = 1, more: Sequence[str] = ()
    ) -> None:
        """Load `path`. `threads` is the number of cores one run uses on the CPU; `more` are outputs that the signature lacks.

        Raises Unsuitable where CUDA is asked for and cannot be had, SessionError where the file does not load or has other
        inputs or outputs than the signature.
        """
        super().__init__(signature)
        if device == "cuda":
            if obstacle := cuda_obstacle():
                raise Unsuitable(f"CUDA was asked for, but {obstacle}")
            ort.preload_dlls()  # CUDA and cuDNN from their wheels
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # A spinning pool burns the cores that the event loop and other sessions need.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        provider = PROVIDERS[device]
        try:
            session = ort.InferenceSession(
                path,
                options,
                providers=[(provider, CUDA_OPTIONS)] if device == "cuda" else [provider],
                enable_fallback=0,  # else a failing GPU is replaced by the CPU in the middle of a run, without a word
            )
        except ERRORS as error:
            raise SessionError(f"ONNX Runtime cannot load {path} ({error}): export the model again") from None
        # ONNX Runtime only logs when CUDA fails to start, and answers from the CPU.
        if provider not in session.get_providers():
            raise Unsuitable(f"ONNX Runtime could not start {provider} and offers {session.get_providers()}: check driver and CUDA")
        _compare(session.get_inputs(), signature.inputs, path)
        found = {arg.name: arg for arg in session.get_outputs()}
        if missing := set(more) - set(found):
            raise SessionError(f"{path} lacks the outputs {sorted(missing)}: export the model again")
        _compare([arg for name, arg in found.items() if name not in more], signature.outputs, path)
        self._session: ort.InferenceSession | None = session
        self._outputs = [spec.name for spec in signature.outputs]
        self._device = device
        self.provider = f"onnxruntime-{device}"

    def _run(self, inputs: Mapping[str, Array]) -> Tensors:
        return self._answer(inputs, self._outputs)

    def trim(self, inputs: Mapping[str, Array]) -> None:
        """On the CPU. A GPU's memory is nobody else's, and to claim it again would stop all that runs there."""
        if self._device == "cpu":
            options = ort.RunOptions()
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
            self.signature.check(inputs)
            self._answer(inputs, self._outputs, options)

    def _answer(self, inputs: Mapping[str, Array], names: list[str], options: ort.RunOptions | None = None) -> Tensors:
        """The outputs of these names, for checked inputs. Raises SessionError."""
        if self._session is None:
            raise SessionError("the session is closed")
        try:
            answers = self._session.run(names, dict(inputs), options)
        except ERRORS as error:
            raise SessionError(f"ONNX Runtime failed: {error}") from error
        return dict(zip(names, answers, strict=True))

    def close(self) -> None:
        self._session = None


def _compare(found: list[ort.NodeArg], specs: tuple[TensorSpec, ...], path: Path) -> None:
    """Names, dtypes and fixed sizes of the file against the signature: a frozen batch or length axis ends here."""
    graph = {arg.name: (arg.type, [dim if isinstance(dim, int) else -1 for dim in arg.shape]) for arg in found}
    expected = {spec.name: (DTYPES[spec.dtype], spec.wire_shape) for spec in specs}
    if graph != expected:
        raise SessionError(f"{path} has tensors {graph}, the signature says {expected}: export the model again")


def cuda_obstacle() -> str | None:
    """Why ONNX Runtime cannot use CUDA here, None where nothing is known to be in the way."""
    if PROVIDERS["cuda"] not in ort.get_available_providers():
        return "this ONNX Runtime was built without CUDA: install quartet[gpu] in place of quartet[cpu]"
    if not cuda.available():
        return "no NVIDIA GPU is visible: check `nvidia-smi` and the container's GPU access"
    return None
