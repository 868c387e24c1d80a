"""explain.onnx under ONNX Runtime: answers, and what happened inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from modelrepo.internals import Internal
from modelrepo.tensors import Array, Signature, Tensors
from runtime.onnxruntime_session import OnnxRuntimeSession


class InternalsSession(OnnxRuntimeSession):
    """A session on the CPU, on one core, whose `run` answers as every other does."""

    def __init__(self, path: Path, signature: Signature, internals: tuple[Internal, ...]) -> None:
        """Load `path`. Raises SessionError where it does not load, or has other inputs or outputs than it should."""
        super().__init__(path, signature, "cpu", more=[internal.name for internal in internals])
        self.internals = internals

    def explain(self, inputs: Mapping[str, Array], names: Sequence[str]) -> Tensors:
        """The signature's outputs and the internals of these names, for one batch.

        Raises WrongTensor, OutOfRange or SessionError as `run` does.
        """
        self.signature.check(inputs)
        return self._answer(inputs, [*self._outputs, *names])
