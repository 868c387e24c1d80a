"""From an artifact to a session."""

from __future__ import annotations

from pathlib import Path

from modelrepo.manifest import Artifact, OnnxArtifact
from modelrepo.tensors import Signature
from runtime.onnxruntime_session import OnnxRuntimeSession
from runtime.session import Device, Session, Unsuitable
from runtime.tensorrt_session import TensorRTSession


def open_session(path: Path, artifact: Artifact, signature: Signature, device: Device = "auto", threads: int = 1) -> Session:
    """A session for the file at `path`, which `artifact` describes.

    Raises Unsuitable where this machine or the device asked for cannot run it, SessionError where the file is at fault.
    """
    if isinstance(artifact, OnnxArtifact):
        return OnnxRuntimeSession(path, signature, device, threads)
    if device == "cpu":
        raise Unsuitable("a TensorRT engine needs a GPU, and the device asked for is the CPU")
    return TensorRTSession(path, artifact, signature)
