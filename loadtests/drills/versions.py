"""New versions under load: a good one, a torn one, and a repository that is not there for a while."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import msgspec

from loadtests.calls import Call, Response, error_of, golden_calls
from loadtests.client import Load
from loadtests.drills.drill import Outcome, Setting, soon
from loadtests.drills.models import publish_copy, publish_scale, publish_torn, scale_calls
from loadtests.server import Server
from modelrepo.repository import Repository

RATE = 200.0
WATCH = ("--watch", "0.2")


async def hot_swap(setting: Setting) -> Outcome:
    """Version 2 is published and loaded by the endpoint while requests run: nothing is lost, answers go from 1 to 2."""
    outcome = Outcome()
    root, real = _repository(setting)
    calls = _calls(root, real, (1, 2))
    async with Server(root, setting.log) as server:
        async with Load(server.address, calls, RATE) as load:
            await asyncio.sleep(3)
            before = load.phase()
            await asyncio.to_thread(publish_scale, root)
            await asyncio.to_thread(publish_copy, root, real, root)
            answers = [await server.post(f"/v2/repository/models/{name}/load") for name in ("scale", real)]
            during = load.phase()
            await asyncio.sleep(3)
        for phase, report in (("version 1", before), ("publish and load", during), ("version 2", load.report)):
            outcome.row(phase, report)
    outcome.promise(f"load answered 200 for both models: {[_said(a) for a in answers]}", all(a.status == 200 for a in answers))
    outcome.promise(f"before, version 1 answered: {dict(before.versions)}", set(before.versions) == {"scale:1", f"{real}:1"})
    after = set(load.report.versions)
    outcome.promise(f"once loaded, version 2 and no other: {dict(load.report.versions)}", after == {"scale:2", f"{real}:2"})
    return outcome


async def corrupt(setting: Setting) -> Outcome:
    """Version 3 has a torn file: load says so, the index too, version 2 goes on; watching, a good version 4 is picked up."""
    outcome = Outcome()
    root, real = _repository(setting)
    await asyncio.to_thread(publish_copy, root, real, root)
    async with Server(root, setting.log) as server:
        async with Load(server.address, _calls(root, real, (1, 2)), RATE) as load:
            torn = await asyncio.to_thread(publish_torn, root, real)
            answer = await server.post(f"/v2/repository/models/{real}/load")
            entry = await _index_entry(server, real, "3")
            await asyncio.sleep(2)
        outcome.row("torn version 3 loaded by the endpoint", load.report)
    _judge_torn(outcome, f"load answered with an error that says why: {_said(answer)}", answer, entry)
    outcome.promise(f"version 2 went on: {dict(load.report.versions)}", f"{real}:2" in load.report.versions)

    shutil.rmtree(torn)  # a server whose newest version is torn need not start
    async with Server(root, setting.log, *WATCH) as server:
        async with Load(server.address, _calls(root, real, (1, 2, 3, 4)), RATE) as load:
            await asyncio.to_thread(publish_torn, root, real)
            listed = await soon(lambda: _listed_with_reason(server, real, "3"), 10)
            before = load.phase()
            await asyncio.to_thread(publish_copy, root, real, root, 2)
            picked_up = await soon(lambda: _is_ready(server, real, "4"), 10)
            during = load.phase()
            await asyncio.sleep(2)
        for phase, report in (("watching, torn version 3", before), ("good version 4 appears", during), ("after", load.report)):
            outcome.row(phase, report)
    outcome.promise("watching, the index shows the torn version 3 with its reason within 10 s", listed)
    outcome.promise("watching, version 4 was picked up within 10 s", picked_up)
    outcome.promise(f"then version 4 answered: {dict(load.report.versions)}", f"{real}:4" in load.report.versions)
    outcome.promise("never version 3", not any(f"{real}:3" in r.versions for r in (before, during, load.report)))
    return outcome


async def repository_gone(setting: Setting) -> Outcome:
    """The repository's folder is renamed away while serving, and back: serving goes on, errors are clear, watching goes on."""
    outcome = Outcome()
    root, real = _repository(setting)
    async with Server(root, setting.log, *WATCH) as server:
        async with Load(server.address, _calls(root, real, (1, 2)), RATE) as load:
            away = root.rename(root.with_name("away"))
            await asyncio.sleep(2)
            index = await server.post("/v2/repository/index")
            answer = await server.post(f"/v2/repository/models/{real}/load")
            ready = await server.ready()
            gone = load.phase()
            away.rename(root)
            await asyncio.to_thread(publish_scale, root)
            picked_up = await soon(lambda: _is_ready(server, "scale", "2"), 10)
            back = load.phase()
            await asyncio.sleep(2)
        for phase, report in (("folder gone", gone), ("folder back, version 2 appears", back), ("after", load.report)):
            outcome.row(phase, report)
    outcome.promise("the server stayed ready", ready)
    clear = index.status == 200 or bool(error_of(index))
    outcome.promise(f"index lists what serves, or says what is wrong: {index.status} {index.body[:150].decode()}", clear)
    outcome.promise(f"load says that the repository is gone: {_said(answer)}", answer.status >= 400 and bool(error_of(answer)))
    outcome.promise("once back, version 2 was picked up within 10 s", picked_up)
    return outcome


def _repository(setting: Setting) -> tuple[Path, str]:
    """A repository to do harm to: version 1 of the tiny scale model and of a real one, whose name is returned."""
    root = setting.folder / "models"
    real = Repository(setting.repository).models()[0]
    publish_copy(setting.repository, real, root)
    publish_scale(root)
    return root, real


def _calls(root: Path, real: str, versions: tuple[int, ...]) -> list[Call]:
    return golden_calls(Repository(root), real, versions) + scale_calls(versions)


def _judge_torn(outcome: Outcome, text: str, answer: Response, entry: dict[str, Any] | None) -> None:
    outcome.promise(text, answer.status >= 400 and "model.onnx" in (error_of(answer) or ""))
    shown = entry is not None and entry["state"] != "READY" and bool(entry["reason"])
    outcome.promise(f"the index shows version 3 with its reason: {entry}", shown)


async def _index_entry(server: Server, name: str, version: str) -> dict[str, Any] | None:
    """A version's line of the repository index, None where there is none."""
    answer = await server.post("/v2/repository/index")
    if answer.status != 200:
        return None
    entries = msgspec.json.decode(answer.body, type=list[dict[str, Any]])
    return next((entry for entry in entries if (entry["name"], str(entry.get("version"))) == (name, version)), None)


async def _listed_with_reason(server: Server, name: str, version: str) -> bool:
    entry = await _index_entry(server, name, version)
    return entry is not None and entry["state"] != "READY" and bool(entry["reason"])


async def _is_ready(server: Server, name: str, version: str) -> bool:
    entry = await _index_entry(server, name, version)
    return entry is not None and entry["state"] == "READY"


def _said(answer: Response) -> str:
    return f"{answer.status} {answer.body[:200].decode(errors='replace')}".strip()
