"""Which of two versions answers a request that names none."""

from __future__ import annotations

import random
from collections.abc import Callable
from hashlib import blake2b

from service.model import ServedModel

STICKY = "quartet-sticky-key"
"""The header whose value decides: requests with the same one go to the same version, as long as its share only grows."""


class Split:
    """A share of the requests goes to the candidate. One object for each stage, in each worker; all give a key the same place."""

    __slots__ = ("_candidate", "_random", "_share", "_stable")

    def __init__(
        self, stable: ServedModel, candidate: ServedModel, share: float, random: Callable[[], float] = random.random
    ) -> None:
        """`random` gives numbers in [0, 1)."""
        self._stable = stable
        self._candidate = candidate
        self._share = share
        self._random = random

    def pick(self, key: str | None) -> ServedModel:
        """The version for a request with that sticky key, if it has one. A candidate without a session answers none."""
        candidate = self._candidate
        at = self._random() if key is None else place(f"{candidate.name}:{candidate.version}", key)
        return candidate if at < self._share and candidate.ready else self._stable


def place(rollout: str, key: str) -> float:
    """Where a key stands in [0, 1): the same on every machine; another in every rollout, so that not always the same are first."""
    digest = blake2b(key.encode(errors="surrogatepass"), digest_size=8, key=blake2b(rollout.encode(), digest_size=32).digest())
    return (int.from_bytes(digest.digest(), "big") >> 11) / (1 << 53)
