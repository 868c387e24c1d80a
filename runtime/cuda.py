"""The few CUDA runtime calls a session needs, through NVIDIA's own bindings (`cuda-bindings`)."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from modelrepo.tensors import Array
from runtime.session import SessionError

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"

try:
    ctypes.CDLL(DRIVER)  # the bindings take a tenth of a second to import, which a machine without a driver is spared
    from cuda.bindings import runtime as cudart
    from cuda.bindings import utils
except (OSError, ImportError):  # or the extra that brings them (gpu, tensorrt, tensorrt-rtx) is not installed
    cudart = None


def available() -> bool:
    """Whether a CUDA device and a driver new enough for the bindings are there. Never raises."""
    return count() > 0


def count() -> int:
    """CUDA devices that this process may use. Never raises."""
    if cudart is None:
        return 0
    status, found = cudart.cudaGetDeviceCount()
    return int(found) if status == cudart.cudaError_t.cudaSuccess else 0


def compute_capability() -> str:
    """Of device 0, as `9.0`. Raises SessionError without a device."""
    attributes = cudart.cudaDeviceAttr
    major = call(cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMajor, 0))
    minor = call(cudart.cudaDeviceGetAttribute(attributes.cudaDevAttrComputeCapabilityMinor, 0))
    return f"{major}.{minor}"


def name() -> str:
    """Of device 0, as `NVIDIA H200`. Raises SessionError without a device."""
    return str(call(cudart.cudaGetDeviceProperties(0)).name.decode())


def versions() -> tuple[str, str]:
    """The newest CUDA that the driver knows, and that of the runtime in use, as `13.0`. Raises SessionError."""
    found = (call(cudart.cudaDriverGetVersion()), call(cudart.cudaRuntimeGetVersion()))
    return f"{found[0] // 1000}.{found[0] % 1000 // 10}", f"{found[1] // 1000}.{found[1] % 1000 // 10}"


def call(answer: tuple[Any, ...]) -> Any:
    """The value of a CUDA call, which comes as (status, value). Raises SessionError with CUDA's name for the failure."""
    status, *values = answer
    if status != cudart.cudaError_t.cudaSuccess:
        raise SessionError(f"CUDA call failed: {cudart.cudaGetErrorName(status)[1].decode()}")
    return values[0] if values else None


class Stream:
    """A CUDA stream of its own, and an event on which to wait without spinning."""

    def __init__(self) -> None:
        self._event = call(cudart.cudaEventCreateWithFlags(cudart.cudaEventDisableTiming | cudart.cudaEventBlockingSync))
        try:
            self._stream = call(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        except SessionError:
            call(cudart.cudaEventDestroy(self._event))
            raise
        self.handle: int = utils.get_cuda_native_handle(self._stream)

    def to_device(self, buffer: Buffer, size: int) -> None:
        """Queue a copy of the first `size` bytes from host to device."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        call(cudart.cudaMemcpyAsync(buffer.device, buffer.host, size, kind, self._stream))

    def to_host(self, buffer: Buffer, size: int) -> None:
        """Queue a copy of the first `size` bytes from device to host."""
        kind = cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        call(cudart.cudaMemcpyAsync(buffer.host, buffer.device, size, kind, self._stream))

    def wait(self) -> None:
        """Block, without the GIL, until all that was queued is done."""
        call(cudart.cudaEventRecord(self._event, self._stream))
        call(cudart.cudaEventSynchronize(self._event))

    def capture(self, queue: Callable[[], None]) -> Graph:
        """Record what `queue` puts on the stream, without running it.

        Raises SessionError where some of it cannot be recorded; the stream is then as before.
        """
        call(cudart.cudaStreamBeginCapture(self._stream, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
        try:
            queue()
        except SessionError:
            _end_capture(self._stream)
            raise
        graph = _end_capture(self._stream)
        try:
            return Graph(call(cudart.cudaGraphInstantiate(graph, 0)), self._stream)
        finally:
            call(cudart.cudaGraphDestroy(graph))

    def close(self) -> None:
        """Destroy stream and event."""
        try:
            call(cudart.cudaEventDestroy(self._event))
        finally:
            call(cudart.cudaStreamDestroy(self._stream))


def _end_capture(stream: Any) -> Any:
    """What was captured. Raises SessionError where the capture was broken off, which CUDA also remembers as its last error."""
    try:
        return call(cudart.cudaStreamEndCapture(stream))
    except SessionError:
        cudart.cudaGetLastError()
        raise


class Graph:
    """Work that was captured from a stream and is launched on it as one."""

    def __init__(self, executable: Any, stream: Any) -> None:
        self._executable, self._stream = executable, stream

    def launch(self) -> None:
        """Queue the work. It reads and writes the memory it was captured with."""
        call(cudart.cudaGraphLaunch(self._executable, self._stream))

    def close(self) -> None:
        """Destroy it."""
        call(cudart.cudaGraphExecDestroy(self._executable))


class Scratch:
    """Device memory for what an engine computes on the way."""

    def __init__(self, size: int) -> None:
        self.size = max(size, 256)  # TensorRT wants an address even where it needs nothing
        self.device: int = call(cudart.cudaMalloc(self.size))

    def close(self) -> None:
        """Free it."""
        call(cudart.cudaFree(self.device))


class Buffer:
    """Memory for one tensor at its largest: on the device, and pinned on the host so that copies can be asynchronous."""

    def __init__(self, shape: tuple[int, ...], dtype: str) -> None:
        self._dtype = np.dtype(dtype)
        size = math.prod(shape) * self._dtype.itemsize
        self.host: int = call(cudart.cudaMallocHost(size))
        try:
            self.device: int = call(cudart.cudaMalloc(size))
        except SessionError:
            call(cudart.cudaFreeHost(self.host))
            raise
        self._bytes: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(self.host))

    def view(self, shape: tuple[int, ...]) -> Array:
        """The front of the host memory as an array of this shape."""
        size = math.prod(shape) * self._dtype.itemsize
        view: Array = self._bytes[:size].view(self._dtype).reshape(shape)
        return view

    def close(self) -> None:
        """Free both."""
        try:
            call(cudart.cudaFree(self.device))
        finally:
            call(cudart.cudaFreeHost(self.host))
