"""Facts about the machine that measures or serves."""

from __future__ import annotations

import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelrepo.manifest import Machine
from runtime import cuda

LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt-cu13", "tensorrt-rtx-cu13")


@cache
def machine() -> Machine:
    """This machine, and the installed ones of the libraries that run models."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: the architecture must do
    return Machine(
        processor=processor,
        cores=len(os.sched_getaffinity(0)),
        platform=platform.platform(),
        gpu=cuda.name() if cuda.available() else None,
        versions={library: found for library in LIBRARIES if (found := _installed(library))},
    )


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
