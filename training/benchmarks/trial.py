"""What every benchmark needs: a run whose folder is thrown away, data that is there, and a table."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from rich import box
from rich.console import Console
from rich.table import Table

from training import lineage, loop
from training.checkpoint import Facts
from training.config import Config
from training.data import Dataset


def train(config: Config, dataset: Dataset | None = None) -> Facts:
    """Train as the config says, without pictures, and keep nothing but the facts. Raises as `loop.fit` does."""
    with TemporaryDirectory() as folder:
        out, control = Path(folder) / config.out.name, replace(config.control, pictures=False)
        return loop.fit(replace(config, out=out, control=control), dataset)


def tested(facts: Facts) -> float:
    """The metric of a finished run on its test split."""
    assert facts.test is not None
    return facts.test.value


def present(path: Path, what: str) -> Path:
    """The path, where there is something. Ends the program with a message where there is not."""
    if not path.exists():
        raise SystemExit(f"{path}: no such file or folder; say with --data where {what} lies")
    return path


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table as Markdown, and what machine it was measured on, other load included."""
    table = Table(*columns, box=box.MARKDOWN)
    for row in rows:
        table.add_row(*row)
    console = Console(width=160, highlight=False, markup=False)
    console.print(f"{title}\n")
    console.print(table)
    machine = lineage.environment()
    console.print(
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, PyTorch {torch.__version__}, "
        f"mean load of the last minute {os.getloadavg()[0]:.1f}\n"
    )
