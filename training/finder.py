"""The learning-rate range test (Smith 2017, section 3.3): raise the rate at every step and watch when the loss gives way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import numpy as np

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
DECADE = round((STEPS - 1) / math.log10(HIGHEST / LOWEST))  # steps in which the rate rises tenfold
WARM_UP = 20
SMOOTHING = 0.9


@dataclass(frozen=True)
class Range:
    """Rates tried, the smoothed loss after each, and the middle of the decade in which the loss fell most."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find(step: Callable[[float], float]) -> Range:
    """Call `step(rate)`, which trains one batch at that rate and returns its loss, with rates rising from 1e-6 to 10.

    Some batches at the lowest rate come first, so that a smoothed loss never hangs on a single one. Ends early where the loss
    is four times its lowest. Raises ValueError where it never fell, for then no rate is better.
    """
    rates: list[float] = []
    losses: list[float] = []
    smooth = fmean(step(LOWEST) for _ in range(WARM_UP))
    for rate in np.geomspace(LOWEST, HIGHEST, STEPS):
        smooth = SMOOTHING * smooth + (1 - SMOOTHING) * step(float(rate))
        if not math.isfinite(smooth) or (losses and smooth > 4 * min(losses)):
            break
        rates.append(float(rate))
        losses.append(smooth)
    lowest = int(np.argmin(losses)) if losses else 0
    if lowest < 2:
        raise ValueError("the loss fell at no learning rate: try another --model.init, or look at the data")
    span = min(DECADE, lowest)
    fallen = np.array(losses[: lowest + 1 - span]) - np.array(losses[span : lowest + 1])
    return Range(tuple(rates), tuple(losses), float(f"{rates[int(np.argmax(fallen)) + span // 2]:.2g}"))
