"""The highest rate that a server bears."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

PRECISION = 0.05
LOWEST = 1 / 8  # of the rate to start at: what bears less has other troubles, and runs at low rates take long
MOST = 20  # runs


async def highest(bears: Callable[[float], Awaitable[bool]], start: float, precision: float = PRECISION) -> float | None:
    """The highest rate tried for which `bears` was true, within `precision` of one for which it was not.

    Begins at `start`, goes on by halves or half as much again until the answer changes, then halves the ratio between the two.
    None where nothing was borne, down to an eighth of `start`.
    """
    good, bad, rate = 0.0, float("inf"), start
    for _ in range(MOST):
        if await bears(rate):
            good = rate
        else:
            bad = rate
        if good and bad <= good * (1 + precision):
            break
        if not good:
            rate = bad / 2
            if rate < start * LOWEST:
                break
        elif bad == float("inf"):
            rate = good * 1.5
        else:
            rate = (good * bad) ** 0.5
    return good or None
