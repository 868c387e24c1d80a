"""Facts about the code, the libraries and the machine of a run. Nothing here says whose machine it is."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import JsonValue

LIBRARIES = ("torch", "numpy", "scikit-learn")


def git() -> tuple[str | None, bool | None]:
    """Commit of this code and whether it was changed since; (None, None) where it is not a git checkout."""
    try:
        commit, status = (
            subprocess.run(["git", *command], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
        # installed within another project's checkout, this file is none of its own
        subprocess.run(["git", "ls-files", "--error-unmatch", __file__], cwd=Path(__file__).parent, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None, None
    return commit, bool(status)


def versions(libraries: tuple[str, ...] = LIBRARIES) -> dict[str, str]:
    """Python's version and those of the given libraries, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def environment() -> dict[str, JsonValue]:
    """What a run computes on: operating system, CPU, cores it may use, threads PyTorch uses, memory in GiB, GPUs, CUDA."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus: list[JsonValue] = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "os": platform.platform(),
        "cpu": _cpu(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "memory_gib": _memory(),
        "gpus": gpus,
        "cuda": torch.version.cuda,  # what PyTorch was built for, None for its CPU build
        "cudnn": torch.backends.cudnn.version() if gpus else None,
    }


def _cpu() -> str:
    """The processor's name as the system knows it, else its architecture."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory() -> float | None:
    """Physical memory in GiB; None where the system does not say."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None
