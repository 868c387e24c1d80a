"""Rolling a version out, by order: beside loading and unloading, and under the same condition."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from service import identity
from service.errors import Forbidden
from service.rollout import plan
from service.rollout.rollouts import Rollouts, numbers, total
from service.rollout.state import State


def _stages(text: str) -> str:
    plan.stages(text)
    return text


def _stage(text: str) -> str:
    if len(plan.stages(text)) > 1:
        raise ValueError("one stage, not several")
    return text


class Order(BaseModel):
    """Who wants it, and why, for the audit log."""

    model_config = ConfigDict(extra="forbid", strict=True)

    by: str = Field(default="a caller", min_length=1, max_length=200)
    reason: str = Field(default="", max_length=2000)


class Start(Order):
    """`version`: the newest where none is named. `stages`: such as `shadow:20,canary:10`, in percent; else those of `--rollout`.

    `limits`: those that differ from the server's, by name; null for one that is not to be looked at.
    """

    version: int | None = Field(default=None, ge=1)
    stages: Annotated[str, AfterValidator(_stages)] | None = None
    limits: dict[str, float | int | str | None] = {}


class Change(Order):
    """`stage`: such as `canary:25`, in the place of the present one."""

    stage: Annotated[str, AfterValidator(_stage)]


class UnderWay(BaseModel):
    """One that has not ended. `stage` is null until every worker has loaded the version. Times are seconds since the epoch."""

    version: str
    stages: list[str]
    stage: str | None
    limits: dict[str, Any]
    by: str
    reason: str
    started: float
    since: float


class Ended(BaseModel):
    """How the last one ended: `promoted` or `rolled back`."""

    version: str
    over: str
    result: str
    cause: str
    by: str
    reason: str
    time: float


class RolloutState(BaseModel):
    """Of one model. `phase` is none, proposed, a stage such as canary:10, promoted or rolled back.

    `figures` count since the stage began, over all workers. `rejected` are versions that are not taken again unless they are named.
    """

    model: str
    phase: str
    seq: int
    serves: str | None
    rollout: UnderWay | None
    last: Ended | None
    rejected: list[str]
    figures: dict[str, Any] | None


def router(rollouts: Rollouts, controlled: bool) -> APIRouter:
    """The endpoints. Orders are refused unless `controlled`."""
    api = APIRouter(tags=["Rollouts"])
    at = "/v2/repository/models/{model}/rollout"

    def allow() -> None:
        if not controlled:
            raise Forbidden("this server takes no orders about its models: start it with --control on, on an address you guard")

    def by(order: Order) -> str:
        """Who it says it is, and whose key it showed."""
        request = identity.current.get()
        return order.by if request is None or request.key is None else f"{order.by}, with key {request.key!r}"

    async def shown(model: str) -> RolloutState:
        state = await rollouts.state(model)
        figures = None if state.rollout is None else numbers(total(await rollouts.reports(model)))
        return _shown(model, state, figures)

    @api.get("/v2/repository/rollouts")
    async def every() -> list[RolloutState]:
        """Every model that a version was rolled out of, or is."""
        return [await shown(model) for model in await rollouts.models()]

    @api.get(at)
    async def one(model: str) -> RolloutState:
        """How far the rollout of a model is, or how the last one ended."""
        return await shown(model)

    @api.post(at + "/start")
    async def start(model: str, order: Start) -> RolloutState:
        """Load a version beside the one that serves, and begin with its first stage; returns when it has begun in every worker."""
        allow()
        stages = None if order.stages is None else plan.stages(order.stages)
        await rollouts.start(model, order.version, stages, order.limits, by(order), order.reason)
        return await shown(model)

    @api.post(at + "/change")
    async def change(model: str, order: Change) -> RolloutState:
        """Another share, or another mode, in the place of the present stage."""
        allow()
        await rollouts.change(model, plan.stages(order.stage)[0], by(order), order.reason)
        return await shown(model)

    @api.post(at + "/promote")
    async def promote(model: str, order: Order | None = None) -> RolloutState:
        """Let the new version serve alone; the old one answers what it has, and leaves."""
        allow()
        order = order or Order()
        await rollouts.promote(model, by(order), order.reason)
        return await shown(model)

    @api.post(at + "/rollback")
    async def roll_back(model: str, order: Order | None = None) -> RolloutState:
        """Take the new version away; it answers what it has, and is not taken again unless it is named."""
        allow()
        order = order or Order()
        await rollouts.roll_back(model, by(order), order.reason)
        return await shown(model)

    @api.get(at + "/figures", include_in_schema=False)
    async def figures(model: str) -> Response:
        """Of this worker, for the one that adds them up."""
        return Response(msgspec.json.encode(rollouts.report(model)), media_type="application/json")

    @api.post(at + "/follow", include_in_schema=False)
    async def follow(model: str) -> None:
        """Do what another worker has written down; nothing that it would not do by itself a moment later."""
        await rollouts.follow(model)

    return api


def _shown(model: str, state: State, figures: dict[str, Any] | None) -> RolloutState:
    rollout, ending = state.rollout, state.ending
    return RolloutState(
        model=model,
        phase=state.phase,
        seq=state.seq,
        serves=None if state.stable is None else str(state.stable),
        rollout=None
        if rollout is None
        else UnderWay(
            version=str(rollout.candidate),
            stages=[str(stage) for stage in rollout.stages],
            stage=None if rollout.stage is None else str(rollout.stage),
            limits=msgspec.structs.asdict(rollout.limits),
            by=rollout.by,
            reason=rollout.reason,
            started=rollout.started,
            since=rollout.since,
        ),
        last=None
        if ending is None
        else Ended(
            version=str(ending.candidate),
            over=str(ending.over),
            result=ending.result,
            cause=ending.cause,
            by=ending.by,
            reason=ending.reason,
            time=ending.time,
        ),
        rejected=sorted(state.rejected, key=int),
        figures=figures,
    )
