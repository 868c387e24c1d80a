"""report.json, report.html and reproduce.sh: a version that explains itself, in three files that need nothing else."""

from __future__ import annotations

import io
import json
import shlex
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from export.report import REPORT, Entry, Report
from training.checkpoint import Facts
from training.pictures.canvas import COLOURS, GREY, paper, tidy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = "report.html"
SCRIPT = "reproduce.sh"


def write(folder: Path, report: Report, facts: Facts, command: str) -> None:
    """Write the three files into a version's folder. `command` is the options of `python -m export` that made it."""
    (folder / REPORT).write_text(report.model_dump_json(indent=2) + "\n", encoding="utf-8")
    script = reproduce(report, facts, command)
    (folder / SCRIPT).write_text(script, encoding="utf-8")
    (folder / SCRIPT).chmod(0o755)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(files("export").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    pictures = {
        "Error at every node": errors_by_layer(report),
        "Latency by batch size": latency(report),
        "Quality and latency": quality(report),
    }
    page = template.render(
        report=report,
        facts=facts,
        config=json.dumps(facts.config, indent=2),
        pictures={title: _svg(figure) for title, figure in pictures.items() if figure is not None},
        script=script,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")


def reproduce(report: Report, facts: Facts, command: str) -> str:
    """A shell script that trains and exports the model again: the same weights to the bit on a machine of the same kind."""
    lines = [
        "#!/bin/sh",
        f"# Trains and exports {report.model} again. Run it in a clone of Quartet, with its data at hand.",
        "set -eu",
    ]
    if facts.git_commit:
        lines.append(f"git checkout {facts.git_commit}" + ("  # and changes that were not committed" if facts.git_dirty else ""))
    libraries = sorted(name for name in facts.versions if name not in ("python", "quartet"))
    lines.append(f"# Python {facts.versions.get('python', '?')}; versions that may change the figures:")
    lines.append("pip install " + " ".join(shlex.quote(f"{name}=={_public(facts.versions[name])}") for name in libraries))
    run = f"runs/{report.model}"
    lines += ["cat > config.json <<'CONFIG'", json.dumps(facts.config, indent=2), "CONFIG"]
    lines.append(f"python -m training {facts.family} --config config.json --out {shlex.quote(run)}")
    name = "" if "--name" in command.split() else f" --name {shlex.quote(report.model)}"
    lines.append(f"python -m export {shlex.quote(run)}{name} {command}".rstrip())
    return "\n".join(lines) + "\n"


def _public(version: str) -> str:
    """Without the part that names a build, such as +cpu: package indexes know it under the rest."""
    return version.partition("+")[0]


def errors_by_layer(report: Report) -> Figure | None:
    """Each file's error at every node, in the order they run."""
    drawn = {name: layers for name, layers in report.layers.items() if layers}
    if not drawn:
        return None
    figure = paper(width=8)
    axes = figure.subplots()
    for (name, layers), colour in zip(drawn.items(), COLOURS, strict=False):
        axes.plot([max(layer.error, 1e-9) for layer in layers], label=name, color=colour, linewidth=1.3)
    axes.set(yscale="log", xlabel="node, in the order they run", ylabel="error / largest element of the output")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def latency(report: Report) -> Figure | None:
    """Median milliseconds a run by batch, with the 10th to the 90th percentile; of sequences at the usual length."""
    measured = [entry for entry in report.entries if entry.speeds]
    if not measured:
        return None
    figure = paper()
    axes = figure.subplots()
    for entry, colour in zip(measured, COLOURS, strict=False):
        batches = [speed.batch for speed in entry.speeds]
        axes.plot(
            batches,
            [speed.median_ms for speed in entry.speeds],
            color=colour,
            marker="o",
            markersize=3,
            linestyle="--" if entry.left_out else "-",
            label=_label(entry),
        )
        low, high = [speed.p10_ms for speed in entry.speeds], [speed.p90_ms for speed in entry.speeds]
        axes.fill_between(batches, low, high, color=colour, alpha=0.15, linewidth=0)
    axes.set(xscale="log", yscale="log", xlabel="rows in a batch", ylabel="milliseconds a run")
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def quality(report: Report) -> Figure | None:
    """The test metric against the time of one row, with the floor."""
    measured = [(entry, entry.speeds[0].median_ms, entry.metric) for entry in report.entries if entry.speeds and entry.metric]
    if not measured:
        return None
    figure = paper()
    axes = figure.subplots()
    for (entry, milliseconds, metric), colour in zip(measured, COLOURS, strict=False):
        axes.scatter(milliseconds, metric.value, color=colour, marker="x" if entry.left_out else "o", label=_label(entry))
    if report.metric.floor is not None:
        axes.axhline(report.metric.floor, color=GREY, linestyle=":", label="floor")
    axes.set(xlabel="milliseconds for one row", ylabel=f"test {report.metric.name}")
    axes.legend(frameon=False, fontsize=8)
    tidy(axes)
    return figure


def _label(entry: Entry) -> str:
    return (
        f"{entry.provider} {entry.precision}"
        + (f" {entry.method}" if entry.method else "")
        + (" (left out)" if entry.left_out else "")
    )


def _svg(figure: Figure) -> Markup:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    return Markup(text[text.index("<svg") :])  # drawn here; matplotlib escapes what is written in it
