"""How good the answers on the test split are: confusion, calibration, predicted against true values, forecasts.

Shapes as in `training.tasks`: outputs [N, task.outputs] float32, targets [N] int64 for multiclass, [N, task.outputs] otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.special import expit, softmax

from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression, Task
from training.data.dataset import Split
from training.pictures.canvas import BLACK, BLUE, GREY, ORANGE, paper, plain, save, tidy

Array = npt.NDArray[np.generic]

BINS = 15  # Guo et al. 2017
ENOUGH = 10  # answers in a bin for its share to mean something
COUNTED = 20  # with more labels than this there is no room for numbers in a matrix
PANELS = 6
STEP = re.compile(r"(.+)\+(\d+)")  # how the targets of a forecast are named


def confusion(path: Path, task: Task, outputs: Array, targets: Array) -> None:
    """How often each label was answered with which; for multilabel, how often each was right, missed and a false alarm."""
    match task:
        case Multilabel():
            given, true = outputs > 0, targets > 0.5
            cells = np.stack(
                [(given & true).sum(0), (~given & true).sum(0), (given & ~true).sum(0), (~given & ~true).sum(0)], axis=1
            )
            columns, xlabel, ylabel = ["rightly given", "missed", "false alarm", "rightly not"], "", "label"
        case Multiclass() | Binary():
            given = outputs.argmax(1) if isinstance(task, Multiclass) else (outputs[:, 0] > 0).astype(np.int64)
            true = targets if isinstance(task, Multiclass) else (targets[:, 0] > 0.5).astype(np.int64)
            cells = np.zeros((len(task.labels), len(task.labels)), np.int64)
            np.add.at(cells, (true, given), 1)
            columns, xlabel, ylabel = list(task.labels), "predicted", "true"
        case Regression():
            raise ValueError("a regression has no labels to confuse")
    rows, few = [plain(label, 16) for label in task.labels], len(task.labels) <= COUNTED
    size = min(9.0, 2.2 + 0.42 * max(len(rows), 4))
    figure = paper(size + 1.2, size)
    axes = figure.subplots()
    shares = cells / np.maximum(cells.sum(1, keepdims=True), 1)
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    figure.colorbar(shown, ax=axes, label="share of the row")
    every = math.ceil(len(rows) / 40)
    columns = [plain(column, 16) for column in columns]
    turned = {"rotation": 90} if max(map(len, columns)) > max(3, 36 / len(columns)) else {}
    axes.set_xticks(range(0, len(columns), every), columns[::every], **turned)
    axes.set_yticks(range(0, len(rows), every), rows[::every])
    if few:
        for (row, column), count in np.ndenumerate(cells):
            if count:
                light = {"color": "white"} if shares[row, column] > 0.6 else {}
                axes.text(column, row, f"{count}", ha="center", va="center", fontsize="small", **light)
    axes.set(title=f"Answers on {len(targets):,} test rows", xlabel=xlabel, ylabel=ylabel)
    save(figure, path)


def calibration(path: Path, task: Task, outputs: Array, targets: Array) -> None:
    """How often answers of a given probability are right, before and after division by the temperature (Guo et al. 2017).

    The probability is that of the answer for multiclass, of the second label for binary, of each label for multilabel.
    """
    from matplotlib.ticker import NullFormatter

    assert not isinstance(task, Regression)  # draw() asks for this of classifications only
    figure = paper(5.4, 6.0)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot([0, 1], [0, 1], color=GREY, linestyle=":", label="perfectly calibrated")
    versions = [(f"temperature {task.temperature:.3g}", task.temperature, BLUE)]
    if task.temperature != 1:
        versions.insert(0, ("temperature 1", 1.0, ORANGE))
    for label, temperature, colour in versions:
        confidence, right = _probabilities(task, outputs / temperature, targets)
        mean, share, count = reliability(confidence, right)
        error = float((count * np.abs(mean - share)).sum() / count.sum())
        some = count >= ENOUGH
        shown = f"{label}: calibration error {error:.3f}"
        above.plot(mean[some], share[some], color=colour, marker="o", markersize=5, label=shown)
        above.plot(mean[~some], share[~some], "o", color=colour, markersize=3, alpha=0.4, markeredgewidth=0)
        below.hist(confidence, bins=BINS, range=(0, 1), color=colour, histtype="step", linewidth=1.5)
    said = "share that is right" if isinstance(task, Multiclass) else "share for which it is true"
    above.set(title=f"Calibration on {len(targets):,} test rows", ylabel=said, xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    below.set(xlabel=f"probability given (pale dots: fewer than {ENOUGH} answers)", ylabel="answers", yscale="log")
    below.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside lower center", frameon=False, fontsize="small")
    tidy(above)
    tidy(below)
    save(figure, path)


def reliability(confidence: Array, right: Array) -> tuple[Array, Array, Array]:
    """Mean confidence, share right and count of the bins that hold answers; both inputs [N]."""
    place = np.clip(np.ceil(confidence * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = np.bincount(place, minlength=BINS)
    held = count > 0
    mean = np.bincount(place, confidence, BINS)[held] / count[held]
    return mean, np.bincount(place, right, BINS)[held] / count[held], count[held]


def _probabilities(task: Task, logits: Array, targets: Array) -> tuple[Array, Array]:
    """Probabilities given, and 1 where they were right, both flat."""
    if isinstance(task, Multiclass):
        p = softmax(logits.astype(np.float64), axis=1)
        return p.max(1), (p.argmax(1) == targets).astype(np.float64)
    return expit(logits.astype(np.float64)).ravel(), (targets > 0.5).astype(np.float64).ravel()


def predicted(path: Path, task: Regression, outputs: Array, targets: Array) -> None:
    """Predicted against true values, one panel per target, six at most, chosen evenly."""
    chosen = np.unique(np.linspace(0, task.outputs - 1, min(PANELS, task.outputs)).astype(int))
    across = min(3, len(chosen))
    down = math.ceil(len(chosen) / across)
    figure = paper(3.4 * across + (1.4 if across == 1 else 0), 3.4 * down + (1.0 if across == 1 else 0))
    panels = list(figure.subplots(down, across, squeeze=False).flat)
    for axes, at in zip(panels, chosen, strict=False):
        y, truth = outputs[:, at].astype(np.float64), targets[:, at].astype(np.float64)
        ends = [float(min(y.min(), truth.min())), float(max(y.max(), truth.max()))]
        axes.plot(ends, ends, color=GREY, linestyle=":")
        axes.plot(truth, y, ".", color=BLUE, alpha=max(0.1, min(0.6, 300 / len(y))), markersize=5, markeredgewidth=0)
        spread = float(((truth - truth.mean()) ** 2).sum())
        r2 = f"R² {1 - float(((y - truth) ** 2).sum()) / spread:.3f}, " if spread > 0 else ""
        axes.set_title(f"{plain(task.targets[at])}: {r2}MAE {np.abs(y - truth).mean():.3g}", fontsize="medium")
        axes.set(xlabel="true", ylabel="predicted", aspect="equal", adjustable="datalim")
        tidy(axes)
    for axes in panels[len(chosen) :]:
        axes.set_axis_off()
    figure.suptitle(f"Predictions on {len(targets):,} test rows")
    save(figure, path)


def forecast_of(task: Task, channels: Sequence[str]) -> tuple[str, int] | None:
    """The first column a task forecasts and how many steps ahead, where its targets are named `price+1`, `price+2`, …"""
    if not isinstance(task, Regression):
        return None
    steps = [STEP.fullmatch(target) for target in task.targets]
    first = steps[0]
    if first is None or first[1] not in channels or not all(steps):
        return None
    horizon = sum(step is not None and step[1] == first[1] for step in steps)
    return (first[1], horizon) if horizon > 1 else None


def forecast(path: Path, task: Regression, split: Split, outputs: Array, channels: Sequence[str]) -> None:
    """Three forecasts of the test split, chosen evenly: the window they read, what came, and what was predicted."""
    found = forecast_of(task, channels)
    assert found is not None  # draw() asks for this of forecasts only
    column, horizon = found
    rows = np.unique(np.linspace(0, len(split) - 1, min(3, len(split))).astype(int))
    figure = paper(7.2, 1.2 + 1.9 * len(rows))
    ahead = np.arange(1, horizon + 1)
    for row, axes in zip(rows, figure.subplots(len(rows), 1, squeeze=False).flat, strict=True):
        window = split.inputs["sequence"][row, split.inputs["mask"][row], list(channels).index(column)]  # [T]
        past = np.arange(1 - len(window), 1)
        axes.plot(past, window, color=BLACK, linewidth=1, label="window")
        axes.plot(
            [0, *ahead], [window[-1], *split.targets[row, :horizon]], color=BLACK, linewidth=1, linestyle=":", label="what came"
        )
        axes.plot(ahead, outputs[row, :horizon], color=ORANGE, linewidth=2, label="forecast")
        axes.axvline(0.5, color=GREY, linewidth=0.8)
        axes.set_ylabel(plain(column))
        axes.set_title(f"test row {row}", fontsize="small", loc="left")
        tidy(axes)
    axes.set_xlabel("steps from now")
    figure.axes[0].legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)
    save(figure, path)
