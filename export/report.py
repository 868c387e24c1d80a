"""report.json: what was measured while a version was made, and the table people read."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table

from export.profile import Latency
from modelrepo.manifest import Artifact, OnnxArtifact, Parity
from modelrepo.tasks import Metric
from modelrepo.tensors import Strict

REPORT = "report.json"


class Machine(Strict):
    """Where the measurements were made."""

    processor: str
    cores: int
    platform: str


class ArtifactReport(Strict):
    """One artifact on one provider; what could not be measured here is None and the note says why."""

    file: str
    format: str
    precision: str
    size: int
    provider: str | None
    metric: Metric | None
    parity: Parity | None
    latency: Latency | None
    note: str


class Report(Strict):
    """All measurements of one export."""

    model: str
    metric: Metric
    machine: Machine
    artifacts: tuple[ArtifactReport, ...]
    notes: tuple[str, ...]


def machine() -> Machine:
    """Facts of this machine."""
    processor = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux, or a processor without a name: the architecture must do
    return Machine(processor=processor, cores=len(os.sched_getaffinity(0)), platform=platform.platform())


def name_of(artifact: Artifact) -> str:
    """`onnx`, `tensorrt` or `tensorrt-rtx`."""
    return "onnx" if isinstance(artifact, OnnxArtifact) else artifact.flavour


def print_table(reports: list[tuple[Report, int]], console: Console) -> None:
    """One row per artifact and provider: metric against its floor, size, worst difference from PyTorch, latency at batch 1."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("model", "test metric (floor)", "artifact"):
        table.add_column(heading, no_wrap=True)
    for heading in ("size", "worst diff", "batch 1, median"):
        table.add_column(heading, justify="right", no_wrap=True)
    footnotes: list[str] = []
    for report, version in reports:
        for entry in report.artifacts:
            mark = ""
            if entry.note:
                if entry.note not in footnotes:
                    footnotes.append(entry.note)
                mark = f" [{footnotes.index(entry.note) + 1}]"
            table.add_row(
                f"{report.model}:{version}",
                "-" if entry.metric is None else _metric(entry.metric),
                f"{entry.provider or entry.format} {entry.precision}{mark}".replace("[", "\\["),
                f"{entry.size / 1000:,.0f} kB",
                "not proven" if entry.parity is None else f"{entry.parity.max_error:.1e}",
                "-" if entry.latency is None else f"{entry.latency.median_ms:.3f} ms",
            )
        footnotes += [note for note in report.notes if note not in footnotes]
    console.print(table)
    for number, note in enumerate(footnotes, 1):
        console.print(f"[{number}] {note}", markup=False, highlight=False)


def _metric(metric: Metric) -> str:
    if metric.floor is None:
        return f"{metric.name} {metric.value:.4g}"
    return f"{metric.name} {metric.value:.4g} ({'>=' if metric.better == 'higher' else '<='} {metric.floor:g})"
