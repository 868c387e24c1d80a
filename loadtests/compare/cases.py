"""What is asked of the servers: which model, how many rows a request, over how many connections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from loadtests.compare.models import FAMILIES, LONGEST, SHORTEST, Served
from modelrepo.tensors import Tensors

CONNECTIONS = (1, 16, 64)
TOKENS = 32  # of a sequence, where lengths are not mixed


class UnknownName(Exception):
    """A case, peer or model that is none; the message lists those there are."""


@dataclass(frozen=True)
class Case:
    """One load."""

    name: str
    model: str
    connections: int
    rows: int = 1
    """Of each request."""
    mixed: bool = False
    """Sequences of 4 to 128 tokens rather than of 32."""
    bodies: int = 16
    """Different requests, sent in turn."""


CASES = (
    *(Case(f"{model}-{connections}", model, connections) for model in FAMILIES for connections in CONNECTIONS),
    Case("cnn-rows", "cnn", 4, rows=32),
    Case("mixed", "transformer", 64, mixed=True, bodies=128),
    Case("mixed-rows", "transformer", 4, rows=32, mixed=True),
)
GROWTH = ("growth-bodies", "growth-connections", "growth-models")


def choose(names: Sequence[str], known: Sequence[str], what: str) -> list[str]:
    """Those of `known` that are named, in their order; all for `all`. Raises UnknownName."""
    if unknown := sorted(set(names) - {*known, "all"}):
        raise UnknownName(f"no {what} is called {', '.join(unknown)}; there are {', '.join(known)} and all")
    return list(known) if "all" in names else [name for name in known if name in names]


def rows(case: Case, served: Served) -> list[Tensors]:
    """The inputs of each of the case's requests: held-out rows, each request's its own."""
    rng = np.random.default_rng(4)
    held_out = served.held_out
    if "mask" in held_out:
        return [_sequences(held_out, _lengths(case, rng), rng) for _ in range(case.bodies)]
    count = len(next(iter(held_out.values())))
    taken = [rng.choice(count, case.rows) for _ in range(case.bodies)]
    return [{name: array[index] for name, array in held_out.items()} for index in taken]


def _lengths(case: Case, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(SHORTEST, LONGEST + 1, case.rows) if case.mixed else np.full(case.rows, TOKENS)


def _sequences(held_out: Tensors, lengths: np.ndarray, rng: np.random.Generator) -> Tensors:
    """Held-out sequences, each cut to its length, under a mask."""
    (name,) = (name for name in held_out if name != "mask")
    real = held_out["mask"].sum(axis=1)
    index = [rng.choice(np.flatnonzero(real >= length)) for length in lengths]
    mask = np.arange(lengths.max()) < lengths[:, None]
    return {name: held_out[name][index, : lengths.max()] * mask, "mask": mask}
