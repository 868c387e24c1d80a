"""The offline tools of ONNX and ONNX Runtime print, log and raise as they please."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator

from export.errors import ConversionError


@contextlib.contextmanager
def quietly(doing: str) -> Iterator[None]:
    """Keep them off the screen. Raises ConversionError, which says what was being done, for whatever they raise."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    except Exception as error:  # they meet graphs they do not expect with KeyError, AssertionError and others
        raise ConversionError(f"failed while {doing}: {type(error).__name__}: {error}") from error
    finally:
        logging.disable(before)
