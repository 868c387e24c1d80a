"""Arrays that are already inputs: divided into splits where the user brings no split, and their task learnt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl
from pydantic import JsonValue

from modelrepo.tensors import Tensors
from training.data import splits, targets
from training.data.dataset import DataError, Dataset, Kind, Split
from training.data.source import Source

Name = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Part:
    """Rows from one file or folder: inputs by tensor name [N, …], and a table [N] that holds their targets."""

    path: Path
    inputs: Tensors
    answers: pl.DataFrame


def assemble(
    name: str,
    source: Source,
    parts: Mapping[Name, Part],
    describe: Callable[[Split, Split, Split], Kind],
    handling: Mapping[str, JsonValue] | None = None,
) -> Dataset:
    """The data set of these parts: a missing validation or test part is drawn from "train" (see splits.divide).

    `source.target` names the columns of `answers`; `describe` makes the kind of the three splits. Raises DataError where
    parts differ in shape, and for targets that cannot be learnt.
    """
    whole = parts["train"]
    for part in parts.values():
        for tensor, array in part.inputs.items():
            fixed = 2 if "mask" in part.inputs else 1  # the batch, and the length of sequences, may differ
            expected = whole.inputs[tensor].shape
            if array.shape[fixed:] != expected[fixed:]:
                raise DataError(
                    f"{part.path}: a row of {tensor!r} has shape {list(array.shape[1:])}, in the training data {list(expected[1:])}"
                )
    train, validation, test = splits.divide(
        len(whole.answers),
        source,
        strata=targets.strata(whole.answers, source, whole.path),
        has_test="test" in parts,
        has_validation="validation" in parts,
    )
    task = targets.learn_task(whole.answers, source, whole.path, train)
    read = {key: Split(part.inputs, targets.encode(task, part.answers, source, part.path)) for key, part in parts.items()}
    made = {
        "train": read["train"].rows(train),
        "validation": read.get("validation", read["train"].rows(validation)),
        "test": read.get("test", read["train"].rows(test)),
    }
    return Dataset(
        name=name,
        kind=describe(made["train"], made["validation"], made["test"]),
        task=task,
        train=lambda _epoch: made["train"],
        validation=made["validation"],
        test=made["test"],
        handling={"rows": {key: len(split) for key, split in made.items()}, **(handling or {})},
    )
