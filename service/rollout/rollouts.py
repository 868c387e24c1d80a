"""Rolls new versions out: takes orders, follows what others decided, and watches over the limits.

What is decided lies in the memory, from which every worker follows: it loads the candidate, splits requests or copies them, and
lets one version go in the end. Each worker counts for itself; the first of them adds up and judges all counts, twice a second. A
worker that is told of a step by another follows at once, else at its next look at the memory.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from modelrepo.errors import RepositoryError, StoreError
from service.errors import Conflict, InvalidRequest, ServiceError, UnknownModel, Unprocessable
from service.loading import LoadFailed
from service.metrics import Metrics
from service.model import ServedModel
from service.registry import Registry
from service.rollout import plan
from service.rollout import state as states
from service.rollout.comparison import Comparison
from service.rollout.figures import Answered, Compared, Figures, Report
from service.rollout.judge import Judge
from service.rollout.memory import Memory, MemoryFault, Note
from service.rollout.metrics import RolloutMetrics, ShadowMetrics
from service.rollout.plan import Limits, Stage
from service.rollout.shadow import Shadow
from service.rollout.split import Split
from service.rollout.state import Cause, Refused, Rollout, State
from service.siblings import SiblingFailed, Siblings

log = logging.getLogger("quartet.rollout")

TICK = 0.5  # seconds between looks at the memory and at the figures
AGAIN = 10.0  # seconds before a store that was away is asked again
BY_RULE, BY_LIMITS = "--rollout", "limits"
PATH = "/v2/repository/models/{}/rollout"


class Pair(NamedTuple):
    """Two versions side by side, in a stage that began at a time."""

    stage: Stage
    since: float
    stable: ServedModel
    candidate: ServedModel


class Active(NamedTuple):
    """What this worker does for a pair. Its figures `before` are taken off those since."""

    pair: Pair
    before: tuple[Answered, Answered]
    shadow: tuple[Shadow, ShadowMetrics] | None


class Rollouts:
    """All methods belong to the event loop."""

    def __init__(
        self, registry: Registry, memory: Memory, limits: Limits, watch: float, metrics: Metrics, siblings: Siblings
    ) -> None:
        """`limits` hold where a rollout names no others; `watch` seconds lie between looks for new versions, if any."""
        self._registry = registry
        self._memory = memory
        self._limits = limits
        self._watch = watch
        self._siblings = siblings
        self._metrics = RolloutMetrics(metrics.registry)
        self._active: dict[str, Active] = {}
        self._judges: dict[str, tuple[int, Judge]] = {}
        self._followed: dict[str, State] = {}
        self._again: dict[str, float] = {}  # when to follow, by model: what others wrote at once, a store that was away later
        self._shown: dict[str, int] = {}  # candidates that have gauges
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        registry.changed = self._apply
        registry.first(self._resume_all)
        registry.later(self._run)

    # Orders

    async def start(
        self, model: str, candidate: int | None, stages: tuple[Stage, ...] | None, limits: Mapping[str, Any], by: str, reason: str
    ) -> None:
        """Load a version, the newest unless one is named, in every worker, and begin. `limits` are those unlike the server's.

        Raises UnknownModel, InvalidRequest, Conflict, or Unprocessable where the version cannot be loaded.
        """
        stable = int(self._registry.get(model).version)
        stages = stages or self._memory.rules.of(model)
        if stages is None:
            raise InvalidRequest("say how to begin: shadow:PERCENT or canary:PERCENT, or several of them with commas in between")
        try:
            published = await self._registry.published(model)
        except RepositoryError as error:
            raise Unprocessable(f"{error} (nothing has changed)") from None
        chosen = published[-1] if candidate is None else candidate
        if chosen not in published:
            raise UnknownModel(f"model {model!r} has no version {chosen}; published are {', '.join(map(str, published))}")
        if not self._memory.survives(model):
            raise Conflict(
                f"started again, this server would not know that version {chosen} of {model!r} is not proven, and serve it alone: "
                f"give it --rollout-state FOLDER, or name what is proven, --versions '{model}={stable}'"
            )
        propose = partial(
            states.propose,
            candidate=chosen,
            stable=stable,
            stages=stages,
            limits=_limits(limits, self._limits),
            by=by,
            reason=reason,
            now=time.time(),
        )
        _dry(propose, self._memory.state(model))
        try:
            loaded = await self._registry.serve_beside(model, chosen, again=True)
        except (RepositoryError, LoadFailed) as error:
            raise Unprocessable(f"{error} (nothing has changed)") from None
        try:
            await self._step(model, propose, Note("proposed", by, reason))
        except ServiceError:
            if self._memory.state(model).rollout is None:
                await self._registry.settle(model, chosen if loaded else None, "it could not be rolled out")
            raise
        await self._follow(model)
        await self._tell(model)
        state = self._memory.state(model)
        if state.rollout is None and state.ending is not None:
            raise Unprocessable(f"version {chosen} is {state.ending.result}: {state.ending.reason}")
        await self._begin(model)

    async def change(self, model: str, stage: Stage, by: str, reason: str) -> None:
        """Put another stage in the place of the present one. Raises Conflict."""
        await self._order(model, partial(states.change, stage=stage, now=time.time()), Note("changed", by, reason))

    async def promote(self, model: str, by: str, reason: str) -> None:
        """Let the candidate serve alone. Raises Conflict."""
        step = partial(states.promote, by=by, cause="order", reason=reason, now=time.time())
        await self._order(model, step, Note("promoted", by, reason))

    async def roll_back(self, model: str, by: str, reason: str) -> None:
        """Take the candidate away. Raises Conflict."""
        await self._order(model, self._backwards(model, by, reason, "order"), Note("rolled back", by, reason))

    async def look(self, model: str, again: bool = False) -> None:
        """Begin with a version that was published since, where a rule says so and nothing is under way.

        Raises RepositoryError or LoadFailed; with `again` also for what failed before and has not changed.
        """
        stages = self._memory.rules.of(model)
        serving = self._registry.find(model)
        if serving is None or self._registry.unloaded(model):
            return
        if stages is None or self._memory.state(model).rollout is not None:
            await self._follow(model)
            return
        newer = await asyncio.to_thread(self._memory.newer, model, await self._registry.published(model))
        if not newer:
            return
        await self._registry.serve_beside(model, newer[-1], again)
        step = partial(
            states.propose,
            candidate=newer[-1],
            stable=int(serving.version),
            stages=stages,
            limits=self._limits,
            by=BY_RULE,
            reason="a newer version was published",
            now=time.time(),
        )
        await self._step(model, _unless_under_way(step), Note("proposed", BY_RULE, "a newer version was published"))
        await self._follow(model)

    # What is

    async def models(self) -> list[str]:
        """Those of which something is remembered, and that serve. Raises ServiceError."""
        await self._refresh()
        return [model for model in self._memory.models() if self._registry.find(model) is not None]

    async def state(self, model: str) -> State:
        """What is remembered of a model, by whomever it was decided. Raises UnknownModel or ServiceError."""
        self._registry.get(model)
        await self._refresh()
        return self._memory.state(model)

    async def _refresh(self) -> None:
        """Look at the memory; what is new there is followed at the next tick, if not before. Raises ServiceError."""
        try:
            new = await asyncio.to_thread(self._memory.refresh)
        except MemoryFault as error:
            raise ServiceError(str(error)) from None
        self._again.update(dict.fromkeys(new, time.monotonic()))

    def report(self, model: str) -> Report:
        """What this worker has to say."""
        state = self._memory.state(model)
        active = self._active.get(model)
        candidate = None
        if state.rollout is not None:
            candidate = self._registry.find(model, str(state.rollout.candidate))
        fault = None if candidate is None or candidate.ready else candidate.fault or "it has no session"
        if active is None:
            return Report(state.seq, candidate is not None, fault, Figures())
        stable, theirs = _answered(active.pair.stable), _answered(active.pair.candidate)
        compared = Compared() if active.shadow is None else active.shadow[0].figures
        return Report(
            state.seq,
            candidate is not None,
            fault,
            Figures(stable - active.before[0], theirs - active.before[1], compared, history=stable),
        )

    async def reports(self, model: str) -> list[Report]:
        """What all workers that can be reached have to say, this one first."""
        replies = await self._siblings.ask("GET", PATH.format(model) + "/figures")
        theirs = [msgspec.json.decode(reply.body, type=Report) for reply in replies if reply.status == 200]
        return [self.report(model), *theirs]

    # Steps

    async def _order(self, model: str, step: Callable[[State], State], note: Note) -> None:
        self._registry.get(model)
        await self._step(model, step, await self._numbered(model, note))
        await self._follow(model)
        await self._tell(model)

    async def _numbered(self, model: str, note: Note) -> Note:
        try:
            figures = total(await self.reports(model))
        except SiblingFailed as error:
            log.warning("%s: the figures in the audit log are those of one worker: %s", model, error)
            figures = self.report(model).figures
        return Note(note.step, note.by, note.reason, numbers(figures))

    async def _step(self, model: str, step: Callable[[State], State], note: Note) -> None:
        before: list[State] = []

        def remembered(state: State) -> State:
            before.append(state)
            return step(state)

        try:
            after = await asyncio.to_thread(self._memory.change, model, remembered, note)
        except Refused as error:
            raise Conflict(f"model {model!r}: {error}") from None
        except MemoryFault as error:
            raise ServiceError(str(error)) from None
        if after.ending is not None and after.ending != before[-1].ending:
            self._metrics.ended(model, after.ending)

    def _backwards(self, model: str, by: str, reason: str, cause: Cause) -> Callable[[State], State]:
        def step(state: State) -> State:
            digest = "" if state.rollout is None else self._memory.digest(model, state.rollout.candidate)
            return states.roll_back(state, digest, by, cause, reason, time.time())

        return step

    async def _begin(self, model: str) -> None:
        """Every worker has the candidate."""

        def step(state: State) -> State:
            proposed = state.rollout is not None and state.rollout.at is None
            return states.begin(state, time.time()) if proposed else state

        await self._step(model, step, Note("begun", "all workers", "every worker has loaded it"))
        await self._follow(model)
        await self._tell(model)

    async def _tell(self, model: str) -> None:
        """Have the other workers follow. One that does not now does at its next look at the memory."""
        try:
            for reply in await self._siblings.ask("POST", PATH.format(model) + "/follow", timeout=None):
                if reply.status != 200:
                    log.warning("%s: a worker has not followed: %s", model, reply.error)
        except SiblingFailed as error:
            log.warning("%s: a worker has not followed: %s", model, error)

    # Following

    async def follow(self, model: str) -> None:
        """Read what another worker has written, and do it. Raises ServiceError where it cannot be read."""
        self._registry.get(model)
        await self._refresh()
        await self._follow(model)

    async def _follow(self, model: str) -> None:
        """Do what the memory says. A candidate that cannot be loaded here is rolled back, unless its store is away."""
        async with self._locks[model]:
            self._again.pop(model, None)
            state, serving = self._memory.state(model), self._registry.find(model)
            if serving is None or self._registry.unloaded(model):
                return
            unproven = {*state.rejected, *(() if state.rollout is None else (str(state.rollout.candidate),))}
            if serving.version in unproven:  # it was found before the step that concerns it: what is proven comes first
                await self._registry.sync(model)
            if state.rollout is not None:
                try:
                    await self._registry.serve_beside(model, state.rollout.candidate)
                except StoreError as error:
                    self._again[model] = time.monotonic() + AGAIN
                    log.warning("%s:%d waits for its store: %s", model, state.rollout.candidate, error)
                    return
                except (RepositoryError, LoadFailed) as error:
                    reason = f"a worker cannot load it: {error}"
                    back = self._backwards(model, BY_LIMITS, reason, "load")
                    await self._step(model, _if_still(state, back), Note("rolled back", BY_LIMITS, reason))
            state = self._memory.state(model)
            rollout, ending = state.rollout, state.ending
            followed = self._followed.get(model, State())
            self._followed[model] = state
            self._apply()
            if rollout is None and ending is not None and ending != followed.ending:
                log.info("%s:%d is %s: %s", model, ending.candidate, ending.result, ending.reason or f"asked by {ending.by}")
                await self._registry.settle(model, ending.leaving, f"{ending.result}: {ending.reason or ending.by}")
            elif rollout is None and followed.rollout is not None:
                await self._registry.settle(model, followed.rollout.candidate, "it is not being rolled out any more")

    def _apply(self) -> None:
        """Split and copy requests as the stages say, between the versions that serve now."""
        for model in {*self._memory.models(), *self._active}:
            rollout = self._memory.state(model).rollout
            pair = None if rollout is None else self._pair(model, rollout)
            active = self._active.get(model)
            if active is not None and active.pair != pair:
                self._end(model, self._active.pop(model))
            if rollout is not None and pair is not None and model not in self._active:
                self._active[model] = self._do(pair, rollout.limits)
            if (shown := self._shown.pop(model, None)) is not None:
                self._metrics.over(model, shown)
            if rollout is not None and self._registry.find(model) is not None:
                self._metrics.under_way(model, rollout)
                self._shown[model] = rollout.candidate

    def _pair(self, model: str, rollout: Rollout) -> Pair | None:
        """What is to stand side by side; None where one of the two does not serve here."""
        stable, candidate = self._registry.find(model), self._registry.find(model, str(rollout.candidate))
        if rollout.stage is None or stable is None or candidate is None or candidate is stable:
            return None
        return Pair(rollout.stage, rollout.since, stable, candidate)

    def _do(self, pair: Pair, limits: Limits) -> Active:
        stage, _, stable, candidate = pair
        shadow = None
        if stage.mode == "canary":
            self._registry.splits[stable.name] = Split(stable, candidate, stage.share)
        else:
            comparison = Comparison(stable.manifest, stable.candidate, candidate.manifest, candidate.candidate, limits.tolerance)
            counts = self._metrics.shadow(candidate.name, candidate.version)
            shadow = (Shadow(candidate, stage.share, comparison, counts), counts)
            stable.taps = (*stable.taps, shadow[0])
        return Active(pair, (_answered(stable), _answered(candidate)), shadow)

    def _end(self, model: str, active: Active) -> None:
        self._registry.splits.pop(model, None)
        if active.shadow is not None:
            shadow, counts = active.shadow
            active.pair.stable.taps = tuple(tap for tap in active.pair.stable.taps if tap is not shadow)
            shadow.close()
            counts.over()

    # Watching over it

    async def _run(self) -> None:
        for model in {entry.name for entry in self._registry.index()}:
            await self._safely(model, self.look(model))
        looked = time.monotonic()
        tended: dict[str, asyncio.Task[None]] = {}
        try:
            while True:
                await asyncio.sleep(TICK)
                try:
                    await self._refresh()
                except ServiceError as error:
                    log.error("rollouts stay as they are: %s", error)
                    continue
                now = time.monotonic()
                watches = 0 < self._watch <= now - looked
                if watches:
                    looked = now
                for model in {served.name for served in self._registry.models()}:
                    if model not in tended or tended[model].done():  # loading a version of one keeps no other waiting
                        tended[model] = asyncio.ensure_future(self._tend(model, watches))
        finally:
            for task in tended.values():
                task.cancel()

    async def _tend(self, model: str, watches: bool) -> None:
        if self._again.get(model, math.inf) <= time.monotonic():
            await self._safely(model, self._follow(model))
        if watches:
            await self._safely(model, self.look(model))
        if self._siblings.number == 0:  # when it dies, it is started again
            await self._safely(model, self._judge(model))

    async def _safely(self, model: str, step: Coroutine[Any, Any, None]) -> None:
        """What fails for one model concerns no other, and is tried again."""
        try:
            await step
        except (RepositoryError, LoadFailed):  # the registry has told of it, once
            pass
        except ServiceError as error:
            log.warning("%s: the rollout stays as it is: %s", model, error)
        except Exception:  # whatever it is, serving goes on
            log.exception("%s: the rollout stays as it is", model)

    async def _resume_all(self) -> None:
        """Before this worker is ready, so that it splits requests as the others do from the first one on."""
        for model in {entry.name for entry in self._registry.index()}:
            await self._safely(model, self._resume(model))

    async def _resume(self, model: str) -> None:
        """After loading: what serves is proven, where a rule is to tell newer versions from it; what was under way goes on."""
        await self._refresh()
        state, serving = self._memory.state(model), self._registry.find(model)
        if serving is not None and self._memory.rules.of(model) is not None and state.stable is None:
            adopt = partial(states.adopt, stable=int(serving.version))
            await self._step(model, adopt, Note("adopted", BY_RULE, "it served when rollouts began"))
        if state.rollout is not None:
            log.info("%s:%d is being rolled out (%s), and goes on", model, state.rollout.candidate, state.phase)
        self._followed.setdefault(model, State(ending=state.ending))
        await self._follow(model)

    async def _judge(self, model: str) -> None:
        state = self._memory.state(model)
        rollout = state.rollout
        if rollout is None or self._registry.unloaded(model):
            self._judges.pop(model, None)
            return
        reports = await self.reports(model)
        if any(report.seq != state.seq for report in reports):
            return  # one has yet to follow
        if (fault := next((report.fault for report in reports if report.fault is not None), None)) is not None:
            back = self._backwards(model, BY_LIMITS, fault, "session")
            await self._automatic(model, state, back, Note("rolled back", BY_LIMITS, fault))
            return
        stage = rollout.stage
        if stage is None:
            if all(report.loaded for report in reports):
                await self._begin(model)
            return
        figures = total(reports)
        known = self._judges.get(model)
        if known is None or known[0] != state.seq:
            self._judges[model] = (state.seq, Judge(stage, rollout.limits, rollout.since, Figures()))
            known = self._judges[model]
        verdict = known[1].see(figures, time.time())
        if verdict is None:
            return
        cause, reason = verdict
        on = partial(states.advance, by=BY_LIMITS, cause=cause, reason=reason, now=time.time())
        step = on if cause == "limits" else self._backwards(model, BY_LIMITS, reason, cause)
        what = "went on" if cause == "limits" else "rolled back"
        await self._automatic(model, state, step, Note(what, BY_LIMITS, reason, numbers(figures)))

    async def _automatic(self, model: str, seen: State, step: Callable[[State], State], note: Note) -> None:
        """Take a step that follows from a state, unless somebody has taken another one meanwhile."""
        await self._step(model, _if_still(seen, step), note)
        await self._follow(model)
        await self._tell(model)


def _answered(model: ServedModel) -> Answered:
    """Since it was loaded."""
    well, failed = model.statistics.success, model.statistics.fail
    return Answered(well.count + failed.count, failed.count, well.seconds, model.latencies())


def total(reports: list[Report]) -> Figures:
    """The figures of all workers together."""
    return sum((report.figures for report in reports), Figures())


def numbers(figures: Figures) -> dict[str, Any]:
    """Figures as people want to read them: shares, milliseconds."""
    return {
        "stable": _read(figures.stable),
        "candidate": _read(figures.candidate),
        "compared": msgspec.structs.asdict(figures.compared),
    }


def _read(answered: Answered) -> dict[str, Any]:
    times = {"mean_ms": answered.mean, "p99_ms": answered.p99}
    return {
        "requests": answered.requests,
        "failed": answered.failed,
        **{name: None if seconds is None else round(seconds * 1e3, 3) for name, seconds in times.items()},
    }


def _limits(given: Mapping[str, Any], base: Limits) -> Limits:
    try:
        return plan.limits_of(given, base)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _dry(step: Callable[[State], State], state: State) -> None:
    """Whether a step could be taken, before a version is loaded for it. Raises Conflict."""
    try:
        step(state)
    except Refused as error:
        raise Conflict(str(error)) from None


def _unless_under_way(step: Callable[[State], State]) -> Callable[[State], State]:
    """Another worker may have found the same version."""
    return lambda state: state if state.rollout is not None else step(state)


def _if_still(seen: State, step: Callable[[State], State]) -> Callable[[State], State]:
    """What follows from a state is not done once somebody has taken another step."""
    return lambda state: step(state) if state.seq == seen.seq else state
