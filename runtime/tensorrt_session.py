"""TensorRT: a serialized engine on an NVIDIA GPU, under the flavour and version that built it.

Input goes pinned host memory -> device -> engine -> pinned host memory on one stream of its own; the calling thread waits
on an event, without the GIL.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from modelrepo.manifest import ProfileShape, TensorRTArtifact
from modelrepo.tensors import Array, Signature, Tensors
from runtime import cuda, tensorrt_flavour
from runtime.session import Session, SessionError, Unsuitable


class TensorRTSession(Session):
    """An engine, with one execution context per optimization profile."""

    def __init__(self, path: Path, artifact: TensorRTArtifact, signature: Signature) -> None:
        """Load the engine at `path`.

        Raises Unsuitable where this machine lacks the flavour, its version or a GPU the engine was built for, SessionError
        where the engine has other inputs or outputs than the signature.
        """
        super().__init__(signature)
        trt = _require(artifact)
        self.provider = artifact.flavour
        self._runtime, self._engine = _deserialize(trt, artifact, path)
        _compare(trt, self._engine, signature, path)
        self._profiles = artifact.profiles
        longest = signature.length.max if signature.length else None
        self._contexts: list[Any] = []
        self._buffers: dict[str, cuda.Buffer] = {}
        with ExitStack() as held:  # given back in reverse, also where the constructor fails half-way
            self._stream = cuda.Stream()
            held.callback(self._stream.close)
            for spec in (*signature.inputs, *signature.outputs):
                self._buffers[spec.name] = cuda.Buffer(spec.shape_at(signature.batch.max, longest), spec.dtype)
                held.callback(self._buffers[spec.name].close)
            held.callback(self._contexts.clear)
            self._contexts += [self._context(index) for index in range(len(self._profiles))]
            held.callback(self._stream.wait)  # for what is still in flight
            self._held = held.pop_all()

    def _context(self, profile: int) -> Any:
        context = self._engine.create_execution_context()
        if context is None or not context.set_optimization_profile_async(profile, self._stream.handle):
            raise SessionError(f"no execution context for profile {profile}: is the GPU's memory full?")
        self._stream.wait()
        return context

    def _run(self, inputs: Mapping[str, Array]) -> Tensors:
        if not self._contexts:
            raise SessionError("the session is closed")
        context = self._contexts[self._fitting_profile(inputs)]
        for name, array in inputs.items():
            buffer = self._buffers[name]
            np.copyto(buffer.view(array.shape), array)
            self._stream.to_device(buffer, array.nbytes)
            if not context.set_input_shape(name, array.shape):
                raise SessionError(f"the engine refuses {name!r} of shape {list(array.shape)}")
        for name, buffer in self._buffers.items():
            if not context.set_tensor_address(name, buffer.device):
                raise SessionError(f"the engine refuses the memory for {name!r}")
        if not context.execute_async_v3(self._stream.handle):
            raise SessionError("the engine did not start; its log says why")
        views: Tensors = {}
        for spec in self.signature.outputs:
            buffer = self._buffers[spec.name]
            views[spec.name] = buffer.view(tuple(context.get_tensor_shape(spec.name)))
            self._stream.to_host(buffer, views[spec.name].nbytes)
        self._stream.wait()
        return {name: view.copy() for name, view in views.items()}

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
