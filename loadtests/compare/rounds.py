"""Interleaved rounds: server A, server B, …, and again; each started, checked, warmed, timed and stopped."""

from __future__ import annotations

import http.client
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loadtests.calls import Response
from loadtests.compare import raw, wrk
from loadtests.compare.cases import CASES, Case, rows
from loadtests.compare.interfaces import Interface
from loadtests.compare.models import Served
from loadtests.compare.process import Process
from loadtests.compare.results import Figure, Results, Start
from loadtests.compare.servers import RAW, Quartet, Server
from loadtests.server import NotStarted
from modelrepo.tensors import Array, Tensors

TOLERANCE = 1e-3  # of fp32 outputs; what is served in fewer bits may be as far off as its golden rows allow


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    seconds: float
    """Of each timing."""
    warm_up: float
    """Seconds of the same load before it."""
    rounds: int
    venvs: Path
    logs: Path
    tell: Callable[[str], None]


def measure(
    plan: Plan,
    served: Sequence[Served],
    cases: Sequence[Case],
    servers: Sequence[Server],
    with_raw: bool,
    results: Results,
    save: Callable[[], None],
) -> None:
    """All rounds; `save` is called after each server."""
    for number in range(1, plan.rounds + 1):
        for model in served:
            own = [case for case in cases if case.model == model.name]
            if with_raw:
                _measure_raw(plan, number, model, own, results)
                save()
            for server in servers:
                _measure_server(plan, number, model, own, server, results)
                save()


def right_answers(served: Served, requests: Sequence[Tensors]) -> list[Array]:
    """The outputs of ONNX Runtime in fp32 for the rows of each request."""
    session = raw.session(served.onnx)
    return [session.run([served.version.manifest.task.output], inputs)[0] for inputs in requests]


def tolerance(served: Served, server: Server) -> float:
    """How far a server's outputs may be from those of ONNX Runtime in fp32."""
    if isinstance(server, Quartet) and server.way == "fastest":
        return max(candidate.golden_tolerance for candidate in served.version.manifest.candidates if candidate.device == "cpu")
    return TOLERANCE


def first_fault(
    process: Process, interface: Interface, served: Served, requests: Sequence[bytes], expected: Sequence[Array], allowed: float
) -> str | None:
    """What is wrong with the answers to these requests, sent one after the other; None where all are right."""
    for request, right in zip(requests, expected, strict=True):
        try:
            response: Response = process.ask(request)
        except (OSError, http.client.HTTPException) as error:
            return f"no answer: {type(error).__name__}: {error}"
        if fault := interface.fault(response, right, served.version.manifest.task, allowed):
            return fault
    return None


def _measure_server(plan: Plan, number: int, served: Served, cases: Sequence[Case], server: Server, results: Results) -> None:
    cases = [case for case in cases if server.interfaces(case)]
    if not cases:
        return
    log = plan.logs / f"{server.name.replace(' ', '_').replace('/', '_')}-{served.name}.log"
    first = rows(cases[0], served)[0]
    try:
        with server.process(served, plan.venvs, log) as process:
            process.wait(server.interfaces(cases[0])[""].request(first))
            for case in cases:
                for suffix, interface in server.interfaces(case).items():
                    figure = _time(plan, number, served, case, server, suffix, interface, process)
                    results.figures.append(figure)
                    plan.tell(_line(figure))
            memory = process.memory()
    except NotStarted as error:
        plan.tell(f"{server.name} with {served.name} did not start: {error}")
        fault = f"did not start: {str(error).splitlines()[0]}"
        results.figures.extend(Figure(case.name, server.name, number, fault=fault) for case in cases)
        return
    results.starts.append(
        Start(server.name, served.name, number, process.start_seconds, memory["resident"], memory["proportional"])
    )


def _time(
    plan: Plan, number: int, served: Served, case: Case, server: Server, suffix: str, interface: Interface, process: Process
) -> Figure:
    inputs = rows(case, served)
    requests = [interface.request(request) for request in inputs]
    name = server.name + suffix
    fault = first_fault(process, interface, served, requests, right_answers(served, inputs), tolerance(served, server))
    if fault:
        return Figure(case.name, name, number, fault=fault)
    try:
        wrk.load(process.port, requests, case.connections, plan.warm_up)
        load = wrk.load(process.port, requests, case.connections, plan.seconds)
    except wrk.WrkError as error:
        return Figure(case.name, name, number, fault=str(error))
    fault = ", ".join(f"{count} x {kind}" for kind, count in load.errors.items()) or None
    if not fault:  # it must still be right after the load
        fault = first_fault(process, interface, served, requests[:1], right_answers(served, inputs[:1]), tolerance(served, server))
    return Figure(case.name, name, number, load.per_second, load.per_second * case.rows, load.p50, load.p99, fault)


def _measure_raw(plan: Plan, number: int, served: Served, cases: Sequence[Case], results: Results) -> None:
    """Batches of 1 and of many on one thread and on two, and for each case what comes nearest to it on two."""
    single = next(case for case in CASES if case.model == served.name)
    one = rows(single, served)
    many = rows(Case("raw", served.name, 1, rows=raw.MANY), served)
    kinds: list[tuple[str, list[Tensors], int]] = [
        (label, batches, processes) for label, batches in (("1 row", one), (f"{raw.MANY} rows", many)) for processes in (1, 2)
    ]
    if any(case.mixed for case in cases):
        mixed = rows(Case("raw", served.name, 1, rows=raw.MANY, mixed=True), served)
        kinds.append((f"{raw.MANY} mixed, padded", mixed, 2))
        kinds.append(("1 of mixed length", [_alone(batch, row) for batch in mixed[:4] for row in range(raw.MANY)], 2))
    rates: dict[str, float] = {}
    for label, batches, processes in kinds:
        rate = raw.rows_per_second(served.onnx, batches, processes, plan.seconds / 2)
        entry = {"model": served.name, "batch": label, "processes": processes, "round": number, "rows_per_second": rate}
        results.raw.append(entry)
        plan.tell(f"raw {served.name}, {label}, {processes} processes: {rate:,.0f} rows/s")
        rates[label] = rate
    for case in cases:
        near = (
            [f"{raw.MANY} mixed, padded"]
            if case.mixed
            else [f"{raw.MANY} rows"]
            if case.rows > 1
            else ["1 row", f"{raw.MANY} rows"]
        )
        rate = max(rates[label] for label in near)
        results.figures.append(Figure(case.name, RAW, number, rate / case.rows, rate))


def _alone(batch: Tensors, row: int) -> Tensors:
    """One row of a batch, without its padding."""
    length = int(batch["mask"][row].sum())
    return {name: np.ascontiguousarray(array[row : row + 1, :length]) for name, array in batch.items()}


def _line(figure: Figure) -> str:
    if figure.fault:
        return f"round {figure.round} {figure.case:<15} {figure.server:<24} INVALID: {figure.fault}"
    rate = f"{figure.requests_per_second:>9,.0f} requests/s"
    tail = "" if math.isnan(figure.p50_ms) else f"  p50 {figure.p50_ms:8.2f} ms  p99 {figure.p99_ms:8.1f} ms"
    return f"round {figure.round} {figure.case:<15} {figure.server:<24} {rate}{tail}"
