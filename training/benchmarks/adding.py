"""Four recurrent cells on the adding problem of length 100 (Hochreiter & Schmidhuber 1997): which keep what they read?

Guessing the mean gives a mean squared error of 0.167. The curves of the four go into one picture.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import get_args

import tyro

from training import loop
from training.benchmarks.trial import show, tested
from training.config import Control, adding_100_lstm
from training.history import Row, read_epochs
from training.models.lstm import Cell
from training.pictures.canvas import COLOURS, GREY, paper, save, tidy

GUESSING = 1 / 6


def main(out: Path = Path("runs/adding-100.png")) -> None:
    """Train each cell alike.

    Args:
        out: Where the picture goes.
    """
    curves: dict[str, list[Row]] = {}
    rows = []
    for cell in sorted(get_args(Cell)):
        preset = adding_100_lstm(Path("adding"))
        with TemporaryDirectory() as folder:
            model, run = replace(preset.model, cell=cell), Path(folder) / cell
            facts = loop.fit(replace(preset, model=model, out=run, control=Control(pictures=False)))
            curves[cell] = read_epochs(run)
        mse = tested(facts)
        rows.append((cell, f"{facts.parameters:,}", f"{mse:.5f}", f"{mse / GUESSING:.3f}", f"{facts.seconds:.0f}"))
    show(
        "The adding problem of length 100, 2,000 test sequences",
        ("cell", "parameters", "test MSE", "of guessing's 0.167", "seconds"),
        rows,
    )
    draw(out, curves)


def draw(path: Path, curves: dict[str, list[Row]]) -> None:
    """The validation MSE of each cell over epochs, on a logarithmic axis."""
    figure = paper()
    axes = figure.subplots()
    axes.axhline(GUESSING, color=GREY, linestyle="--", linewidth=1, label="guessing the mean")
    for colour, (cell, epochs) in zip(COLOURS, curves.items(), strict=False):
        axes.plot([row["epoch"] for row in epochs], [row["validation/MSE"] for row in epochs], color=colour, label=cell)
    axes.set(yscale="log", xlabel="epoch", ylabel="validation MSE", title="Adding two marked numbers out of 100")
    axes.legend(frameon=False)
    tidy(axes)
    save(figure, path)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m training.benchmarks.adding", description=__doc__)
