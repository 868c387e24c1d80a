"""What the configs of all families check: ValueErrors that name the field, its value and what it may be."""

from __future__ import annotations

from typing import Any, get_args


def one_of(field: str, value: object, choices: Any) -> None:
    """Raise ValueError unless `value` is among the names of a Literal type."""
    if value not in get_args(choices):
        raise ValueError(f"{field} must be one of {', '.join(get_args(choices))}, not {value!r}")


def at_least(field: str, value: int, least: int) -> None:
    """Raise ValueError where `value` is below `least`."""
    if value < least:
        raise ValueError(f"{field} must be at least {least}, not {value}")


def share(field: str, value: float) -> None:
    """Raise ValueError unless `value` can be a share of units to drop: 0 or more and below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{field} must be at least 0 and below 1, not {value}")
