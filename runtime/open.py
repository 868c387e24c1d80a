"""From an artifact to a session."""

from __future__ import annotations

import logging
from pathlib import Path

from modelrepo.manifest import Artifact, OnnxArtifact
from modelrepo.tensors import Signature
from runtime import cuda
from runtime.onnxruntime_session import OnnxRuntimeSession
from runtime.session import Device, Session, SessionError, Unsuitable
from runtime.tensorrt_session import TensorRTSession

log = logging.getLogger("quartet.runtime")


def open_session(path: Path, artifact: Artifact, signature: Signature, device: Device = "auto", threads: int = 1) -> Session:
    """A session for the file at `path`, which `artifact` describes.

    `auto` prefers the GPU, and says in the log why an ONNX file runs on the CPU although there is one. Raises Unsuitable
    where this machine or the device asked for cannot run it, SessionError where the file is at fault.
    """
    if isinstance(artifact, OnnxArtifact):
        if device == "auto" and cuda.available():
            try:
                return OnnxRuntimeSession(path, signature, "cuda", threads)
            except SessionError as error:
                log.warning("%s runs on the CPU although there is a GPU: %s", path, error)
        return OnnxRuntimeSession(path, signature, "cuda" if device == "cuda" else "cpu", threads)
    if device == "cpu":
        raise Unsuitable("a TensorRT engine needs a GPU, and the device asked for is the CPU")
    return TensorRTSession(path, artifact, signature)
