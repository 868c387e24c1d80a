"""What was measured, and what it comes to: medians over rounds, ratios within the run, tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One timing of one server in one round."""

    case: str
    server: str
    round: int
    requests_per_second: float = math.nan
    rows_per_second: float = math.nan
    p50_ms: float = math.nan
    p99_ms: float = math.nan
    fault: str | None = None
    """Why it does not count: a wrong answer, an error under load, a server that did not start."""


@dataclass(frozen=True)
class Start:
    """What a server took before it was asked for more than one answer, and what it held after."""

    server: str
    model: str
    round: int
    seconds: float
    """From the start of its process to the first answer."""
    resident_mib: float
    """After the last case, of all its processes, where memory that they share counts once for each."""
    proportional_mib: float
    """The same, where shared memory counts once."""


@dataclass
class Results:
    """Everything that goes into the JSON file."""

    facts: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    """Rows a second of ONNX Runtime alone: model, batch, processes, round, rows_per_second."""
    growth: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """As JSON; a number that there is not is null."""
        document: dict[str, Any] = _without_nan(asdict(self))
        return document

    def of(self, case: str, server: str) -> list[Figure]:
        """A server's figures in a case, round by round."""
        return [figure for figure in self.figures if (figure.case, figure.server) == (case, server)]

    def servers(self) -> list[str]:
        """All that have figures, in the order they were measured in."""
        return list(dict.fromkeys(figure.server for figure in self.figures))

    def cases(self) -> list[str]:
        """All that have figures, in the order they were measured in."""
        return list(dict.fromkeys(figure.case for figure in self.figures))


def middle(figures: Sequence[Figure], value: Callable[[Figure], float]) -> float:
    """The median over rounds; NaN where there is no figure, or one that does not count."""
    if not figures or any(figure.fault for figure in figures):
        return math.nan
    return median(map(value, figures))


def requests_per_second(figure: Figure) -> float:
    """For `middle`."""
    return figure.requests_per_second


def throughput(results: Results) -> str:
    """Requests a second: a row for each server, a column for each case."""
    return _by_case(results, requests_per_second, "requests/s", lambda value: f"{value:,.0f}")


def latency(results: Results) -> str:
    """Milliseconds, 50th and 99th percentile, of the same closed loops."""
    p50 = _by_case(results, lambda figure: figure.p50_ms, "p50 ms, closed loop", lambda value: f"{value:.2f}")
    p99 = _by_case(results, lambda figure: figure.p99_ms, "p99 ms, closed loop", lambda value: f"{value:.1f}")
    return f"{p50}\n\n{p99}"


def ratios(results: Results, ours: Sequence[str], ceilings: Sequence[str]) -> str:
    """Each of ours against the best of the others, the fixed answer and the raw loop: medians of rows, divided."""
    lines = []
    for case in results.cases():
        rates = {
            server: rate
            for server in results.servers()
            if not math.isnan(rate := middle(results.of(case, server), lambda figure: figure.rows_per_second))
        }
        peers = {server: rate for server, rate in rates.items() if server not in ceilings and server not in ours}
        best = max(peers, key=lambda server: peers[server], default=None)
        for server in ours:
            if server not in rates:
                continue
            against = [rates[server] / peers[best] if best else math.nan]
            against += [rates[server] / rates.get(ceiling, math.nan) for ceiling in ceilings]
            lines.append([case, server, best or "-", *(("-" if math.isnan(ratio) else f"{ratio:.2f}") for ratio in against)])
    return table(["case", "server", "best peer", "/ best peer", *(f"/ {ceiling}" for ceiling in ceilings)], lines)


def starts(results: Results, notes: dict[str, str]) -> str:
    """Start to first answer and memory: medians over models and rounds."""
    lines = []
    for server in dict.fromkeys(start.server for start in results.starts):
        own = [start for start in results.starts if start.server == server]
        values = [median(getattr(start, name) for start in own) for name in ("seconds", "resident_mib", "proportional_mib")]
        lines.append([server, f"{values[0]:.2f}", f"{values[1]:.0f}", f"{values[2]:.0f}", notes.get(server, "")])
    return table(["server", "start to first answer, s", "resident, MiB", "shared memory once, MiB", ""], lines)


def raw(results: Results) -> str:
    """The ceilings of ONNX Runtime."""
    kinds = list(dict.fromkeys((entry["batch"], entry["processes"]) for entry in results.raw))
    lines = []
    for model in dict.fromkeys(entry["model"] for entry in results.raw):
        cells = []
        for kind in kinds:
            rates = [e["rows_per_second"] for e in results.raw if (e["model"], e["batch"], e["processes"]) == (model, *kind)]
            cells.append(f"{median(rates):,.0f}" if rates else "-")
        lines.append([model, *cells])
    return table(["raw ONNX Runtime, rows/s", *(f"{batch}, {processes} x 1 thread" for batch, processes in kinds)], lines)


def growth(results: Results) -> str:
    """The curves of `growth`, a row for each point."""
    lines = []
    for point in results.growth:
        rates = [
            f"{point[name]:,.0f}" if point.get(name) else "-" for name in ("body_bytes", "requests_per_second", "rows_per_second")
        ]
        times = [f"{point[name]:.2f}" if point.get(name) else "-" for name in ("p50_ms", "p99_ms", "start_seconds")]
        memory = f"{point['resident']:.0f}" if "resident" in point else "-"
        lines.append([point["curve"], point["server"], str(point["at"]), *rates, *times, memory, point["fault"] or ""])
    header = [
        "growth of",
        "server",
        "to",
        "body, bytes",
        "requests/s",
        "rows/s",
        "p50 ms",
        "p99 ms",
        "start to ready, s",
        "resident, MiB",
    ]
    return table([*header, "fault"], lines)


def faults(results: Results) -> list[str]:
    """Every figure that does not count, and why."""
    found = [f"{figure.case}, {figure.server}, round {figure.round}: {figure.fault}" for figure in results.figures if figure.fault]
    return found + [f"{p['curve']} {p['at']}, {p['server']}: {p['fault']}" for p in results.growth if p["fault"]]


def table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose columns stand one under the other; all but the first and those of words to the right."""
    widths = [max(len(cell) for cell in column) for column in zip(header, *lines, strict=True)]
    numeric = [all(line[i][:1].isdigit() or line[i] in ("-", "invalid") for line in lines) for i in range(len(header))]
    numeric[0] = False

    def row(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = "|".join("-" * (width + 1) + ":" if right else "-" * (width + 2) for width, right in zip(widths, numeric, strict=True))
    return "\n".join([row(header), f"|{rule}|", *map(row, lines)])


def _by_case(results: Results, value: Callable[[Figure], float], title: str, show: Callable[[float], str]) -> str:
    cases = results.cases()
    lines = []
    for server in results.servers():
        cells = []
        for case in cases:
            figures = results.of(case, server)
            found = middle(figures, value)
            cells.append(
                "-" if not figures else "invalid" if any(f.fault for f in figures) else "-" if math.isnan(found) else show(found)
            )
        lines.append([server, *cells])
    return table([title, *cases], lines)


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nan(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_without_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value
