"""Throughput against connections, a panel for each model; and how Quartet's figures grow."""

from __future__ import annotations

import math
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from loadtests.compare.cases import CONNECTIONS
from loadtests.compare.models import FAMILIES
from loadtests.compare.results import Results, middle, requests_per_second

CURVES = {"bodies": "body, bytes", "connections": "connections", "models": "models loaded"}


def draw_throughput(results: Results, path: Path) -> bool:
    """Requests a second over connections, every server a line; False where there is nothing to draw."""
    measured = set(results.cases())
    models = [model for model in FAMILIES if {f"{model}-{count}" for count in CONNECTIONS} <= measured]
    if not models:
        return False
    figure = Figure(figsize=(5 * len(models), 5), layout="constrained")
    colours = mpl.colormaps["tab20"]
    for axes, model in zip(figure.subplots(1, len(models), squeeze=False)[0], models, strict=True):
        for index, server in enumerate(results.servers()):
            rates = [middle(results.of(f"{model}-{count}", server), requests_per_second) for count in CONNECTIONS]
            if all(map(math.isnan, rates)):
                continue
            ours, ceiling = server.startswith("quartet"), server in ("fixed", "raw")
            style = {
                "linewidth": 2.5 if ours else 1.2,
                "linestyle": ":" if ceiling else "-",
                "color": colours(index % 20),
            }
            axes.plot(CONNECTIONS, rates, marker="o", label=server, **style)
        axes.set(title=model, xscale="log", yscale="log", xlabel="connections, one row a request")
        axes.set_xticks(CONNECTIONS, map(str, CONNECTIONS))
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("requests/s")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right center", fontsize="small")
    figure.savefig(path, dpi=110)
    return True


def draw_growth(results: Results, path: Path) -> bool:
    """Requests a second, p50 and p99 along each curve; False where there is nothing to draw."""
    points = [point for point in results.growth if not point["fault"]]
    curves = [curve for curve in CURVES if any(point["curve"] == curve for point in points)]
    if not curves:
        return False
    figure = Figure(figsize=(5 * len(curves), 7), layout="constrained")
    grid = figure.subplots(2, len(curves), squeeze=False, sharex="col")
    for column, curve in enumerate(curves):
        rate, latency = grid[0][column], grid[1][column]
        for server in dict.fromkeys(point["server"] for point in points):
            own = [point for point in points if (point["curve"], point["server"]) == (curve, server)]
            at = [point["body_bytes" if curve == "bodies" else "at"] for point in own]
            rate.plot(at, [point["requests_per_second"] for point in own], marker="o", label=server)
            (line,) = latency.plot(at, [point["p50_ms"] for point in own], marker="o", label=f"{server} p50")
            latency.plot(
                at, [point["p99_ms"] for point in own], marker="^", linestyle=":", color=line.get_color(), label=f"{server} p99"
            )
        rate.set(title=curve, xscale="log", yscale="log", ylabel="requests/s")
        latency.set(xscale="log", yscale="log", xlabel=CURVES[curve], ylabel="ms, closed loop")
        for axes in (rate, latency):
            axes.grid(alpha=0.3)
    grid[0][0].legend(fontsize="small")
    grid[1][0].legend(fontsize="small")
    figure.savefig(path, dpi=110)
    return True
