"""The Session interface: a loaded model that turns input arrays into output arrays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from modelrepo.errors import OutOfRange, QuartetError
from modelrepo.tensors import Array, Signature, Tensors


class SessionError(QuartetError):
    """A session that cannot be made, or failed while running."""


class Unsuitable(SessionError):
    """This artifact cannot run on this machine or device; another of the same version may."""


class Session(ABC):
    """One model on one device. Not for concurrent use: one thread at a time calls `run`.

    Use it as a context manager, or call `close`, so that memory on a device is given back at a known moment.
    """

    provider: str
    """What runs it, for metadata and metrics: `onnxruntime-cpu`, `onnxruntime-cuda`, `openvino-cpu`, `tensorrt`, `tensorrt-rtx`."""

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    def run(self, inputs: Mapping[str, Array]) -> Tensors:
        """One batch. `inputs` as in the signature, batch from min to max; returns every output, with as many rows.

        Raises WrongTensor or OutOfRange where the inputs do not fit, SessionError where the backend fails.
        """
        rows, _ = self.signature.check(inputs)
        if rows > self.signature.batch.max:
            raise OutOfRange(f"a batch of {rows} rows is more than the session takes, {self.signature.batch.max}")
        outputs = self._run(inputs)
        for spec in self.signature.outputs:
            answer = outputs[spec.name]
            if len(answer) != rows or answer.shape[1:] != spec.shape[1:]:
                raise SessionError(f"{self.provider} answered {answer.shape} for {spec.name!r}, expected {spec.shape_at(rows)}")
        return outputs

    @abstractmethod
    def _run(self, inputs: Mapping[str, Array]) -> Tensors:
        """Run checked inputs."""

    def trim(self, inputs: Mapping[str, Array]) -> None:  # noqa: B027  # most backends have nothing to give back
        """Run a small batch, and give back what memory larger ones took and this one does not need, where the backend keeps it.

        Raises as `run` does.
        """

    @abstractmethod
    def close(self) -> None:
        """Give back what the session holds. Calling it twice is harmless; running afterwards is an error."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def promised_shapes(signature: Signature) -> Iterator[tuple[int, int | None]]:
    """Every (batch, length) bucket, largest first, so that memory is claimed once; length is None without sequences."""
    lengths: tuple[int | None, ...] = signature.length.buckets if signature.length else (None,)
    for batch in reversed(signature.batch.buckets):
        for length in reversed(lengths):
            yield batch, length
