"""`python -m export.benchmark --repository models --model NAME [NAME …]`: each way to serve against fp32 under ONNX Runtime.

All of them run in turn, again and again, on one thread and on golden rows, so that a machine which changes its speed changes
it for all; the table gives the median of the rounds and what it costs in the test metric. Needs no PyTorch.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from contextlib import ExitStack

import numpy as np
from rich.console import Console
from rich.table import Table

from modelrepo.errors import QuartetError
from modelrepo.manifest import Candidate
from modelrepo.repository import ModelVersion, Repository
from modelrepo.tensors import Tensors
from runtime.goldens import at
from runtime.machine import machine
from runtime.open import open_session
from runtime.session import Session, SessionError

ROUNDS = 25
SECONDS = 0.05  # of one way in one round


def main(arguments: list[str]) -> int:
    """Print a table for each model; 0 on success, 1 with a message where a version cannot be read."""
    parser = argparse.ArgumentParser(prog="python -m export.benchmark", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repository", required=True, help="folder that `python -m export` published to")
    parser.add_argument("--model", required=True, nargs="+", help="models, newest version")
    parser.add_argument("--batch", type=int, default=32, help="rows a run (default: %(default)s)")
    chosen = parser.parse_args(arguments)
    here = machine()
    console = Console()
    print(f"{here.processor}, {here.cores} cores, one thread; {here.gpu or 'no GPU'}; batch {chosen.batch}")
    for model in chosen.model:
        try:
            console.print(compare(Repository(chosen.repository).open(model), chosen.batch))
        except QuartetError as error:
            print(f"benchmark: {error}", file=sys.stderr)
            return 1
    return 0


def compare(version: ModelVersion, batch: int) -> Table:
    """Rows a second of every way to serve that this machine can run, and its ratio to fp32 under ONNX Runtime."""
    feed = _feed(version, batch)
    rates: list[tuple[Candidate, list[float]]] = []
    with ExitStack() as held:
        sessions: list[Session] = []
        for path, artifact, candidate in version.ways():
            try:
                sessions.append(held.enter_context(open_session(path, artifact, candidate, version.manifest.signature)))
                rates.append((candidate, []))
            except SessionError:
                continue  # the export's own table says why
        for session in sessions:
            session.run(feed)
        for _ in range(ROUNDS):
            for session, (_, measured) in zip(sessions, rates, strict=True):
                measured.append(batch / _seconds(session, feed))
    base = next(rate for candidate, rate in rates if _is_base(version, candidate))
    table = Table("runs on", "precision", "file", "rows/s", "against fp32", "test metric", box=None, header_style="bold")
    table.title = f"{version.name}:{version.version}"
    for candidate, rate in rates:
        ratio = statistics.median(mine / its for mine, its in zip(rate, base, strict=True))
        change = "not measured" if candidate.parity is None else f"{0.0 - 100 * candidate.parity.loss:+.2f} points"
        rows = f"{statistics.median(rate):,.0f}"
        table.add_row(candidate.provider, candidate.precision, candidate.artifact, rows, f"{ratio:.2f}", change)
    return table


def _is_base(version: ModelVersion, candidate: Candidate) -> bool:
    return candidate.artifact == version.manifest.onnx.file.path and candidate.provider == "onnxruntime-cpu"


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
