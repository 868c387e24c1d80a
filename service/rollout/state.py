"""How far a rollout of a model is. Pure: every step is a function from one state to the next, or it is refused.

    nothing under way ──propose──> proposed ──begin──> first stage ──advance──> … last stage ──promote or advance──> promoted
                                       └────────────────── roll back, from anywhere ──────────────────> rolled back

`change` puts another stage in the place of the present one. Promoted and rolled back, nothing is under way again.
"""

from __future__ import annotations

from typing import Literal, get_args

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from modelrepo.errors import QuartetError
from service.rollout.plan import Limits, Stage

Cause = Literal["order", "limits", "errors", "latency", "disagreement", "difference", "session", "load"]
CAUSES: tuple[Cause, ...] = get_args(Cause)
"""Why a rollout ended: by order, by having kept within its limits or having broken one, by a version that could not go on."""

ANY = ""
"""In the place of a digest: whatever files a rejected version has."""


class Refused(QuartetError):
    """The step cannot be taken from this state."""


class Rollout(Struct, frozen=True, forbid_unknown_fields=True):
    """One that is under way. `at` is the index of its stage, None until every worker has loaded the candidate.

    Times are seconds since the epoch: `started`, and `since` when the present stage is.
    """

    candidate: int
    stages: tuple[Stage, ...]
    at: int | None
    limits: Limits
    by: str
    reason: str
    started: float
    since: float

    @property
    def stage(self) -> Stage | None:
        """The present one; None while proposed."""
        return None if self.at is None else self.stages[self.at]


class Ending(Struct, frozen=True, forbid_unknown_fields=True):
    """How the last one ended; `over` is the version that had served."""

    candidate: int
    over: int
    result: Literal["promoted", "rolled back"]
    cause: Cause
    by: str
    reason: str
    time: float

    @property
    def leaving(self) -> int | None:
        """The version that goes whatever `--versions` says: it was rolled back, or is newer than the one promoted over it."""
        if self.result == "rolled back":
            return self.candidate
        return self.over if self.over > self.candidate else None


class State(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be remembered of a model.

    `seq` counts the steps. `rule` is its part of `--versions` at the last of them. `stable` is the newest version that serves
    requests which name none; None where nothing was ever rolled out. `rejected` holds the versions that were rolled back, with the
    sha256 of their manifests, as a number may come again with other files; or ANY.
    """

    seq: int = 0
    rule: str = ""
    stable: int | None = None
    rejected: dict[str, str] = {}
    rollout: Rollout | None = None
    ending: Ending | None = None

    @property
    def phase(self) -> str:
        """In a word: `none`, `proposed`, a stage such as `canary:10`, `promoted` or `rolled back`."""
        if self.rollout is not None:
            return str(self.rollout.stage or "proposed")
        return self.ending.result if self.ending is not None else "none"


def adopt(state: State, stable: int) -> State:
    """Take what serves for proven, where nothing was ever rolled out."""
    return state if state.stable is not None else _next(state, stable=stable)


def propose(
    state: State, candidate: int, stable: int, stages: tuple[Stage, ...], limits: Limits, by: str, reason: str, now: float
) -> State:
    """Begin to roll a version out over the one that serves; it may have been rejected before. Raises Refused."""
    if state.rollout is not None:
        raise Refused(f"version {state.rollout.candidate} is being rolled out ({state.phase}): promote it or roll it back first")
    if candidate == stable:
        raise Refused(f"version {candidate} is the one that serves")
    if not stages:
        raise Refused("a rollout has one stage at least: shadow or canary")
    rejected = {version: digest for version, digest in state.rejected.items() if version != str(candidate)}
    rollout = Rollout(candidate, stages, None, limits, by, reason, started=now, since=now)
    return _next(state, stable=stable, rejected=rejected, rollout=rollout)


def begin(state: State, now: float) -> State:
    """Every worker has the candidate: its first stage. Raises Refused."""
    rollout = _under_way(state)
    if rollout.at is not None:
        raise Refused(f"version {rollout.candidate} has begun already ({state.phase})")
    return _next(state, rollout=replace(rollout, at=0, since=now))


def change(state: State, stage: Stage, now: float) -> State:
    """Another share or mode in the place of the present stage; the stages after it stay. Raises Refused."""
    rollout, at = _begun(state)
    stages = (*rollout.stages[:at], stage, *rollout.stages[at + 1 :])
    return _next(state, rollout=replace(rollout, stages=stages, since=now))


def advance(state: State, by: str, cause: Cause, reason: str, now: float) -> State:
    """The next stage; after the last one promoted. Raises Refused."""
    rollout, at = _begun(state)
    if at + 1 == len(rollout.stages):
        return promote(state, by, cause, reason, now)
    return _next(state, rollout=replace(rollout, at=at + 1, since=now))


def promote(state: State, by: str, cause: Cause, reason: str, now: float) -> State:
    """Let the candidate serve everything. One that is newer than it is rejected, else it would come back. Raises Refused."""
    candidate, over = _begun(state)[0].candidate, state.stable
    assert over is not None  # `propose` has set it
    rejected = {**state.rejected, str(over): ANY} if over > candidate else state.rejected
    ending = Ending(candidate, over, "promoted", cause, by, reason, now)
    return _next(state, stable=candidate, rejected=rejected, rollout=None, ending=ending)


def roll_back(state: State, digest: str, by: str, cause: Cause, reason: str, now: float) -> State:
    """Take the candidate away, not to be taken again unasked; `digest` is that of its manifest. Raises Refused."""
    candidate, over = _under_way(state).candidate, state.stable
    assert over is not None
    ending = Ending(candidate, over, "rolled back", cause, by, reason, now)
    return _next(state, rejected={**state.rejected, str(candidate): digest}, rollout=None, ending=ending)


def under_rule(state: State, rule: str, named: tuple[int, ...] | None) -> State:
    """The state under the model's part of `--versions`, of which `named` are the versions where it lists some.

    A list that was not there at the last step is an order of its own: it ends what is under way, and what it names is taken.
    """
    if rule == state.rule:
        return state
    if named is None or state.seq == 0:
        return replace(state, rule=rule)
    rejected = {version: digest for version, digest in state.rejected.items() if int(version) not in named}
    return State(state.seq, rule, None, rejected, None, state.ending)


def read(text: bytes) -> State:
    """From JSON. Raises ValueError."""
    try:
        state = msgspec.json.decode(text, type=State)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    rollout = state.rollout
    if rollout is not None and (state.stable is None or (rollout.at is not None and not 0 <= rollout.at < len(rollout.stages))):
        raise ValueError("a rollout under way needs a version that serves, and a stage that there is")
    return state


def _next(state: State, **changes: object) -> State:
    return replace(state, seq=state.seq + 1, **changes)


def _under_way(state: State) -> Rollout:
    if state.rollout is None:
        raise Refused("no rollout is under way")
    return state.rollout


def _begun(state: State) -> tuple[Rollout, int]:
    """What is under way, and the index of its stage."""
    rollout = _under_way(state)
    if rollout.at is None:
        raise Refused(f"version {rollout.candidate} is still being loaded by all workers")
    return rollout, rollout.at
