"""TensorRT: a serialized engine on an NVIDIA GPU, under the flavour and version that built it.

Input goes pinned host memory -> device -> engine -> pinned host memory on one stream of its own; the calling thread waits
on an event, without the GIL. From the second time a shape is met, all of that is one launch of a CUDA graph: small models
spend most of their time being launched. TensorRT captures into graphs of ours; TensorRT-RTX makes its own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from modelrepo.manifest import ProfileShape, TensorRTArtifact
from modelrepo.tensors import Array, Signature, Tensors
from runtime import cuda, tensorrt_flavour
from runtime.session import Session, SessionError, Unsuitable

log = logging.getLogger("quartet.tensorrt")

GRAPHS = 128  # more shapes than a service promises; those met later run without a graph
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class _Captured:
    """A whole run at one shape. The context is the graph's own: a graph holds its context's state, and so breaks if the
    context meets another shape."""

    context: Any
    graph: cuda.Graph
    outputs: Tensors


class TensorRTSession(Session):
    """An engine, with one execution context per optimization profile and one per captured shape.

    They run in turn, and share the engine's scratch memory.
    """

    def __init__(self, path: Path, artifact: TensorRTArtifact, signature: Signature) -> None:
        """Load the engine at `path`.

        Raises Unsuitable where this machine lacks the flavour, its version or a GPU the engine was built for, SessionError
        where the engine has other inputs or outputs than the signature.
        """
        super().__init__(signature)
        self._trt = _require(artifact)
        self.provider = artifact.flavour
        self._runtime, self._engine = _deserialize(self._trt, artifact, path)
        _compare(self._trt, self._engine, signature, path)
        self._profiles = artifact.profiles
        longest = signature.length.max if signature.length else None
        self._contexts: list[Any] = []
        self._buffers: dict[str, cuda.Buffer] = {}
        self._captured: dict[Shapes, _Captured | None] = {}  # None: it runs without a graph
        with ExitStack() as held:  # given back in reverse, also where the constructor fails half-way
            self._stream = cuda.Stream()
            held.callback(self._stream.close)
            self._scratch = cuda.Scratch(self._engine.device_memory_size_v2)
            held.callback(self._scratch.close)
            for spec in (*signature.inputs, *signature.outputs):
                self._buffers[spec.name] = cuda.Buffer(spec.shape_at(signature.batch.max, longest), spec.dtype)
                held.callback(self._buffers[spec.name].close)
            held.callback(self._contexts.clear)
            self._contexts += [self._context(index) for index in range(len(self._profiles))]
            held.callback(self._forget)
            held.callback(self._stream.wait)  # for what is still in flight
            self._held = held.pop_all()

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context(self._strategy())
        if context is None:
            raise SessionError(f"no execution context for profile {profile}: is the GPU's memory full?")
        context.set_device_memory(self._scratch.device, self._scratch.size)
        if not context.set_optimization_profile_async(profile, self._stream.handle):
            raise SessionError(f"the engine has no profile {profile}")
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, buffer.device):
                raise SessionError(f"the engine refuses the memory for {name!r}")
        self._stream.wait()
        return context

    def _strategy(self) -> Any:
        """How a context gets its memory: from us. TensorRT-RTX also makes its graphs, and its kernels before the first answer."""
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.provider == "tensorrt":
            return strategy
        settings = self._engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(strategy)
        settings.cuda_graph_strategy = self._trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        kernels = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        settings.dynamic_shapes_kernel_specialization_strategy = kernels
        return settings

    def _run(self, inputs: Mapping[str, Array]) -> Tensors:
        if not self._contexts:
            raise SessionError("the session is closed")
        shapes: Shapes = tuple((name, array.shape) for name, array in inputs.items())
        for name, array in inputs.items():
            np.copyto(self._buffers[name].view(array.shape), array)
        captured = self._captured.get(shapes)
        if captured is not None:
            captured.graph.launch()
            self._stream.wait()
            return {name: view.copy() for name, view in captured.outputs.items()}
        if self.provider == "tensorrt" and shapes not in self._captured and len(self._captured) < GRAPHS:
            return self._run_and_capture(shapes)
        return self._run_on(self._contexts[self._fitting_profile(inputs)], shapes)

    def _run_on(self, context: Any, shapes: Shapes) -> Tensors:
        for name, shape in shapes:
            if not context.set_input_shape(name, shape):
                raise SessionError(f"the engine refuses {name!r} of shape {list(shape)}")
        outputs = self._outputs(context)
        self._queue(context, shapes, outputs)
        self._stream.wait()
        return {name: view.copy() for name, view in outputs.items()}

    def _run_and_capture(self, shapes: Shapes) -> Tensors:
        """The answer of a plain run, which must come first, and the same run as a graph for the next time."""
        context = self._context(self._fitting_profile({name: self._buffers[name].view(shape) for name, shape in shapes}))
        answer = self._run_on(context, shapes)
        outputs = self._outputs(context)
        self._captured[shapes] = None
        try:
            graph = self._stream.capture(lambda: self._queue(context, shapes, outputs))
        except SessionError as error:  # loops and shapes that depend on data cannot be captured
            log.info("%s runs without a CUDA graph: %s", dict(shapes), error)
        else:
            self._captured[shapes] = _Captured(context, graph, outputs)
        return answer

    def _outputs(self, context: Any) -> Tensors:
        """Where the answers of a context with its shapes set will lie."""
        names = [spec.name for spec in self.signature.outputs]
        return {name: self._buffers[name].view(tuple(context.get_tensor_shape(name))) for name in names}

    def _queue(self, context: Any, shapes: Shapes, outputs: Tensors) -> None:
        for name, shape in shapes:
            buffer = self._buffers[name]
            self._stream.to_device(buffer, buffer.view(shape).nbytes)
        if not context.execute_async_v3(self._stream.handle):
            raise SessionError("the engine did not start; its log says why")
        for name, view in outputs.items():
            self._stream.to_host(self._buffers[name], view.nbytes)

    def _forget(self) -> None:
        for captured in self._captured.values():
            if captured is not None:
                captured.graph.close()
        self._captured.clear()

    def _fitting_profile(self, inputs: Mapping[str, Array]) -> int:
        for index, profile in enumerate(self._profiles):
            if all(_within(array.shape, profile[name]) for name, array in inputs.items()):
                return index
        shapes = {name: list(array.shape) for name, array in inputs.items()}
        raise SessionError(f"no profile of the engine covers {shapes}: build it again from this signature")

    def close(self) -> None:
        self._held.close()
        self._engine = self._runtime = None


def _deserialize(trt: Any, artifact: TensorRTArtifact, path: Path) -> tuple[Any, Any]:
    """The runtime, which must outlive the engine, and the engine. Raises Unsuitable where TensorRT cannot start or refuses it."""
    try:
        # A Runtime without a working driver may crash the process; `_require` made sure of the driver.
        runtime = trt.Runtime(tensorrt_flavour.logger(artifact.flavour))
    except TypeError as error:  # what pybind makes of a null pointer
        raise Unsuitable(f"{artifact.flavour} cannot start on this GPU ({error})") from None
    engine = runtime.deserialize_cuda_engine(path.read_bytes())
    if engine is None:
        raise Unsuitable(f"{artifact.flavour} {trt.__version__} refuses {path.name}: build the engine again on this machine")
    return runtime, engine


def _require(artifact: TensorRTArtifact) -> Any:
    """The TensorRT module, once flavour, version, driver and GPU are those the engine needs. Raises Unsuitable."""
    trt = tensorrt_flavour.load(artifact.flavour)
    if trt is None:
        raise Unsuitable(f"{artifact.flavour} is not installed: install quartet[{artifact.flavour}]")
    if trt.__version__ != artifact.version and not _follows(artifact, trt.__version__):
        raise Unsuitable(
            f"the engine was built by {artifact.flavour} {artifact.version}, here is {trt.__version__}: "
            "install that version or build the engine again"
        )
    if not cuda.available():
        raise Unsuitable("no NVIDIA GPU is visible: check `nvidia-smi` and the container's GPU access")
    capability = cuda.compute_capability()
    if capability not in artifact.compute_capabilities:
        built = ", ".join(artifact.compute_capabilities)
        raise Unsuitable(f"the engine was built for compute capability {built}, this GPU has {capability}: build it again here")
    return trt


def _follows(artifact: TensorRTArtifact, version: str) -> bool:
    """Whether the engine was built to run under later versions too, and this is one."""

    def numbers(text: str) -> list[int]:
        return [int(part) for part in text.split(".") if part.isdecimal()]

    return bool(artifact.options.get("version_compatible")) and numbers(version) > numbers(artifact.version)


def _compare(trt: Any, engine: Any, signature: Signature, path: Path) -> None:
    """Names, directions and dtypes of the engine against the signature."""
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    found = {
        name: (engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT, np.dtype(trt.nptype(engine.get_tensor_dtype(name))).name)
        for name in names
    }
    expected = {spec.name: (spec in signature.inputs, spec.dtype) for spec in (*signature.inputs, *signature.outputs)}
    if found != expected:
        raise SessionError(f"{path} has tensors {found}, the signature says {expected}: export the model again")


def _within(shape: tuple[int, ...], profile: ProfileShape) -> bool:
    return all(low <= size <= high for low, size, high in zip(profile.min, shape, profile.max, strict=True))
