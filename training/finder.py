"""The learning-rate range test (Smith 2017, section 3.3): raise the rate at every step and watch when the loss gives way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

LOWEST, HIGHEST, STEPS = 1e-6, 10.0, 100
SMOOTHING = 0.9


@dataclass(frozen=True)
class Range:
    """Rates tried, the smoothed loss after each, and the rate at which the loss fell fastest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find(step: Callable[[float], float]) -> Range:
    """Call `step(rate)`, which trains one batch at that rate and returns its loss, with rates rising from 1e-6 to 10.

    Ends early where the loss is four times its lowest. Raises ValueError where it never fell, for then no rate is better.
    """
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for number, rate in enumerate(np.geomspace(LOWEST, HIGHEST, STEPS), start=1):
        loss = step(float(rate))
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smooth = average / (1 - SMOOTHING**number)
        if not math.isfinite(smooth) or (losses and smooth > 4 * min(losses)):
            break
        rates.append(float(rate))
        losses.append(smooth)
    lowest = int(np.argmin(losses)) if losses else 0
    if lowest < 2:
        raise ValueError("the loss fell at no learning rate: try another --model.init, or look at the data")
    slope = np.gradient(np.array(losses[: lowest + 1]))  # over the logarithm of the rate, which rises evenly
    return Range(tuple(rates), tuple(losses), float(f"{rates[int(np.argmin(slope))]:.2g}"))
