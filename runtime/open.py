"""From a candidate to a session."""

from __future__ import annotations

from pathlib import Path

from modelrepo.manifest import Artifact, Candidate, TensorRTArtifact
from modelrepo.tensors import Signature
from runtime.onnxruntime_session import OnnxRuntimeSession
from runtime.openvino_session import OpenVINOSession
from runtime.session import Session
from runtime.tensorrt_session import TensorRTSession


def open_session(path: Path, artifact: Artifact, candidate: Candidate, signature: Signature, threads: int = 1) -> Session:
    """A session for the file at `path`, which `artifact` describes, in the way the candidate says.

    `threads` is the number of cores one run uses on the CPU. Raises Unsuitable where this machine cannot run it, SessionError
    where the file is at fault.
    """
    if isinstance(artifact, TensorRTArtifact):
        return TensorRTSession(path, artifact, signature)
    if candidate.backend == "openvino":
        return OpenVINOSession(path, signature, candidate.precision, threads)
    return OnnxRuntimeSession(path, signature, candidate.device, threads)
