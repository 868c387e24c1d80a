"""How many users there are at each moment of a load test, as functions of time."""

from __future__ import annotations

import math
from collections.abc import Sequence

SHAPES = ("ramp", "steps", "spike", "soak")
STEPS = 10
GAIN = 0.05  # two steps that together add less than this share of throughput found saturation; one might by chance


def users_at(shape: str, seconds: float, users: int, duration: float) -> int:
    """Users after so many seconds of a test of `duration` seconds that reaches `users`; never less than one.

    ramp    more all the time, until all are there in the end
    steps   ten steps of equal height and length
    spike   a fifth of the users; all of them at once in the third fifth of the time; a fifth again
    soak    all of them, who come in during the first tenth of the time, half a minute at most

    Raises ValueError for another shape.
    """
    share = min(1.0, seconds / duration)
    if shape == "ramp":
        present = share
    elif shape == "steps":
        present = (step_at(seconds, duration) + 1) / STEPS
    elif shape == "spike":
        present = 1.0 if 0.4 <= share < 0.6 else 0.2
    elif shape == "soak":
        present = min(1.0, seconds / min(30.0, duration / 10))
    else:
        raise ValueError(f"shape is {shape!r}; known are {', '.join(SHAPES)}")
    return max(1, math.ceil(users * present - 1e-9))


def step_at(seconds: float, duration: float) -> int:
    """The number of the step, from 0, after so many seconds."""
    return min(STEPS - 1, int(STEPS * seconds / duration))


def saturated(rates: Sequence[float]) -> bool:
    """Whether the last two steps brought hardly more right answers a second than the best before them: more users only wait."""
    return len(rates) >= 3 and max(rates[-2:]) < (1 + GAIN) * max(rates[:-2])
