"""MLPerf's scenarios, run by LoadGen: https://github.com/mlcommons/inference/tree/master/loadgen.

SingleStream    one row after the other, the next when the last is answered: how long an answer takes
Server          rows arrive as a Poisson process, whether or not others wait: the highest rate with p99 under a bound
Offline         all rows are there from the start: how many are answered in a second
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlperf_loadgen as loadgen

from loadtests.client import closed_loop
from loadtests.mlperf import search
from loadtests.mlperf.samples import Samples
from loadtests.mlperf.sut import CALLERS, HttpSut
from loadtests.report import Report

LEAST_QUERIES = 1000  # some 700 are what LoadGen wants at least to say something about p99 with confidence
PREFIX = ":::MLLOG "


@dataclass(frozen=True)
class Run:
    """One run of LoadGen: what it found, and what became of the requests."""

    found: dict[str, Any]
    """Its `result_…` entries, without that prefix."""
    report: Report

    @property
    def right(self) -> bool:
        """Whether every request was answered rightly, none refused."""
        return bool(self.report.right) and not self.report.refused and not self.report.lost

    @property
    def valid(self) -> bool:
        """Whether LoadGen lets it pass, and every answer is right."""
        return self.right and self.found["validity"] == "VALID"

    @property
    def figure(self) -> str:
        """What it was run for."""
        if "samples_per_second" in self.found:
            return f"{self.found['samples_per_second']:.0f} rows/s"
        return f"p50 {self.ms('50.00'):.2f} ms, p99 {self.ms('99.00'):.2f} ms"

    @property
    def verdict(self) -> str:
        """Valid, or why not."""
        if not self.right:
            return f"not valid: {len(self.report.refused)} refused, {self.report.lost.total()} lost"
        if self.valid:
            return "valid"
        if self.found.get("perf_constraints_met"):
            return "not valid: too few queries to be sure, give it more seconds"
        return "not valid"

    def ms(self, percentile: str) -> float:
        """LoadGen's own figure: `50.00`, `90.00`, `95.00`, `97.00`, `99.00` or `99.90`; Server's count from the planned arrival."""
        return float(self.found[f"{percentile}_percentile_latency_ns"]) / 1e6


@dataclass(frozen=True)
class Bench:
    """Where the scenarios of one model take place."""

    address: tuple[str, int]
    samples: Samples
    seconds: float
    """Of each run, at least."""
    folder: Path
    """LoadGen's logs go to a folder for each run in it."""
    lost: Counter[str]
    """Requests of every run that were answered wrongly or not at all, by reason."""
    say: Callable[[str], None]
    """Takes a line on what each run found."""

    async def single_stream(self) -> Run:
        """Latency of one row at a time."""
        settings = self._settings(loadgen.TestScenario.SingleStream)
        settings.min_query_count = LEAST_QUERIES
        settings.single_stream_target_latency_percentile = 0.99
        return await self._run("single-stream", settings)

    async def offline(self) -> Run:
        """Rows a second, as many in a request as the server computes at once."""
        callers = await closed_loop(self.address, self.samples.calls(self.samples.max_batch), CALLERS, self.seconds / 5)
        settings = self._settings(loadgen.TestScenario.Offline)
        settings.min_query_count = 1
        settings.offline_expected_qps = max(1.0, 1.2 * len(callers.right) * self.samples.max_batch / callers.seconds)
        return await self._run("offline", settings, self.samples.max_batch)

    async def server(self, p99_ms: float) -> tuple[float, Run] | None:
        """The highest rate at which LoadGen finds p99 under the bound, and its run; None where there is none."""
        borne: dict[float, Run] = {}
        for old in self.folder.glob("server-*"):  # runs at other rates would look as if they belonged to these
            shutil.rmtree(old)

        async def bears(rate: float) -> bool:
            settings = self._settings(loadgen.TestScenario.Server)
            settings.min_query_count = LEAST_QUERIES
            settings.server_target_qps = rate
            settings.server_target_latency_ns = round(p99_ms * 1e6)
            settings.server_target_latency_percentile = 0.99
            run = await self._run(f"server-{rate:.0f}", settings)
            if run.valid:
                borne[rate] = run
            return run.valid

        callers = await closed_loop(self.address, self.samples.calls(), CALLERS, self.seconds / 5)
        rate = await search.highest(bears, len(callers.right) / callers.seconds) if callers.right else None
        return None if rate is None else (rate, borne[rate])

    def _settings(self, scenario: Any) -> Any:
        settings = loadgen.TestSettings()
        settings.scenario = scenario
        settings.mode = loadgen.TestMode.PerformanceOnly
        settings.min_duration_ms = round(self.seconds * 1e3)
        return settings

    async def _run(self, name: str, settings: Any, batch: int = 0) -> Run:
        folder = self.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        log = loadgen.LogSettings()
        log.log_output.outdir = str(folder)
        log.log_output.copy_summary_to_stdout = False
        log.enable_trace = False
        client = HttpSut(self.address, self.samples, batch)
        await asyncio.to_thread(_start, client, len(self.samples.rows), settings, log)
        report = await client.report()
        self.lost.update(report.lost)
        run = Run(_found(folder / "mlperf_log_detail.txt"), report)
        self.say(f"  {name}: {run.figure}, {run.verdict}")
        return run


def _start(client: HttpSut, rows: int, settings: Any, log: Any) -> None:
    """Run LoadGen to its end, whoever waits for that: it must not lose what it works on meanwhile."""
    sut = loadgen.ConstructSUT(client.issue, client.flush)
    library = loadgen.ConstructQSL(rows, rows, lambda _: None, lambda _: None)  # the rows are in memory all the time
    try:
        loadgen.StartTestWithLogSettings(sut, library, settings, log)
    finally:
        loadgen.DestroyQSL(library)
        loadgen.DestroySUT(sut)


def _found(log: Path) -> dict[str, Any]:
    entries = [json.loads(line.removeprefix(PREFIX)) for line in log.read_text().splitlines() if line.startswith(PREFIX)]
    return {entry["key"].removeprefix("result_"): entry["value"] for entry in entries if entry["key"].startswith("result_")}
