"""CUDA and an engine that doubles its rows, in host memory: what is queued runs at once, or is recorded while capturing."""

from __future__ import annotations

import ctypes
import re
from types import SimpleNamespace
from unittest import mock

import numpy as np


class SimulatedCuda:
    """The calls of `runtime/cuda.py`. `held` names what was taken and not given back; the taking after `allowed` fails."""

    cudaStreamNonBlocking = cudaEventDisableTiming = cudaEventBlockingSync = 0
    cudaError_t = SimpleNamespace(cudaSuccess=0)
    cudaMemcpyKind = cudaStreamCaptureMode = mock.MagicMock()

    def __init__(self, allowed=1000):
        self.allowed, self.held, self.launches = allowed, [], 0
        self.recording = None
        self.memory = {}

    def do(self, work):
        if self.recording is None:
            work()
        else:
            self.recording.append(work)

    def take(self, what, value):
        if len(self.held) == self.allowed:
            return (2, None)
        self.held.append(what)
        return (0, value)

    def give(self, what):
        self.held.remove(what)
        return (0,)

    def allocate(self, size):
        memory = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(memory)] = memory
        return ctypes.addressof(memory)

    def cudaMalloc(self, size):
        return self.take("device memory", self.allocate(size))

    def cudaMallocHost(self, size):
        return self.take("host memory", self.allocate(size))

    def cudaFree(self, address):
        return self.give("device memory")

    def cudaFreeHost(self, address):
        return self.give("host memory")

    def cudaMemcpyAsync(self, to, source, size, kind, stream):
        self.do(lambda: ctypes.memmove(to, source, size))
        return (0,)

    def cudaStreamBeginCapture(self, stream, mode):
        self.recording = []
        return (0,)

    def cudaStreamEndCapture(self, stream):
        recorded, self.recording = self.recording, None
        return self.take("graph", recorded) if recorded is not None else (2, None)

    def cudaGraphInstantiate(self, graph, flags):
        return self.take("executable graph", graph)

    def cudaGraphDestroy(self, graph):
        return self.give("graph")

    def cudaGraphExecDestroy(self, graph):
        return self.give("executable graph")

    def cudaGraphLaunch(self, graph, stream):
        self.launches += 1
        for work in graph:
            work()
        return (0,)

    def cudaGetErrorName(self, status):
        return (0, b"cudaErrorMemoryAllocation")

    def __getattr__(self, name):
        if created := re.match(r"cuda(Stream|Event)Create", name):
            return lambda *arguments: self.take(created[1], 1)
        if destroyed := re.match(r"cuda(Stream|Event)Destroy", name):
            return lambda *arguments: self.give(destroyed[1])
        return lambda *arguments: (0,)


class DoublingEngine:
    """`y = 2 x`. Where not `capturable`, it breaks off a capture, as a loop would. `contexts` counts those made."""

    device_memory_size_v2 = 0

    def __init__(self, cuda, capturable=True):
        self.cuda, self.capturable, self.contexts = cuda, capturable, 0

    def create_execution_context(self, strategy):
        self.contexts += 1
        return DoublingContext(self)


class DoublingContext:
    def __init__(self, engine):
        self.engine, self.addresses = engine, {}

    def set_device_memory(self, memory, size):
        assert memory, "TensorRT wants an address"

    def set_optimization_profile_async(self, profile, stream):
        return True

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def set_input_shape(self, name, shape):
        self.shape = shape
        return True

    def get_tensor_shape(self, name):
        return self.shape

    def execute_async_v3(self, stream):
        cuda = self.engine.cuda
        if cuda.recording is not None and not self.engine.capturable:
            cuda.recording = None
            return False
        size = int(np.prod(self.shape))

        def double():
            x, y = (np.ctypeslib.as_array((ctypes.c_float * size).from_address(self.addresses[name])) for name in ("x", "logits"))
            y[:] = 2 * x

        cuda.do(double)
        return True
