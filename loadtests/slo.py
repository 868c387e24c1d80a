"""Limits that a load test must keep to, and which of them it broke."""

from __future__ import annotations

import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from modelrepo.errors import QuartetError
from modelrepo.tensors import Strict

WILD = "*?["


class SloError(QuartetError):
    """A file of limits that cannot be used; the message says where and why."""


Rate = Annotated[float, Field(ge=0, le=1)]
Milliseconds = Annotated[float, Field(gt=0)]


class Limits(Strict):
    """What is allowed at most. Latencies are those of answers, refusals not among them; what is not set is not looked at."""

    p50_ms: Milliseconds | None = None
    p99_ms: Milliseconds | None = None
    error_rate: Rate | None = None
    """Share of the requests that were answered wrongly, with an error, or not at all."""
    refusal_rate: Rate | None = None
    """Share of the requests that were refused as they should be: 429, 503 or 504 with an error in JSON."""


class Slo(Strict):
    """Limits for all requests together, and for endpoints by name; a name with * stands for several."""

    all: Limits = Limits()
    endpoints: Mapping[str, Limits] = Field(default={})


@dataclass
class Figures:
    """Requests of an endpoint. `times` counts answers by their milliseconds; each request is one of those or a refusal."""

    requests: int = 0
    errors: int = 0
    refusals: int = 0
    times: Counter[float] = field(default_factory=Counter)

    def __add__(self, other: Figures) -> Figures:
        return Figures(
            self.requests + other.requests, self.errors + other.errors, self.refusals + other.refusals, self.times + other.times
        )

    def quantile_ms(self, quantile: float) -> float:
        """The least time that this share of the answers kept to; NaN without any."""
        wanted = quantile * self.times.total()
        seen = 0
        for time, count in sorted(self.times.items()):
            seen += count
            if seen >= wanted:
                return time
        return float("nan")


def read(path: Path) -> Slo:
    """The limits in a TOML file. Raises SloError for a file that cannot be read, and for keys and values that mean nothing."""
    try:
        written = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise SloError(f"limits cannot be read from {path}: {error}") from None
    try:
        return Slo.model_validate(written, strict=False)  # 20 is as good as 20.0
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors(include_url=False))
        raise SloError(f"{path}: {'; '.join(faults)}") from None


def broken(slo: Slo, figures: Mapping[str, Figures]) -> list[str]:
    """A line for every limit that is broken by the figures of these endpoints.

    Nothing answered breaks them all, and so does an endpoint that is named in full and was never called.
    """
    everything = sum(figures.values(), Figures())
    if not everything.requests:
        return ["no request was sent: nothing can be said about any limit"]
    lines = list(_over("all", slo.all, everything))
    for name, limits in slo.endpoints.items():
        matching = [endpoint for endpoint in figures if fnmatchcase(endpoint, name)]
        if not matching and not any(letter in name for letter in WILD):
            lines.append(f"{name}: was never called; called were {', '.join(sorted(figures))}")
        for endpoint in sorted(matching):
            lines += _over(endpoint, limits, figures[endpoint])
    return lines


def _over(name: str, limits: Limits, figures: Figures) -> Iterator[str]:
    for key, quantile in (("p50_ms", 0.5), ("p99_ms", 0.99)):
        limit = getattr(limits, key)
        if limit is not None and not (found := figures.quantile_ms(quantile)) <= limit:
            yield f"{name}: p{quantile * 100:g} is {found:g} ms, allowed are {limit:g} ms"
    for key, count in (("error_rate", figures.errors), ("refusal_rate", figures.refusals)):
        limit = getattr(limits, key)
        if limit is not None and figures.requests and (rate := count / figures.requests) > limit:
            yield f"{name}: {key.replace('_', ' ')} is {rate:.2%} ({count} of {figures.requests}), allowed is {limit:.2%}"
