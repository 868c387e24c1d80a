"""All tables of a run, and the facts without which they mean nothing."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.compare import results
from loadtests.compare.models import Served
from loadtests.compare.results import Results
from loadtests.compare.servers import CEILINGS, PEERS, RAW, quartets
from runtime.machine import machine

NOTES = {
    RAW: "a ceiling: ONNX Runtime in a loop, two processes",
    **{peer.name: peer.note for peer in PEERS},
    **{server.name: server.note for server in quartets([""])},
}


def facts(
    seconds: float, warm_up: float, rounds: int, versions: Mapping[str, Mapping[str, str]], served: Mapping[str, Served]
) -> dict[str, Any]:
    """The machine, how it was measured, the versions in each peer's environment, the models."""
    return {
        "machine": machine().model_dump(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": sys.version.split()[0],
        "date": time.strftime("%Y-%m-%d"),
        "seconds": seconds,
        "warm_up": warm_up,
        "rounds": rounds,
        "peers": dict(versions),
        "models": {name: {"onnx_bytes": model.onnx.stat().st_size, "fastest": model.fastest_way} for name, model in served.items()},
    }


def report(found: Results, ours: Sequence[str]) -> str:
    """Markdown; `ours` are the names of our servers, which those of our interfaces begin with."""
    blocks = ["\n".join(f"- {line}" for line in _lines(found.facts))]
    if found.figures:
        all_ours = [server for server in found.servers() if server.startswith(tuple(ours))]
        blocks += [results.throughput(found), results.ratios(found, all_ours, CEILINGS), results.latency(found)]
    if found.starts:
        blocks.append(results.starts(found, NOTES))
    if found.raw:
        blocks.append(results.raw(found))
    if found.growth:
        blocks.append(results.growth(found))
    if wrong := results.faults(found):
        blocks.append("Figures that do not count:\n\n" + "\n".join(f"- {line}" for line in wrong))
    return "\n\n".join(blocks)


def _lines(facts: Mapping[str, Any]) -> list[str]:
    computer = facts["machine"]
    runs = ", ".join(f"{name} {version}" for name, version in computer["versions"].items())
    return [
        f"{computer['cores']} cores of {computer['processor']}, {facts['memory_gib']} GiB, {computer['platform']}",
        f"Python {facts['python']}, {runs}; {facts['date']}",
        f"median of {facts['rounds']} interleaved rounds of {facts['seconds']:g} s after {facts['warm_up']:g} s of warm-up; "
        "wrk with one thread on the same machine, a closed loop; answers checked first",
        *(f"{name}: fastest way that passed: {model['fastest']}" for name, model in facts["models"].items()),
        *(f"{name}: {', '.join(f'{p} {v}' for p, v in packages.items())}" for name, packages in facts["peers"].items() if packages),
    ]
