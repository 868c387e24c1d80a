"""The two TensorRT flavours behind one name.

`tensorrt` (data-centre GPUs) and `tensorrt_rtx` (RTX-class GPUs, builds without a GPU) have the same Python API; an engine
runs only under the flavour and version that built it.
"""

from __future__ import annotations

import importlib
import logging
from functools import cache
from typing import Any, Literal

log = logging.getLogger("quartet.tensorrt")

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")


@cache
def load(flavour: Flavour) -> Any:
    """The flavour's module, or None where it is not installed or its libraries do not load."""
    try:
        return importlib.import_module(flavour.replace("-", "_"))
    except (ImportError, OSError) as error:  # OSError: the wheel is there, a shared library it needs is not
        log.debug("%s cannot be imported: %s", flavour, error)
        return None


@cache
def logger(flavour: Flavour) -> Any:
    """The flavour's logger, writing to Python's logging. One per process: it must outlive every object made with it."""
    trt = load(flavour)
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.DEBUG,  # advice about performance, many lines a build
        trt.ILogger.Severity.INFO: logging.DEBUG,
        trt.ILogger.Severity.VERBOSE: logging.DEBUG,
    }

    base: Any = trt.ILogger

    class Logger(base):  # type: ignore[misc]  # the module has no types
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.log(levels[severity], "%s", message)

    return Logger()
