"""What more costs Quartet: longer bodies, more connections, more models. Curves, in which a cliff would show."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from loadtests.compare import wrk
from loadtests.compare.cases import Case, rows
from loadtests.compare.interfaces import Interface
from loadtests.compare.models import Served, publish_as
from loadtests.compare.process import Process
from loadtests.compare.rounds import TOLERANCE, Plan, first_fault, right_answers
from loadtests.compare.servers import Quartet
from modelrepo.repository import Repository

ROWS = tuple(2**n for n in range(12))  # of the MLP: bodies of half a kilobyte to a megabyte
CONNECTIONS = (1, 4, 16, 64, 256, 1000)
MODELS = (1, 2, 5, 10, 20, 50)
READY = b"GET /v2/health/ready HTTP/1.1\r\nHost: quartet\r\n\r\n"

Entry = dict[str, Any]


def measure(plan: Plan, names: Sequence[str], served: Served, servers: Sequence[Quartet], keep: Callable[[Entry], None]) -> None:
    """The named curves of each of these servers; `keep` gets every point as it is measured. Raises NotStarted."""
    for server in servers:
        log = plan.logs / f"{server.name.replace(' ', '_').replace('/', '_')}-growth.log"

        def point(
            curve: str, at: int, process: Process, case: Case, models: Sequence[str], more: Entry, server: Quartet = server
        ) -> None:
            entry = {"curve": curve, "server": server.name, "at": at, **more, **_load(plan, served, case, models, process)}
            keep(entry)
            plan.tell(
                ", ".join(f"{key} {value:,.5g}" if isinstance(value, float) else f"{key} {value}" for key, value in entry.items())
            )

        if {"growth-bodies", "growth-connections"} & set(names):
            with server.process(served, plan.venvs, log) as process:
                process.wait(READY)
                for count in ROWS if "growth-bodies" in names else ():
                    point("bodies", count, process, Case("", served.name, 1, rows=count, bodies=4), [served.name], {})
                for count in CONNECTIONS if "growth-connections" in names else ():
                    point("connections", count, process, Case("", served.name, count), [served.name], {})
        for count in MODELS if "growth-models" in names else ():
            with tempfile.TemporaryDirectory(prefix="quartet-growth-") as folder:
                names_of_models = [f"{served.name}-{number}" for number in range(count)]
                source = Repository(served.fp32 if server.way == "fp32" else served.fastest).open(served.name)
                for name in names_of_models:
                    publish_as(source, name, Path(folder))
                with server.process(served, plan.venvs, log, Path(folder)) as process:
                    process.wait(READY)
                    more = {"start_seconds": process.start_seconds, **process.memory()}
                    point("models", count, process, Case("", served.name, 16), names_of_models, more)


def _load(plan: Plan, served: Served, case: Case, models: Sequence[str], process: Process) -> Entry:
    """One timing, spread evenly over models that are all copies of `served`."""
    inputs = rows(case, served)
    expected = right_answers(served, inputs)
    requests = []
    fault = None
    for model in models:
        interface = Interface("labels", f"/models/{model}/predict")
        asked = [interface.request(request) for request in inputs]
        fault = fault or first_fault(process, interface, served, asked, expected, TOLERANCE)
        requests.append(asked)
    body = len(requests[0][0].partition(b"\r\n\r\n")[2])
    if fault:
        return {"body_bytes": body, "fault": fault}
    # In turn over models, each time with another of its bodies.
    mixed = [requests[turn % len(models)][turn // len(models) % case.bodies] for turn in range(max(len(models), case.bodies) * 2)]
    try:
        wrk.load(process.port, mixed, case.connections, plan.warm_up)
        load = wrk.load(process.port, mixed, case.connections, plan.seconds)
    except wrk.WrkError as error:
        return {"body_bytes": body, "fault": str(error)}
    return {
        "body_bytes": body,
        "requests_per_second": load.per_second,
        "rows_per_second": load.per_second * case.rows,
        "p50_ms": load.p50,
        "p99_ms": load.p99,
        "fault": ", ".join(f"{count} x {kind}" for kind, count in load.errors.items()) or None,
    }
