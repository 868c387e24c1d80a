"""Why an export publishes nothing."""

from __future__ import annotations

from modelrepo.errors import QuartetError


class ExportError(QuartetError):
    """Base: the message says what was wrong and what to do."""


class BelowFloor(ExportError):
    """The trained model does not reach the floor it was given."""


class ConversionError(ExportError):
    """PyTorch, ONNX or TensorRT could not express the model."""


class ParityError(ExportError):
    """An artifact answers differently from PyTorch; the message lists every miss."""
