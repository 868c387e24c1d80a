"""A run folder: a checkpoint that rebuilds itself, the rows it is judged on, and the state from which training can go on.

While a run is in progress everything lies in `unfinished/`, and an older finished run beside it stays whole. `finish` moves
it up, `best.pt` last, since that is the file which says what the run is:

- `best.pt`: weights plus a JSON text that holds everything else
- `config.json`: all settings
- `last.pt`, `previous.pt`: the state of training after the newest save and the one before
- `holdout-….npz`, named by its content: the test split
- `calibration-….npz`, likewise: rows of the training split, on which export chooses the ranges of 8-bit numbers

Every file is written beside its target, flushed and renamed; loading is weights-only, so a stranger's file runs no code.
"""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import torch
from pydantic import Field, JsonValue, TypeAdapter
from torch import Tensor

from modelrepo.reference import Reference
from modelrepo.tasks import Metric, Task
from modelrepo.tensors import Strict
from training import atomic
from training.data.dataset import Kind, Split
from training.models import FAMILIES, Model, build

BEST = "best.pt"
LAST = "last.pt"
PREVIOUS = "previous.pt"
CONFIG = "config.json"
LOCK = ".lock"
OPTIONAL = ("pictures", "tensorboard", "mlflow-run.txt")
UNFINISHED = "unfinished"
FORMAT_VERSION = 2

Kept = Literal["holdout", "calibration"]  # which rows a checkpoint keeps beside itself


class CheckpointError(Exception):
    """A run folder that cannot be used; the message says why and what to do."""


class Facts(Strict):
    """What a checkpoint knows besides its weights. The fields with a None are unknown until training has ended."""

    format_version: Literal[2] = FORMAT_VERSION
    family: str
    model: dict[str, JsonValue]
    parameters: int
    kind: Annotated[Kind, Field(discriminator="input")]
    task: Annotated[Task, Field(discriminator="type")]
    config: dict[str, JsonValue]
    seed: int
    epoch: int
    validation: Metric
    test: Metric | None = None
    metrics: dict[str, float] | None = None  # of the test split, `test` among them
    ended: Literal["epochs", "patience", "max-time"] | None = None
    epochs: int | None = None
    seconds: float | None = None
    data: str
    fingerprint: str
    rows: dict[str, int]
    handling: dict[str, JsonValue]
    holdout_sha256: str
    calibration_sha256: str
    reference: Reference | None = None  # runs of before have none
    created: str
    git_commit: str | None
    git_dirty: bool | None
    environment: dict[str, JsonValue]
    versions: dict[str, str]


@dataclass(frozen=True)
class Checkpoint:
    """Facts and weights; `sha256` is that of the file it was loaded from."""

    facts: Facts
    weights: dict[str, Tensor]
    sha256: str

    def model(self) -> Model:
        """The trained model, in evaluation mode. Raises CheckpointError where weights and facts do not fit."""
        try:
            config = TypeAdapter(FAMILIES[self.facts.family][1]).validate_python(self.facts.model)
            model = build(config, self.facts.kind, self.facts.task)
            model.load_state_dict(self.weights)
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            raise CheckpointError(
                f"the checkpoint's weights do not fit its {self.facts.family!r} model ({error}): train again"
            ) from None
        return model.eval()


def save(folder: Path, facts: Facts, weights: dict[str, Tensor]) -> None:
    """Write `best.pt`, whose held-out rows must be there already."""
    _write_torch(folder / BEST, {"facts": facts.model_dump_json(), "weights": weights})


def load(folder: Path) -> Checkpoint:
    """Read `best.pt` of a run folder. Raises CheckpointError where it is missing, torn, foreign or of another version."""
    path = folder / BEST
    try:
        content = path.read_bytes()
    except OSError as error:
        if (folder / UNFINISHED).exists():
            raise CheckpointError(f"{folder} was left before its training had ended: go on with --resume") from None
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): give a folder that `python -m training` wrote") from None
    try:
        stored = _read_torch(content)
        found = json.loads(stored["facts"])["format_version"]
    except Exception as error:  # noqa: BLE001 - torch meets torn bytes with exceptions of any kind, IndexError among them
        raise _torn(path, error) from None
    if found != FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has format version {found}, this Quartet reads {FORMAT_VERSION}: train again, or use the Quartet that wrote it"
        )
    try:
        facts = Facts.model_validate_json(stored["facts"])
        weights = stored["weights"]
    except (KeyError, ValueError) as error:
        raise _torn(path, error) from None
    return Checkpoint(facts, weights, hashlib.sha256(content).hexdigest())


