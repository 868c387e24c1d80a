"""What a call is named, and what it says beside its message."""

from __future__ import annotations

from typing import Any

import grpc

from service.rpc import messages

(SERVICE,) = (service.full_name for service in messages.DESCRIPTOR.services_by_name.values())
PATH = f"/{SERVICE}/"
"""Before the name of a method."""

Context = grpc.aio.ServicerContext[Any, Any]
Told = tuple[tuple[str, str], ...]
"""Metadata of an answer: names and values."""


def metadata(context: Context) -> dict[str, str]:
    """What a call says beside its message, as headers say it over HTTP: by name in lower case, texts only."""
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}
