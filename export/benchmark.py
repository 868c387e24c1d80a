"""`python -m export.benchmark --repository models --model NAME [NAME …]`: each way to serve against fp32 under ONNX Runtime.

All of them run in turn, again and again, on golden rows, on one thread where they run on the CPU, so that a machine which changes
its speed changes it for all; the table gives the median of the rounds and what it costs in the test metric. Needs no PyTorch,
unless `--runs` names the folder of the models' runs: then PyTorch is timed beside them, eager and compiled.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from modelrepo.errors import QuartetError
from modelrepo.repository import ModelVersion, Repository
from modelrepo.tensors import Tensors
from runtime.goldens import at
from runtime.machine import machine
from runtime.open import open_session
from runtime.session import Session, SessionError

ROUNDS = 25
SECONDS = 0.05  # of one way in one round


@dataclass
class Timed:
    """One way to run a model, and its rows a second, round by round; `base` is what all are held against."""

    session: Session
    precision: str
    file: str
    change: str
    base: bool = False
    rates: list[float] = field(default_factory=list)


def main(arguments: list[str]) -> int:
    """Print a table for each model; 0 on success, 1 with a message where a version cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m export.benchmark", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", required=True, help="folder that `python -m export` published to")
    parser.add_argument("--model", required=True, nargs="+", help="models, newest version")
    parser.add_argument("--batch", type=int, default=32, help="rows a run (default: %(default)s)")
    parser.add_argument(
        "--runs", type=Path, help="folder with the models' runs, each by the name of its model: PyTorch is timed, too"
    )
    chosen = parser.parse_args(arguments)
    here = machine()
    console = Console()
    print(f"{here.processor}, {here.cores} cores, one thread; {here.gpu or 'no GPU'}; batch {chosen.batch}")
    for model in chosen.model:
        try:
            run = None if chosen.runs is None else chosen.runs / model
            console.print(compare(Repository(chosen.repository).open(model), chosen.batch, run))
        except QuartetError as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return 1
    return 0


def compare(version: ModelVersion, batch: int, run: Path | None = None) -> Table:
    """Rows a second of every way to serve that this machine can run, and its ratio to fp32 under ONNX Runtime.

    With its `run`, also of PyTorch. Raises ExportError where that cannot be read.
    """
    feed = _feed(version, batch)
    timed: list[Timed] = []
    with ExitStack() as held:
        for path, artifact, candidate in version.ways():
            try:
                session = held.enter_context(open_session(path, artifact, candidate, version.manifest.signature))
            except SessionError:
                continue  # the export's own table says why
            change = "not measured" if candidate.parity is None else f"{0.0 - 100 * candidate.parity.loss:+.2f} points"
            base = candidate.artifact == version.manifest.onnx.file.path and candidate.provider == "onnxruntime-cpu"
            timed.append(Timed(session, candidate.precision, candidate.artifact, change, base))
        timed += [Timed(held.enter_context(session), "fp32", how, "") for how, session in _pytorch(run)]
        for each in timed:
            each.session.run(feed)
        for _ in range(ROUNDS):
            for each in timed:
                each.rates.append(batch / _seconds(each.session, feed))
    reference = next(each.rates for each in timed if each.base)
    table = Table("runs on", "precision", "file", "rows/s", "against fp32", "test metric", box=None, header_style="bold")
    table.title = f"{version.name}:{version.version}"
    for each in timed:
        ratio = statistics.median(mine / its for mine, its in zip(each.rates, reference, strict=True))
        rows = f"{statistics.median(each.rates):,.0f}"
        table.add_row(each.session.provider, each.precision, each.file, rows, f"{ratio:.2f}", each.change)
    return table


def _pytorch(run: Path | None) -> Iterator[tuple[str, Session]]:
    """The model of a run under PyTorch, by how it runs."""
    if run is not None:
        import torch  # which nobody else here needs

        from export.original import load
        from export.pytorch_session import PyTorchSession

        torch.set_num_threads(1)
        model = load(run).model
        for how in ("eager", "torch.compile"):
            yield how, PyTorchSession(model, compiled=how != "eager")


def _feed(version: ModelVersion, batch: int) -> Tensors:
    """Golden rows again and again, of the usual length."""
    inputs, _ = version.goldens()
    signature = version.manifest.signature
    index = np.resize(np.arange(version.manifest.goldens.rows), batch)
    return at(signature, inputs, index, signature.length.opt if signature.length else None)


def _seconds(session: Session, feed: Tensors) -> float:
    """Of one run, over as many as fit into the time."""
    runs, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < SECONDS or runs == 0:
        session.run(feed)
        runs += 1
    return passed / max(runs, 1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
