"""How often each of several is called, as the command line says it: `'1 digits-cnn=3 sst-4=0'`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Self

from modelrepo.errors import QuartetError


class WeightsError(QuartetError):
    """Weights that cannot be used; the message says which."""


@dataclass(frozen=True)
class Weights:
    """`default` for all but those in `named`; 0 is never."""

    default: float = 1
    named: dict[str, float] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Entries between spaces: a number for all, `NAME=number` for one. Raises WeightsError."""
        default, named = 1.0, {}
        for entry in text.split():
            name, equals, number = entry.rpartition("=")
            try:
                weight = float(number)
            except ValueError:
                weight = -1
            if not (isfinite(weight) and weight >= 0) or (equals and not name):
                raise WeightsError(f"weight {entry!r} is neither a number from 0 nor NAME=number")
            if equals:
                named[name] = weight
            else:
                default = weight
        return cls(default, named)

    def of(self, known: Sequence[str]) -> dict[str, float]:
        """The weight of each of these. Raises WeightsError for a weight of anything else."""
        if unknown := sorted(self.named.keys() - set(known)):
            raise WeightsError(f"there is a weight for {unknown[0]!r}; known are {', '.join(known)}")
        return {name: self.named.get(name, self.default) for name in known}
