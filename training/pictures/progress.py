"""How training went: loss and metrics, learning rate, gradient norms, and the learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from training.pictures.canvas import BLUE, COLOURS, GREY, ORANGE, RED, paper, plain, save, tidy

SPLITS = {"train": ("training", ORANGE), "validation": ("validation", BLUE)}
GRADIENT = "gradient_norm/"
LINES = 8  # as many layers as have a colour each; more are drawn as a map

Rows = Sequence[Mapping[str, float]]


def curves(path: Path, epochs: Rows, best: int | None = None) -> None:
    """Every quantity recorded of a split, as in `train/loss`, over the epochs; `best` marks the epoch that was kept."""
    from matplotlib.ticker import MaxNLocator

    names = dict.fromkeys(key.partition("/")[2] for row in epochs for key in row if key.partition("/")[0] in SPLITS)
    figure = paper(4.8 * min(2, len(names)) + 0.6, 3.4 * math.ceil(len(names) / 2))
    panels = list(figure.subplots(math.ceil(len(names) / 2), min(2, len(names)), squeeze=False).flat)
    first, last = epochs[0]["epoch"], epochs[-1]["epoch"]
    for axes, name in zip(panels, names, strict=False):
        for split, (label, colour) in SPLITS.items():
            points = [(row["epoch"], row[f"{split}/{name}"]) for row in epochs if f"{split}/{name}" in row]
            if points:
                axes.plot(
                    *zip(*points, strict=True), color=colour, label=label, marker="o" if len(points) < 20 else None, markersize=3
                )
        if best is not None:
            axes.axvline(best, color=GREY, linestyle=":", label=f"kept: epoch {best}")
        axes.set(title=plain(name), xlabel="epoch", xlim=(first - 0.03 * (last - first) - 0.1, last + 0.03 * (last - first) + 0.1))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.legend(frameon=False)
        tidy(axes)
    for axes in panels[len(names) :]:
        axes.set_axis_off()
    save(figure, path)


def learning_rate(path: Path, steps: Rows) -> None:
    """The learning rate at each recorded step."""
    points = [(row["step"], row["learning_rate"]) for row in steps if "learning_rate" in row]
    figure = paper(6.4, 3.2)
    axes = figure.subplots()
    axes.plot(*zip(*points, strict=True), color=BLUE, marker="o" if len(points) < 20 else None, markersize=3)
    axes.set(title="Learning rate", xlabel="step of the optimiser", ylabel="learning rate")
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-3, 3))
    tidy(axes)
    save(figure, path)


def gradient_norms(path: Path, epochs: Rows) -> None:
    """The norm of each layer's gradient at the end of each epoch, on a logarithmic scale: lines, or a map of many layers."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import MaxNLocator

    layers = list(dict.fromkeys(key for row in epochs for key in row if key.startswith(GRADIENT)))
    names = [plain(layer.removeprefix(GRADIENT), 32) for layer in layers]
    numbers = [row["epoch"] for row in epochs]
    norms = np.array([[row.get(layer, math.nan) for row in epochs] for layer in layers])  # [layers, epochs]
    norms[~(norms > 0) | np.isinf(norms)] = math.nan  # what a logarithm cannot show stays empty
    if len(layers) <= LINES:
        figure = paper(6.8, 3.8)
        axes = figure.subplots()
        for row, name, colour in zip(norms, names, COLOURS, strict=False):
            axes.plot(numbers, row, color=colour, label=name, marker="o" if len(numbers) < 20 else None, markersize=3)
        if not np.isnan(norms).all():
            axes.set_yscale("log")
        axes.set_ylabel("norm of the gradient")
        axes.legend(frameon=False, fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
        tidy(axes)
    else:
        figure = paper(6.8, min(12, 1.2 + 0.2 * len(layers)))
        axes = figure.subplots()
        low, high = (float(np.nanmin(norms)), float(np.nanmax(norms))) if not np.isnan(norms).all() else (1, 10)
        edges = (numbers[0] - 0.5, numbers[-1] + 0.5, len(layers) - 0.5, -0.5)
        shown = axes.imshow(
            norms, aspect="auto", extent=edges, cmap="cividis", norm=LogNorm(low, max(high, 1.001 * low)), interpolation="nearest"
        )
        figure.colorbar(shown, ax=axes, label="norm of the gradient (white: 0)")
        every = math.ceil(len(layers) / 50)
        axes.set_yticks(range(0, len(layers), every), names[::every], fontsize="x-small")
        axes.set_ylabel("layer, the first on top")
    axes.set(title="Gradient of each layer at the end of an epoch", xlabel="epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    save(figure, path)


def finder(path: Path, rates: Sequence[float], losses: Sequence[float], suggestion: float) -> None:
    """The smoothed loss at rising learning rates (Smith 2017), and the rate at which it fell fastest."""
    figure = paper()
    axes = figure.subplots()
    axes.plot(rates, losses, color=BLUE)
    axes.axvline(suggestion, color=RED, linestyle="--", label=f"suggested: {suggestion:.2g}")
    finite = np.array(losses)[np.isfinite(losses)]
    if len(finite):
        low, start = float(finite.min()), float(finite[0])
        axes.set_ylim(low - 0.1 * abs(start - low) - 1e-9, start + 0.6 * abs(start - low) + 1e-9)  # not the wall where it diverges
    axes.set_xscale("log")
    axes.set(title="Learning-rate range test", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.legend(frameon=False)
    tidy(axes)
    save(figure, path)
