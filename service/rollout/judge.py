"""When a rollout goes back or on by itself. Pure: it is told the figures and the time."""

from __future__ import annotations

from typing import NamedTuple

from service.rollout.figures import Answered, Compared, Figures
from service.rollout.plan import Limits, Stage
from service.rollout.state import Cause

NOISE = 1e-3  # seconds: what two versions may differ by without it meaning anything


class Verdict(NamedTuple):
    """`limits` is the cause of going on, any other of going back."""

    cause: Cause
    reason: str


class Judge:
    """Looks at one stage. Every so many requests are judged by themselves, so that a late fault is not lost in a long past.

    It counts from when it was made: a process that starts again in the middle of a stage begins to count anew.
    """

    def __init__(self, stage: Stage, limits: Limits, began: float, figures: Figures) -> None:
        """`began` is when the stage did, `figures` are those at this moment."""
        self._stage = stage
        self._limits = limits
        self._began = began
        self._before = figures
        self._good = 0

    def see(self, figures: Figures, now: float) -> Verdict | None:
        """What follows from the figures of all workers; nothing yet while they are too few."""
        window = figures.since(self._before)
        if window is None:
            self._before = figures
            return None
        shadow = self._stage.mode == "shadow"
        requests = window.compared.copies if shadow else window.candidate.requests
        limits = self._limits
        if requests < limits.requests:
            return None
        self._before = figures
        broken = _compared(window.compared, limits) if shadow else _answered(_enough(window, limits), window.candidate, limits)
        if broken is not None:
            return broken
        self._good += requests
        if limits.promote is None or self._good < limits.promote or now - self._began < limits.seconds:
            return None
        return Verdict("limits", f"{self._good} {'copies' if shadow else 'requests'} in {self._stage} were within the limits")


def _enough(window: Figures, limits: Limits) -> Answered:
    """What the stable version did meanwhile, or where that is little, ever since it was loaded."""
    return window.stable if window.stable.requests >= limits.requests else window.history


def _answered(stable: Answered, candidate: Answered, limits: Limits) -> Verdict | None:
    more = candidate.error_share - stable.error_share
    if limits.errors is not None and more > limits.errors:
        return Verdict(
            "errors",
            f"{candidate.error_share:.2%} of {candidate.requests} requests failed, {stable.error_share:.2%} of the stable "
            f"version's; {limits.errors:.2%} more are allowed",
        )
    for name, ratio, ours, theirs in (
        ("the mean", limits.mean, candidate.mean, stable.mean),
        ("the p99", limits.p99, candidate.p99, stable.p99),
    ):
        if ratio is not None and ours is not None and theirs is not None and ours > ratio * theirs and ours - theirs > NOISE:
            return Verdict(
                "latency",
                f"{name} of {candidate.requests} requests was {ours * 1e3:.1f} ms, {ours / theirs:.1f} times the stable version's "
                f"{theirs * 1e3:.1f} ms; {ratio:g} times is allowed",
            )
    return None


def _compared(compared: Compared, limits: Limits) -> Verdict | None:
    if limits.errors is not None and compared.failed / compared.copies > limits.errors:
        return Verdict("errors", f"{compared.failed} of {compared.copies} copies failed; {limits.errors:.2%} are allowed")
    if not compared.rows:
        return None
    for cause, limit, count, what in (
        ("disagreement", limits.disagreements, compared.disagreeing, "disagree"),
        ("difference", limits.differences, compared.differing, "differ by more than the tolerance"),
    ):
        if limit is not None and count / compared.rows > limit:
            return Verdict(
                "disagreement" if cause == "disagreement" else "difference",
                f"{count / compared.rows:.2%} of {compared.rows} rows {what}, by up to {compared.largest:.3g}; {limit:.2%} may",
            )
    return None
