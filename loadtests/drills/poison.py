"""Rows that make a run of the session fail, among rows that do not."""

from __future__ import annotations

import asyncio

from loadtests.calls import error_of
from loadtests.client import Load, Pool
from loadtests.drills.drill import Outcome, Setting
from loadtests.drills.models import lookup_calls, poisonous_lookup, publish_lookup
from loadtests.server import Server

RATE = 600.0  # of good rows; a run takes a millisecond or more, so that several share it
POISON = 50


async def poison(setting: Setting) -> Outcome:
    """Fifty rows that ONNX Runtime fails for, in batches with good ones: only theirs are errors, all others are answered."""
    outcome = Outcome()
    root = setting.folder / "models"
    publish_lookup(root)
    errors: list[tuple[int, str | None]] = []
    async with Server(root, setting.log, "--instances", "1") as server:  # beside another, rows would seldom meet
        pool = Pool(server.address)
        async with Load(server.address, lookup_calls(), RATE) as load:
            await asyncio.sleep(2)
            before = load.phase()
            for _ in range(POISON):
                response = await pool.exchange(poisonous_lookup())
                errors.append((response.status, error_of(response)))
                await asyncio.sleep(0.05)
            during = load.phase()
            await asyncio.sleep(2)
        pool.close()
        ready = await server.ready()
        rows, batches = [await server.metric(f"quartet_batch_rows_{part}") for part in ("sum", "count")]
    for phase, report in (("good rows alone", before), (f"with {POISON} poisonous rows", during), ("after", load.report)):
        outcome.row(phase, report)
    clear = all(status >= 400 and message for status, message in errors)
    outcome.promise(f"each poisonous row, and no other, got an error: {sorted({str(e) for e in errors})}", clear)
    outcome.promise(f"rows did share batches: {rows / batches:.1f} rows a batch", rows > 1.2 * batches)
    outcome.promise("the server is ready afterwards", ready)
    return outcome
