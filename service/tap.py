"""Who looks at requests that were answered: for drift, to keep some of them, to compare another version."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from modelrepo.tensors import Array
from service.batch import Answer


class Tap(Protocol):
    """Sees every request that one version answered, in the event loop, just before the answer is sent.

    What it does there every caller waits for: a tap takes a sample, notes it, and works elsewhere.
    """

    def saw(self, inputs: Mapping[str, Array], answer: Answer, request_id: str | None) -> None:
        """Rows as the model had them, complete, and what it made of them. Neither may be changed.

        `request_id` is what the caller calls its request, if it says.
        """

    def close(self) -> None:
        """The version answers no more."""
