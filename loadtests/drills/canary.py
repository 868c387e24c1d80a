"""Versions of every kind are rolled out on two workers under load: the worse and the slow one go back, the good one takes over."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.calls import Call, infer_request
from loadtests.client import Load
from loadtests.drills.drill import Outcome, Setting, soon
from loadtests.server import Server
from tests import micro

RATE = 400.0
MODEL = "double"
FACTORS = {1: 2.0, 3: 3.0, 4: 3.0}  # by version; 2 is the worse one, which must answer nobody
PATH = f"/v2/repository/models/{MODEL}/rollout"
LIMITS = "requests=200 mean=3 promote=600 seconds=2"


async def canary(setting: Setting) -> Outcome:
    """A worse version is caught by its shadow, a slow one by its canary, a good one outlives a kill -9 and is promoted."""
    outcome = Outcome()
    root, state = setting.folder / "models", setting.folder / "state"
    micro.publish_double(root, MODEL)
    calls = [_call(value) for value in range(1, 9)]
    options = ("--workers", "2", "--rollout-state", str(state), "--rollout-limits", LIMITS)
    outcome.notes.append(f"--workers 2 --rollout-limits '{LIMITS}', {RATE:g} requests/s")
    async with Server(root, setting.log, *options) as server, Load(server.address, calls, RATE) as load:
        micro.publish_times(root, -2.0, MODEL)
        await _start(server, "shadow:50")
        last = await _ended(server)
        outcome.row("worse version in the shadow", shadow := load.phase())
        outcome.promise(f"the shadow caught it: {last['reason']}", last["cause"] == "disagreement")
        outcome.promise(f"version 1 alone answered: {dict(shadow.versions)}", set(shadow.versions) == {f"{MODEL}:1"})

        micro.publish_times(root, 3.0, MODEL, work=15)
        await _start(server, "canary:20")
        last = await _ended(server)
        outcome.row("slow version as canary", load.phase())
        outcome.promise(f"the canary was rolled back: {last['reason']}", last["cause"] == "latency")

        micro.publish_times(root, 3.0, MODEL)
        await _start(server, "canary:10", promote=None)
        outcome.row("good version as canary", load.phase())
    # The server was killed as its block ended; its workers have the port for a while.
    async with Server(root, setting.log, *options) as server, Load(server.address, calls, RATE) as load:

        async def resumed() -> bool:
            return f"{MODEL}:4" in load.report.versions

        outcome.promise("killed and started again, the canary goes on", await soon(resumed, 10))
        share = load.report.versions[f"{MODEL}:4"] / max(1, load.report.versions.total())
        outcome.row("killed, started again", load.phase())
        outcome.promise(f"and has no more than its share: {share:.0%}", share < 0.3)
        await server.post(f"{PATH}/rollback", {"reason": "to take it through all stages"})
        await _start(server, "shadow:50,canary:50", version=4)
        last = await _ended(server)
        outcome.row("good version through all stages", load.phase())
        outcome.promise(f"it was promoted: {last['reason']}", last["result"] == "promoted")
        await asyncio.sleep(0.5)
        load.phase()  # requests that were under way when it was promoted
        await asyncio.sleep(1)
    outcome.row("promoted", load.report)
    outcome.promise(f"it alone answers: {dict(load.report.versions)}", set(load.report.versions) == {f"{MODEL}:4"})
    outcome.promise("each step stands once in the audit log", _once_each(state / "audit.jsonl"))
    return outcome


def _call(value: int) -> Call:
    x = np.array([[value, -value]], np.float32)
    right = {str(version): {"logits": x * np.float32(factor)} for version, factor in FACTORS.items()}
    return Call(MODEL, infer_request(MODEL, {"x": x}), right, 1e-4)


async def _start(server: Server, stages: str, version: int | None = None, **limits: float | None) -> None:
    answer = await server.post(f"{PATH}/start", {"stages": stages, "version": version, "limits": limits, "by": "the drill"})
    if answer.status != 200:
        raise RuntimeError(f"start {stages}: {answer.status} {answer.body.decode()}")


async def _ended(server: Server) -> dict[str, Any]:
    """How the rollout that is under way ends, within 30 s; its state where it does not."""

    async def decided() -> bool:
        return (await _state(server))["rollout"] is None

    await soon(decided, 30)
    state = await _state(server)
    last: dict[str, Any] = state["last"] if state["rollout"] is None else {"cause": None, "result": None, "reason": str(state)}
    return last


async def _state(server: Server) -> dict[str, Any]:
    answer = await server.get(PATH)
    if answer.status != 200:
        raise RuntimeError(f"GET {PATH}: {answer.status} {answer.body.decode()}")
    state: dict[str, Any] = json.loads(answer.body)
    return state


def _once_each(path: Path) -> bool:
    seqs = [json.loads(line)["seq"] for line in path.read_text().splitlines()]
    return seqs == list(range(1, len(seqs) + 1))
