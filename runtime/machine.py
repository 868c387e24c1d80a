"""Facts about the machine that measures or serves."""

from __future__ import annotations

import math
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from modelrepo.manifest import Machine
from runtime import cuda

CGROUPS = Path("/sys/fs/cgroup")
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


def cores() -> int:
    """Cores this process may keep busy: its affinity, and within it the quota of its container (cgroup v2 or v1), 1 at least."""
    allowed = len(os.sched_getaffinity(0))
    for read in (_quota_v2, _quota_v1):
        try:
            quota = read()
        except (OSError, ValueError):
            continue  # not this version of cgroups, or none
        if quota is not None:
            return max(1, min(allowed, math.floor(quota)))
    return allowed


def _quota_v2() -> float | None:
    """cpu.max holds microseconds of CPU time and of the period they are for, or `max`."""
    quota, period = (CGROUPS / "cpu.max").read_text().split()
    return None if quota == "max" else int(quota) / int(period)


def _quota_v1() -> float | None:
    quota = int((CGROUPS / "cpu/cpu.cfs_quota_us").read_text())
    return None if quota <= 0 else quota / int((CGROUPS / "cpu/cpu.cfs_period_us").read_text())


def _installed(library: str) -> str | None:
    try:
        return version(library)
    except PackageNotFoundError:
        return None
