"""A run folder: a checkpoint that rebuilds itself, and the held-out rows it is judged on.

`best.pt` is weights plus a JSON text that holds everything else. It is written beside the target and renamed, so a crash
leaves the old one whole; loading is weights-only, so a stranger's file runs no code. `holdout.npz` is the test split.
"""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import numpy as np
import torch
from pydantic import Field, JsonValue, TypeAdapter
from torch import Tensor

from modelrepo.tasks import Metric, Task
from modelrepo.tensors import Strict
from training.data.dataset import Kind, Split
from training.models import FAMILIES, Model, build

BEST = "best.pt"
HOLDOUT = "holdout.npz"


class CheckpointError(Exception):
    """A run folder that cannot be used; the message says why and what to do."""


class Facts(Strict):
    """What a checkpoint knows besides its weights. `test` is None until training has ended."""

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


def save(run: Path, facts: Facts, weights: dict[str, Tensor]) -> Path:
    """Write `best.pt` atomically and return its path."""
    path = run / BEST
    _write(path, lambda stream: torch.save({"facts": facts.model_dump_json(), "weights": weights}, stream))
    return path


def load(run: Path) -> Checkpoint:
    """Read `best.pt` of a run folder. Raises CheckpointError where it is missing, torn, foreign or of another version."""
    path = run / BEST
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): give a folder that `python -m training` wrote") from None
    try:
        stored = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        facts = Facts.model_validate_json(stored["facts"])
        weights = stored["weights"]
    except Exception as error:  # noqa: BLE001 - torch meets torn bytes with exceptions of any kind, IndexError among them
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise CheckpointError(f"{path} is torn or no Quartet checkpoint ({reason}): train again") from None
    return Checkpoint(facts, weights, hashlib.sha256(content).hexdigest())


def save_holdout(run: Path, split: Split) -> None:
    """Write the test split to `holdout.npz` atomically."""
    arrays = {**split.inputs, "targets": split.targets}
    _write(run / HOLDOUT, lambda stream: np.savez_compressed(stream, allow_pickle=False, **arrays))


def load_holdout(run: Path) -> Split:
    """Read the test split back. Raises CheckpointError where it is missing or torn."""
    path = run / HOLDOUT
    try:
        with np.load(path, allow_pickle=False) as arrays:
            inputs = {name: arrays[name] for name in arrays.files}
            targets = inputs.pop("targets")
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path} is missing or torn ({error}): train again") from None
    return Split(inputs, targets)


def _write(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Write a file beside `path`, flush it to the disk and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with part.open("wb") as stream:
            fill(stream)
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
