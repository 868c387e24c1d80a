"""Spans of sampled requests. What makes them is in `otel.py`, which is loaded only where somebody wants them.

They are wanted where one of OpenTelemetry's own variables names an endpoint; all others of its `OTEL_…` variables hold as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from modelrepo.errors import QuartetError

if TYPE_CHECKING:
    from service.otel import Traced, Tracing

TRACED = "quartet.traced"
"""Among the extensions of an ASGI scope: the trace that the quick way began, or None where it is not sampled."""

current: ContextVar[Traced | None] = ContextVar("traced", default=None)
"""The sampled request that is being answered."""


class TracingError(QuartetError):
    """Traces are asked for in a way that cannot be."""


@contextmanager
def stage(name: str) -> Iterator[None]:
    """A part of answering a request, as a span of its own where the request is sampled."""
    traced = current.get()
    if traced is None:
        yield
        return
    with traced.stage(name):
        yield


def from_environment() -> Tracing | None:
    """What traces requests, if there is an endpoint to send spans to.

    Raises TracingError where the packages for it are missing, or another protocol is asked for.
    """
    variables = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    named = next((name for name in variables if os.environ.get(name)), None)
    exporter = os.environ.get("OTEL_TRACES_EXPORTER") or "otlp"
    if named is None or exporter == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if exporter != "otlp":
        raise TracingError(f"OTEL_TRACES_EXPORTER is {exporter!r}; traces go out as otlp, or none do: set one of these")
    for variable in ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"):
        if protocol := os.environ.get(variable):
            if protocol != "http/protobuf":
                raise TracingError(f"{variable} is {protocol!r}; spans are sent by http/protobuf, to port 4318 as a rule")
            break
    try:
        from service.otel import Tracing  # with the SDK, which a service without traces does without
    except ModuleNotFoundError as error:
        raise TracingError(f"{named} asks for traces, and {error.name} is not there: install quartet[otel]") from None
    return Tracing()
