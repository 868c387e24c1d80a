"""A run folder: a checkpoint that rebuilds itself, and the held-out rows it is judged on.

`best.pt` is weights plus a JSON text that holds everything else; `holdout-….npz`, named by its content, is the test split.
While training, the best epoch so far is in `partial.pt`: an older finished run stays whole until the new one has finished.
Every file is written beside its target and renamed, and loading is weights-only, so a stranger's file runs no code.
"""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, JsonValue, TypeAdapter
from torch import Tensor

from modelrepo.tasks import Metric, Task
from modelrepo.tensors import Strict
from training.data.dataset import Kind, Split
from training.models import FAMILIES, Model, build

BEST = "best.pt"
PARTIAL = "partial.pt"
HOLDOUT = "holdout-*.npz"


class CheckpointError(Exception):
    """A run folder that cannot be used; the message says why and what to do."""


class Facts(Strict):
    """What a checkpoint knows besides its weights. `test` is None in a partial one, whose training has not ended."""

    format_version: Literal[1] = 1
    family: str
    model: dict[str, JsonValue]
    kind: Annotated[Kind, Field(discriminator="input")]
    task: Annotated[Task, Field(discriminator="type")]
    config: dict[str, JsonValue]
    seed: int
    epoch: int
    validation: Metric
    test: Metric | None
    data: str
    fingerprint: str
    rows: dict[str, int]
    holdout_sha256: str
    created: str
    git_commit: str | None
    git_dirty: bool | None
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


def save_partial(run: Path, facts: Facts, weights: dict[str, Tensor]) -> None:
    """Write the best epoch so far to `partial.pt`."""
    _write_checkpoint(run / PARTIAL, facts, weights)


def save(run: Path, facts: Facts, weights: dict[str, Tensor]) -> Path:
    """Write `best.pt`, whose held-out rows must be there already; then remove what it replaces. Returns its path."""
    _write_checkpoint(run / BEST, facts, weights)
    for stale in run.glob(HOLDOUT):
        if stale != _holdout(run, facts.holdout_sha256):
            stale.unlink()
    (run / PARTIAL).unlink(missing_ok=True)
    return run / BEST


def load(run: Path) -> Checkpoint:
    """Read `best.pt` of a run folder. Raises CheckpointError where it is missing, torn, foreign or of another version."""
    path = run / BEST
    try:
        content = path.read_bytes()
    except OSError as error:
        if (run / PARTIAL).exists():
            raise CheckpointError(f"{run} was left before its training had ended: train again") from None
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): give a folder that `python -m training` wrote") from None
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        facts = Facts.model_validate_json(stored["facts"])
        weights = stored["weights"]
    except Exception as error:  # noqa: BLE001 - torch meets torn bytes with exceptions of any kind, IndexError among them
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} is torn or no Quartet checkpoint ({reason}): train again") from None
    return Checkpoint(facts, weights, hashlib.sha256(content).hexdigest())


def save_holdout(run: Path, split: Split) -> str:
    """Write the test split and return the file's sha256, under which a checkpoint names it."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **split.inputs, targets=split.targets)
    sha256 = hashlib.sha256(content.getvalue()).hexdigest()
    _write(_holdout(run, sha256), content.getvalue())
    return sha256


def load_holdout(run: Path, facts: Facts) -> Split:
    """Read the test split of a checkpoint. Raises CheckpointError where it is missing, torn or another's."""
    path = _holdout(run, facts.holdout_sha256)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): train again") from None
    if hashlib.sha256(content).hexdigest() != facts.holdout_sha256:
        raise CheckpointError(f"{path} is torn: train again")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    targets = inputs.pop("targets")
    return Split(inputs, targets)


def _holdout(run: Path, sha256: str) -> Path:
    return run / HOLDOUT.replace("*", sha256[:12])


def _write_checkpoint(path: Path, facts: Facts, weights: dict[str, Tensor]) -> None:
    content = io.BytesIO()
    torch.save({"facts": facts.model_dump_json(), "weights": weights}, content)
    _write(path, content.getvalue())


def _write(path: Path, content: bytes) -> None:
    """Write a file beside `path`, flush it to the disk and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
