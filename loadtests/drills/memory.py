"""Whether memory grows: loading and unloading ten thousand times, and sequences of every length for a long while."""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime as ort

from loadtests.calls import golden_calls
from loadtests.client import Load
from loadtests.drills.drill import Outcome, Setting
from loadtests.server import Server, resident
from modelrepo.repository import Repository
from modelrepo.tensors import Array
from runtime.goldens import costs, prove
from runtime.open import open_session
from tests import micro

SAMPLES = 50
FLAT = 100 * 1024  # bytes per thousand cycles: a hundred bytes a cycle, below which allocators' own noise hides anything
MIXED_RATE = 400.0


async def memory(setting: Setting) -> Outcome:
    """10,000 loads and unloads, and mixed shapes for --seconds: resident memory stays flat after warm-up."""
    outcome = Outcome()
    root = setting.folder / "models"
    micro.publish_double(root)
    for what, cycle in (
        ("a bare onnxruntime.InferenceSession", _bare),
        ("open, prove, close (modelrepo and runtime)", _runtime),
    ):
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:  # so that one cannot leave the other its heap
            samples = await asyncio.wrap_future(alone.submit(_cycles, cycle, root, setting.cycles))
        _judge(outcome, f"{what}, {setting.cycles} times", samples, "cycles")
    await _served(setting, outcome, root)
    await _mixed(setting, outcome)
    return outcome


def _bare(root: Path) -> None:
    """What ONNX Runtime does alone."""
    path = root / "double" / "1" / "model.onnx"
    ort.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": np.ones((1, 2), np.float32)})


def _runtime(root: Path) -> None:
    """Ours: read and check the version, open a session, run its goldens through every bucket, close."""
    published = Repository(root).open("double")
    inputs, outputs = published.goldens()
    file, artifact, candidate = next(iter(published.ways()))
    with open_session(file, artifact, candidate, published.manifest.signature) as session:
        prove(session, inputs, outputs, candidate.golden_tolerance)
        costs(session, inputs)


def _cycles(cycle: Callable[[Path], None], root: Path, cycles: int) -> list[tuple[int, int]]:
    """Run cycles, and sample this process's memory: (cycles so far, bytes)."""
    samples = []
    for number in range(1, cycles + 1):
        cycle(root)
        if number % max(1, cycles // SAMPLES) == 0:
            gc.collect()
            samples.append((number, resident()))
    return samples


async def _served(setting: Setting, outcome: Outcome, root: Path) -> None:
    """Load and unload by the endpoints of a real server, with a request in between."""
    calls = golden_calls(Repository(root), "double")
    samples = []
    async with Server(root, setting.log) as server:
        for number in range(1, setting.cycles + 1):
            for verb in ("unload", "load"):
                answer = await server.post(f"/v2/repository/models/double/{verb}")
                if answer.status != 200:
                    outcome.promise(f"{verb} in cycle {number}: {answer.status} {answer.body[:200].decode()}", False)
                    return
            if number % max(1, setting.cycles // SAMPLES) == 0:
                samples.append((number, server.resident()))
        descriptors = server.descriptors()
        async with Load(server.address, calls, 100) as load:
            await asyncio.sleep(1)
    outcome.row(f"requests after {setting.cycles} loads", load.report)
    outcome.notes.append(f"the server has {descriptors} open descriptors after the cycles")
    _judge(outcome, f"a server's load and unload, {setting.cycles} times", samples, "cycles")


async def _mixed(setting: Setting, outcome: Outcome) -> None:
    """Requests of 1 to 4 rows at every golden length of a sequence model, for a long while."""
    repository = Repository(setting.repository)
    sequences = [name for name in repository.models() if repository.open(name).manifest.signature.length]
    if not sequences:
        outcome.notes.append(f"no sequence model in {setting.repository}: mixed shapes left out")
        return
    calls = [call for name in sequences for rows in (1, 2, 3, 4) for call in golden_calls(repository, name, rows=rows)]
    samples = []
    async with Server(setting.repository, setting.log) as server, Load(server.address, calls, MIXED_RATE) as load:
        for _ in range(SAMPLES):
            await asyncio.sleep(setting.seconds / SAMPLES)
            samples.append((load.report.sent, server.resident()))
    outcome.row(f"mixed shapes of {', '.join(sequences)}", load.report)
    _judge(outcome, f"mixed shapes, {load.report.sent} requests", samples, "requests")


def _judge(outcome: Outcome, what: str, samples: list[tuple[int, int]], unit: str) -> None:
    """A straight line through the second half of the samples: before, arenas and caches fill.

    Of 20,000 cycles of a server, the first 10,000 took 2 MiB and the last 8,000 nothing.
    """
    number, size = (np.array(column, np.float64) for column in zip(*samples, strict=True))
    settled = number >= number[-1] / 2
    slope = float(np.polyfit(number[settled], size[settled], 1)[0]) * 1e3
    shown = ", ".join(f"{n:.0f}: {s / 2**20:.1f}" for n, s in _some(number, size))
    outcome.notes.append(f"{what}: MiB after {unit}: {shown}")
    outcome.promise(f"{what}: {slope / 1024:+.1f} KiB per 1,000 {unit}; {FLAT / 1024:g} is flat", slope <= FLAT)


def _some(number: Array, size: Array) -> Iterator[tuple[float, float]]:
    """About ten of the samples, the last one among them."""
    step = max(1, len(number) // 10)
    return zip(number[step - 1 :: step], size[step - 1 :: step], strict=True)