def _torn(path: Path, error: Exception) -> CheckpointError:
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return CheckpointError(f"{path} is torn or no Quartet checkpoint ({reason}): train again")


def save_last(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of training to `last.pt`; what was there is kept as `previous.pt`."""
    if (folder / LAST).exists():
        (folder / LAST).replace(folder / PREVIOUS)
    _write_torch(folder / LAST, state)


def load_last(folder: Path) -> dict[str, Any] | None:
    """The newest state that is whole; None where there is none."""
    for path in (folder / LAST, folder / PREVIOUS):
        try:
            state: dict[str, Any] = _read_torch(path.read_bytes())
        except Exception:  # noqa: BLE001 - as above; the one before it is whole
            continue
        return state
    return None


def finish(run: Path) -> None:
    """Move a run that has ended out of `unfinished/`, in place of the one before it; `tidy` goes on where this was cut off."""
    ended = run / UNFINISHED
    for path in ended.iterdir():  # what is not kept goes first: beside no best.pt it would look like a run to go on with
        if path.name == PREVIOUS or path.name.startswith("."):  # such as half a file of a killed process
            _remove(path)
    paths = sorted(ended.iterdir(), key=lambda path: (path.name == BEST, path.name != CONFIG))
    if paths[0].name == CONFIG:  # nothing is moved yet, so these are the older run's, and this one may have none
        for name in OPTIONAL:
            _remove(run / name)
    for path in paths:
        if path.is_dir():
            _remove(run / path.name)
        path.replace(run / path.name)
    _settle(run)


def _settle(run: Path) -> None:
    """Remove what is left of the run that was replaced, and the empty `unfinished/`."""
    with suppress(CheckpointError):  # there is no run: one was killed before it wrote anything
        facts = load(run).facts
        for name in get_args(Kept):
            for stale in run.glob(f"{name}-*.npz"):
                if stale != _rows(run, name, facts):
                    stale.unlink()
    (run / UNFINISHED).rmdir()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def held(run: Path) -> Iterator[None]:
    """Keep other processes from training in this folder; the system lets go of it when the process ends, however it ends.

    Raises CheckpointError where another one is training there.
    """
    run.mkdir(parents=True, exist_ok=True)
    with (run / LOCK).open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CheckpointError(f"another process is training in {run}: wait for it, or give another --out") from None
        yield


def tidy(run: Path) -> None:
    """Put a run that has ended into its place, where moving it there was cut off."""
    ended = run / UNFINISHED
    if ended.exists() and not any(ended.iterdir()):
        _settle(run)
    try:
        facts = load(ended).facts
    except CheckpointError:
        return
    if facts.test is not None:
        finish(run)


def reopen(run: Path) -> None:
    """Copy a finished run back to `unfinished/`, to go on from its last state; the finished one stays until that one ends."""
    facts = load(run).facts
    part = run / f".{UNFINISHED}"
    shutil.rmtree(part, ignore_errors=True)
    shutil.copytree(run, part, ignore=shutil.ignore_patterns(BEST, UNFINISHED, ".*", "pictures", "*.md"))
    save(part, facts.model_copy(update={"test": None, "metrics": None, "ended": None}), load(run).weights)
    part.replace(run / UNFINISHED)


def save_rows(run: Path, name: Kept, split: Split) -> str:
    """Write rows to keep beside a checkpoint and return the file's sha256, under which its facts name it."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **split.inputs, targets=split.targets)
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    atomic.write(run / f"{name}-{sha256[:12]}.npz", content.getvalue())
    return sha256


def load_rows(run: Path, name: Kept, facts: Facts) -> Split:
    """Read rows kept beside a checkpoint. Raises CheckpointError where they are missing, torn or another's."""
    path = _rows(run, name, facts)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): train again") from None
    if hashlib.sha256(content).hexdigest() != _sha256(name, facts):
        raise CheckpointError(f"{path} is torn: train again")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    targets = inputs.pop("targets")
    return Split(inputs, targets)


def _rows(run: Path, name: Kept, facts: Facts) -> Path:
    return run / f"{name}-{_sha256(name, facts)[:12]}.npz"


def _sha256(name: Kept, facts: Facts) -> str:
    return facts.holdout_sha256 if name == "holdout" else facts.calibration_sha256


def _write_torch(path: Path, content: dict[str, Any]) -> None:
    stream = io.BytesIO()
    torch.save(content, stream)
    atomic.write(path, stream.getvalue())


def _read_torch(content: bytes) -> dict[str, Any]:
    return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
