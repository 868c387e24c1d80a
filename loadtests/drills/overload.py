"""Three times the load that the server can bear."""

from __future__ import annotations

import os

from loadtests.calls import golden_calls
from loadtests.clients import PROCESSES, Clients
from loadtests.drills.drill import Outcome, Setting
from loadtests.drills.models import publish_copy
from loadtests.server import Server
from modelrepo.repository import ModelVersion, Repository
from runtime.machine import cores
from service.loading import MOST_SESSIONS

TARGET = 4e-3  # seconds of all sessions that one request takes: far more than the client and HTTP do
QUEUED = 4  # requests that may wait
QUICK = 10.0  # milliseconds within which half of the refusals must be there, on cores that client and server share


async def overload(setting: Setting) -> Outcome:
    """Arrivals at three times the capacity: what is admitted stays within twice the p99 of 80 % load, the rest is refused."""
    outcome = Outcome()
    sessions = min(cores(), MOST_SESSIONS)  # as the server has them by default
    name, rows = _heaviest(Repository(setting.repository), TARGET * sessions)
    root = setting.folder / "models"
    publish_copy(setting.repository, name, root)
    calls = golden_calls(Repository(root), name, rows=rows, binary=True)
    queue = QUEUED * rows
    async with Server(root, setting.log, "--max-queue-rows", str(queue)) as server:
        with Clients(server.address) as clients:
            await clients.closed(calls, QUEUED, 1.0)  # warms the clients up, too
            closed = await clients.closed(calls, QUEUED, 5.0)
            capacity = len(closed.right) / closed.seconds
            outcome.notes += [
                f"{name}, {rows} rows a request, --max-queue-rows {queue}; {PROCESSES} client processes and the server share "
                f"{os.cpu_count()} cores",
                f"capacity: {capacity:.0f} requests/s ({capacity * rows:.0f} rows/s), {QUEUED} callers who each wait for an answer",
            ]
            calm = await clients.load(calls, 0.8 * capacity, setting.seconds / 2)
            early = await server.observed("quartet_request_seconds", "0.001")
            much = await clients.load(calls, 3 * capacity, setting.seconds)
            early = await server.observed("quartet_request_seconds", "0.001") - early
            after = await clients.load(calls, 0.5 * capacity, 5)
    outcome.row("80 % of capacity", calm)
    outcome.row(f"300 % for {setting.seconds:g} s", much)
    outcome.row("50 %, at once afterwards", after)
    outcome.notes.append(
        f"refused at 300 %: {dict(much.statuses)}, p50 {much.refused_ms(0.5):.1f} ms, p99 {much.refused_ms(0.99):.1f} ms; "
        f"answered {len(much.right) / setting.seconds:.0f} requests/s of {much.sent / setting.seconds:.0f} sent"
    )
    ratio = much.right_ms(0.99) / calm.right_ms(0.99)
    outcome.promise(f"p99 of the admitted is {ratio:.2f} times that at 80 %; 2 is allowed", ratio <= 2)
    refused = sum(much.statuses.values())
    text = f"at the server {min(1.0, early / refused):.2%} of the refusals took a millisecond at most; 99% are asked for"
    outcome.promise(text, early >= 0.99 * refused)
    outcome.promise(f"half of the refusals within {QUICK:g} ms", much.refused_ms(0.5) <= QUICK)
    goodput = len(much.right) / setting.seconds / capacity
    outcome.promise(f"it still answers {goodput:.0%} of its capacity; two thirds are asked for", goodput >= 2 / 3)
    return outcome


def _heaviest(repository: Repository, target: float) -> tuple[str, int]:
    """The model that works longest for a full batch, and how many rows of it take a session `target` seconds."""
    name, cost = max(((name, _costs(repository.open(name))) for name in repository.models()), key=lambda pair: pair[1][-1][1])
    return name, next((rows for rows, seconds in cost if seconds >= target), cost[-1][0])


def _costs(published: ModelVersion) -> list[tuple[int, float]]:
    """(rows, seconds) for the longest sequences, ascending, on the CPU as the exporter measured it."""
    best: dict[int, float] = {}
    for candidate in published.manifest.candidates:
        if candidate.device == "cpu":
            for cost in candidate.costs:
                best[cost.batch] = max(best.get(cost.batch, 0.0), cost.median_ms / 1e3)
    return sorted(best.items()) or [(1, 0.0)]
