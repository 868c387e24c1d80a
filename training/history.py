"""What a run records while it trains: `metrics.jsonl`, `metrics.csv`, TensorBoard events, and MLflow where it is asked for.

`metrics.jsonl` holds everything: one object for each logged step, {"step", …}, and for each epoch, {"epoch", "step", …}.
`metrics.csv` is its epochs as a table. Neither holds a clock time, so that a run that was killed and resumed leaves the very
bytes of one that was not. JSON has no numbers that are not finite: they stand as the strings "NaN", "Infinity" and
"-Infinity", as in Protocol Buffers' JSON; in the CSV as nan, inf and -inf, which pandas and polars read.

An epoch's names are SPLIT/QUANTITY, as in `train/loss` and `validation/accuracy`, and `gradient_norm/LAYER`: TensorBoard and
MLflow group by what stands before the slash, where they show a step's numbers as `step/…`, and the pictures of a run lay one
line per split over another.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from training import atomic

JSONL = "metrics.jsonl"
CSV = "metrics.csv"
EVENTS = "tensorboard"
RUN_ID = "mlflow-run.txt"

BUFFERED = 1000  # steps held in memory at most; then they are written, though not yet flushed to the disk
DRAWN = 20  # steps of one write that TensorBoard (70 microseconds each) and MLflow get; TensorBoard shows 1000 in all

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}

Row = dict[str, float]


class HistoryError(Exception):
    """A history that cannot be kept or read; the message says what to do."""


class History:
    """Records one run in `folder`. Steps are counted from 1: `step` is how many the optimiser has taken.

    With `step` 0 whatever the folder recorded before is dropped; otherwise only what came after that step, and an epoch that
    is there already is not recorded twice. Raises HistoryError where MLFLOW_TRACKING_URI is set and MLflow cannot be used.
    """

    def __init__(self, folder: Path, *, run: str, config: Mapping[str, JsonValue], step: int = 0) -> None:
        from torch.utils.tensorboard import SummaryWriter  # a fifth of a second

        folder.mkdir(parents=True, exist_ok=True)
        self.mlflow = None
        if os.environ.get("MLFLOW_TRACKING_URI"):  # first, since it may fail, and the old files are whole then
            from training.mlflow_run import MLflowRun

            self.mlflow = MLflowRun(folder / RUN_ID, run=run, config=config, resume=step > 0)
        elif not step:
            (folder / RUN_ID).unlink(missing_ok=True)
        lines = [line for line, row in _records(folder) if row["step"] <= step] if step else []
        self._epochs = [_numbers(row) for line in lines if "epoch" in (row := json.loads(line))]
        self._columns = list(dict.fromkeys(name for row in self._epochs for name in row))
        atomic.write(folder / JSONL, "".join(lines).encode())
        atomic.write(folder / CSV, _table(self._columns, self._epochs).encode())
        if not step:
            shutil.rmtree(folder / EVENTS, ignore_errors=True)
        self._jsonl = (folder / JSONL).open("a", encoding="utf-8")
        self._csv = (folder / CSV).open("a", encoding="utf-8", newline="")
        self._board = SummaryWriter(str(folder / EVENTS), purge_step=step + 1 if step else None)
        if not step:
            self._board.add_text("config", f"```json\n{json.dumps(config, indent=2)}\n```")
        self._steps: list[tuple[int, dict[str, Any], float]] = []
        self._last = step
        self.folder = folder

    @property
    def epochs(self) -> Sequence[Row]:
        """The epochs recorded so far."""
        return self._epochs

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._write()
        self._close()
        if self.mlflow:
            self.mlflow.end("KILLED" if kind is None or not issubclass(kind, Exception) else "FAILED")

    def log_step(self, step: int, values: Mapping[str, Any]) -> None:
        """Record numbers of one optimiser step. Tensors of one element are read when they are written, not now."""
        self._steps.append((step, dict(values), time.time()))
        if len(self._steps) >= BUFFERED:
            self._write()

    def log_epoch(self, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Record numbers of one epoch, which ended after `step`, and write all that is recorded so far."""
        if self._epochs and epoch <= self._epochs[-1]["epoch"]:
            return  # recorded before the run was killed, between this epoch's end and its checkpoint
        row = {"epoch": epoch, "step": step, **_numbers(values)}
        self._write_steps()
        self._jsonl.write(_line(row))
        self._epochs.append(row)
        if new := [name for name in row if name not in self._columns]:
            self._columns += new
            self._csv.close()
            atomic.write(self.folder / CSV, _table(self._columns, self._epochs).encode())
            self._csv = (self.folder / CSV).open("a", encoding="utf-8", newline="")
        else:
            csv.DictWriter(self._csv, self._columns, restval="", lineterminator="\n").writerow(row)
        self._draw([(step, _numbers(values), time.time())])
        self._write()

    def flush(self) -> None:
        """Make all that is recorded so far durable. A checkpoint saved after this finds its history complete."""
        self._write()
        for stream in (self._jsonl, self._csv):
            os.fsync(stream.fileno())

    def finish(self, metrics: Mapping[str, float], artifacts: Path) -> None:
        """End the run: record final metrics in TensorBoard and MLflow, and give MLflow the files of a folder."""
        self._draw([(self._last, _numbers(metrics), time.time())])
        self.flush()
        self._close()
        if self.mlflow:
            self.mlflow.artifacts(artifacts)
            self.mlflow.end("FINISHED")
            self.mlflow = None

    def _write(self) -> None:
        """Hand everything to the operating system: from here on a killed process loses nothing of it."""
        if self._jsonl.closed:
            return
        self._write_steps()
        self._jsonl.flush()
        self._csv.flush()
        self._board.flush()
        if self.mlflow:
            self.mlflow.send()

    def _write_steps(self) -> None:
        rows = [(step, _numbers(values), at) for step, values, at in self._steps]
        self._steps.clear()
        self._jsonl.write("".join(_line({"step": step, **row}) for step, row, _ in rows))
        drawn = rows[:: math.ceil(len(rows) / DRAWN) or 1]
        self._draw([(step, {f"step/{name}": value for name, value in row.items()}, at) for step, row, at in drawn])

    def _draw(self, rows: Sequence[tuple[int, Row, float]]) -> None:
        """One TensorBoard event for all numbers of a step: a third of the price of `add_scalar` for each."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        for step, row, at in rows:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in row.items()]
            self._board.file_writer.add_summary(Summary(value=values), step, at)
            self._last = max(self._last, step)
            if self.mlflow:
                self.mlflow.log(step, row, at)

    def _close(self) -> None:
        self._jsonl.close()
        self._csv.close()
        self._board.close()


def read_epochs(folder: Path) -> list[Row]:
    """The recorded epochs, in order; empty where there are none. Raises HistoryError where the file is not ours."""
    return [_numbers(row) for _, row in _records(folder) if "epoch" in row]


def read_steps(folder: Path) -> list[Row]:
    """The recorded steps, in order; empty where there are none. Raises HistoryError where the file is not ours."""
    return [_numbers(row) for _, row in _records(folder) if "epoch" not in row]


def _records(folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """The lines of `metrics.jsonl`, as text and as objects. A last line without its end was being written and is left out."""
    path = folder / JSONL
    if not path.exists():
        return []
    whole, _, _ = path.read_text(encoding="utf-8", errors="replace").rpartition("\n")
    records = []
    for number, line in enumerate(whole.splitlines(), start=1):
        try:
            row = json.loads(line)
            row["step"] + 0  # an object that has a step, and the step is a number
        except (ValueError, TypeError, KeyError):
            raise HistoryError(f"{path}, line {number}: {line[:80]!r} is no record of a run: remove the file") from None
        records.append((f"{line}\n", row))
    return records


def _numbers(values: Mapping[str, Any]) -> Row:
    """Plain numbers: integers stay what they are, tensors and NumPy's numbers become floats, named ones what they name."""
    return {name: value if type(value) in (float, int) else _number(value) for name, value in values.items()}


def _number(value: Any) -> float:
    return NOT_FINITE[value] if isinstance(value, str) else float(value)


def _line(row: Row) -> str:
    try:
        return json.dumps(row, allow_nan=False) + "\n"
    except ValueError:
        names = {name: value if math.isfinite(value) else _name(value) for name, value in row.items()}
        return json.dumps(names) + "\n"


def _name(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _table(columns: Sequence[str], rows: Sequence[Row]) -> str:
    text = io.StringIO()
    if columns:
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()
