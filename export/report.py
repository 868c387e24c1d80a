"""report.json: what was measured while a version was made, and the table people read."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from export.candidates import Tried
from export.profile import Speed, speeds
from modelrepo.manifest import Machine, OnnxArtifact
from modelrepo.tasks import Metric
from modelrepo.tensors import Strict

REPORT = "report.json"


class Entry(Strict):
    """One way to serve. What could not be measured here is None, and `note` says why; `left_out` says why it is not served.

    `loss` is what the metric lost, `used` the largest share of a limit of the gate; `speeds` are at the usual length.
    """

    artifact: str
    format: str
    precision: str
    method: str
    size: int
    provider: str
    device: str
    metric: Metric | None
    loss: float | None
    agreement: float | None
    max_abs_error: float | None
    used: float | None
    speeds: tuple[Speed, ...]
    left_out: str
    note: str

    @property
    def fits(self) -> bool:
        """Whether this machine can run it."""
        return self.metric is not None


class LayerError(Strict):
    """The error at one node of an artifact, relative to the largest element of the node's output."""

    node: str
    operator: str
    error: float


class Report(Strict):
    """All measurements of one export, in the order in which a service tries what was kept; then what was left out."""

    model: str
    metric: Metric
    machine: Machine
    entries: tuple[Entry, ...]
    layers: dict[str, tuple[LayerError, ...]]
    notes: tuple[str, ...]


def entry(tried: Tried, usual_length: int | None) -> Entry:
    """What is reported of one way to serve."""
    artifact, candidate, compared = tried.artifact, tried.candidate, tried.comparison
    method = ""
    if isinstance(artifact, OnnxArtifact) and artifact.quantization:
        method = " ".join(filter(None, (artifact.quantization.scheme, artifact.quantization.method)))
    elif isinstance(artifact, OnnxArtifact) and artifact.optimized:
        method = "fused"
    return Entry(
        artifact=artifact.file.path,
        format="onnx" if isinstance(artifact, OnnxArtifact) else artifact.flavour,
        precision=candidate.precision,
        method=method,
        size=artifact.file.size,
        provider=candidate.provider,
        device=candidate.device,
        metric=compared.metric if compared else None,
        loss=compared.loss if compared else None,
        agreement=compared.agreement if compared else None,
        max_abs_error=compared.max_abs_error if compared else None,
        used=compared.proof.used if compared and compared.proof else None,
        speeds=speeds(candidate.costs, usual_length),
        left_out=tried.missed,
        note=tried.unmeasured,
    )


def print_tables(reports: list[tuple[Report, int]], console: Console) -> None:
    """A table for each model: one row for each way to serve it, in the order in which they are tried."""
    for report, version in reports:
        table = Table(box=None, header_style="bold", pad_edge=False, title_justify="left", title_style="bold")
        table.title = f"{report.model}:{version}, test {_metric(report.metric)}"
        for heading in ("runs on", "precision", "file"):
            table.add_column(heading, no_wrap=True)
        for heading in ("size", report.metric.name, "change", "worst diff", "margin", "batch 1", "best rows/s", "fits"):
            table.add_column(heading, justify="right", no_wrap=True)
        for line in report.entries:
            if not line.left_out:
                table.add_row(*_row(line))
        console.print(table)
        for line in report.entries:
            if line.left_out:
                _line(console, f"left out: {line.artifact} on {line.provider}: {line.left_out}")
        reasons = list(dict.fromkeys(line.note for line in report.entries if line.note))
        for text in (*(f"does not fit this machine: {reason}" for reason in reasons), *report.notes):
            _line(console, text)
        console.print()


def _line(console: Console, text: str) -> None:
    """Text that is not ours to mark up, cut nowhere."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _row(line: Entry) -> tuple[str, ...]:
    one = next((speed for speed in line.speeds if speed.batch == 1), None)
    best = max(line.speeds, key=lambda speed: speed.rows_per_second, default=None)
    return (
        line.provider,
        f"{line.precision} {line.method}".strip(),
        line.artifact,
        f"{line.size / 1000:,.0f} kB",
        "-" if line.metric is None else f"{line.metric.value:.4g}",
        "-" if line.loss is None else f"{0.0 - line.loss * 100:+.2f} pt",
        "-" if line.max_abs_error is None else f"{line.max_abs_error:.1e}",
        "-" if line.used is None else f"{1 - line.used:.0%}",
        "-" if one is None else f"{one.median_ms:.3f} ms",
        "-" if best is None else f"{best.rows_per_second:,.0f}",
        "yes" if line.fits else "no",
    )


def _metric(metric: Metric) -> str:
    if metric.floor is None:
        return f"{metric.name} {metric.value:.4g}"
    return f"{metric.name} {metric.value:.4g} ({'>=' if metric.better == 'higher' else '<='} {metric.floor:g})"
