"""NumPy archives (.npz): features, images or sequences with their targets, with or without official splits."""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl

from modelrepo.tensors import Array, Tensors
from training.data import series
from training.data.dataset import DataError, Dataset, Kind, Rows, Split, numeric
from training.data.images import channels_first, describe_images
from training.data.parts import Name, Part, assemble
from training.data.source import Source

INPUTS = ("x", "features", "image", "images", "sequence", "sequences", "data")
TARGETS = ("y", "target", "targets", "label", "labels")
SEQUENCES = ("mask", "lengths")
SPLITS: dict[str, Name] = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}


def load_arrays(path: Path, source: Source) -> Dataset:
    """An archive with `X` and `y`, or `X_train`, `y_train`, `X_test`, `y_test` (`_val` too), in upper or lower case.

    Other names for X are features, image(s), sequence(s) and data; for y: target(s) and label(s); the name of the split may
    also come first. What X is, its shape and company say:

    - [N, F] are rows of a table, in which NaN is a missing value;
    - [N, T, C] or [N, T] with `mask` [N, T] or `lengths` [N], or by the name of sequence, are series;
    - [N, H, W], [N, C, H, W] and [N, H, W, C] are images: channels are last where the last axis is shorter than the second.

    y is [N], or [N, targets] for several. Arrays of other names are left out, as `handling` says. Pickled objects are not
    read. Raises DataError naming file, array, shape and the place of a value that cannot be used.
    """
    parts, ignored = _read(path)
    for name, file in (("validation", source.validation_data), ("test", source.test_data)):
        if file and name in parts:
            raise DataError(f"{path}: holds {name} rows of its own; leave out --{name}-data {file}")
        if file:
            others, _ = _read(file, name)
            if len(others) > 1:
                raise DataError(f"{file}: holds rows for {', '.join(others)}; as --{name}-data it must hold one X and one y")
            parts[name] = next(iter(others.values()))
    answers = parts["train"].answers.columns
    for part in parts.values():
        if set(part.inputs) != set(parts["train"].inputs) or part.answers.width != len(answers):
            raise DataError(
                f"{part.path}: holds {', '.join(part.inputs)} and {part.answers.width} targets, where the training rows have "
                f"{', '.join(parts['train'].inputs)} and {len(answers)}"
            )
        part.answers.columns = answers
    handling = {"arrays left out": list(ignored)} if ignored else {}
    return assemble(path.stem, replace(source, target=tuple(answers)), parts, _describe, handling)


def _describe(train: Split, *others: Split) -> Kind:
    if "features" in train.inputs:
        return Rows(columns=numeric(train.inputs["features"]))
    return describe_images(train, *others) if "image" in train.inputs else series.describe(train, *others)


def _read(path: Path, only: Name = "train") -> tuple[dict[Name, Part], list[str]]:
    """The parts of an archive (what names no split is `only`), and the names of arrays that are no part of any."""
    arrays = _open(path)
    found: dict[Name, dict[str, str]] = {}  # for each split, which array plays which role
    ignored = []
    for name in arrays:
        words = name.lower().split("_")
        split = next((SPLITS[word] for word in (words[0], words[-1]) if word in SPLITS), None)
        stem = "_".join(word for word in words if word not in SPLITS) if split else name.lower()
        role = "X" if stem in INPUTS else "y" if stem in TARGETS else stem if stem in SEQUENCES else None
        if role is None:
            ignored.append(name)
            continue
        roles = found.setdefault(split or only, {})
        if role in roles:
            raise DataError(
                f"{path}: arrays {roles[role]!r} and {name!r} are both {role} of the {split or only} rows; leave one out"
            )
        roles[role] = name
    for split, roles in found.items():
        for role, names in (("X", INPUTS), ("y", TARGETS)):
            if role not in roles:
                raise DataError(
                    f"{path}: the {split} rows have no {role}; call it one of {', '.join(names)}; there are {', '.join(arrays)}"
                )
    if only not in found and only == "train":
        raise DataError(f"{path}: needs arrays X and y, or X_train and y_train; there are {', '.join(arrays) or 'none'}")
    return {split: _part(path, arrays, roles) for split, roles in found.items()}, ignored


def _open(path: Path) -> dict[str, Array]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (ValueError, EOFError, OSError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, OSError) and error.filename:
            raise DataError(f"{path}: {error.strerror}") from error
        hint = "; Python objects are not read, so save numbers or text" if "pickle" in str(error) else ""
        raise DataError(f"{path}: cannot be read as an .npz archive ({str(error).split(';')[0].splitlines()[0]}){hint}") from error


def _part(path: Path, arrays: dict[str, Array], roles: dict[str, str]) -> Part:
    name, values = roles["X"], arrays[roles["X"]]
    if values.dtype.kind not in "biuf" or values.ndim < 2:
        raise DataError(f"{path}: array {name!r} is {values.dtype} of shape {list(values.shape)}; rows of numbers are needed")
    if not len(values):
        raise DataError(f"{path}: array {name!r} of shape {list(values.shape)} has no rows")
    values = values.astype(np.float32)
    if "sequence" in name.lower() or any(role in roles for role in SEQUENCES):
        inputs = _sequences(path, name, values, {role: arrays[roles[role]] for role in SEQUENCES if role in roles})
    elif values.ndim == 2:
        _refuse(np.isinf(values), path, name, "infinite, or too large for a float32")
        inputs = {"features": values}
    elif values.ndim in (3, 4):
        _refuse(~np.isfinite(values), path, name, "no finite number")
        inputs = {"image": channels_first(values)}
    else:
        raise DataError(
            f"{path}: array {name!r} has shape {list(values.shape)}; X may be [N, F], [N, T, C], [N, H, W] or [N, C, H, W]"
        )
    return Part(path, inputs, _answers(path, roles["y"], arrays[roles["y"]], len(values)))


def _sequences(path: Path, name: str, values: Array, company: dict[str, Array]) -> Tensors:
    """`sequence` [N, T, C], zero where `mask` [N, T] is false. Steps that are real come first and are finite."""
    if values.ndim == 2:
        values = values[:, :, None]  # [N, T] -> [N, T, 1]
    if values.ndim != 3:
        raise DataError(f"{path}: array {name!r} has shape {list(values.shape)}; sequences are [rows, steps, channels]")
    rows, steps = values.shape[:2]
    if len(company) == 2:
        raise DataError(f"{path}: has both a mask and lengths; leave one out")
    mask = np.ones((rows, steps), bool)
    for role, given in company.items():
        wanted = (rows, steps) if role == "mask" else (rows,)
        if given.shape != wanted or given.dtype.kind not in "biu":
            raise DataError(
                f"{path}: {role!r} is {given.dtype} of shape {list(given.shape)}; {name!r} needs whole numbers of {list(wanted)}"
            )
        mask = given.astype(bool) if role == "mask" else np.arange(steps) < given[:, None]
        lengths = mask.sum(axis=1)
        if role == "lengths" and (given != lengths).any():
            row = int((given != lengths).argmax())
            raise DataError(f"{path}: {role!r} says {given[row]} for row {row}, but {name!r} has {steps} steps")
        wrong = (mask != (np.arange(steps) < lengths[:, None])).any(axis=1) | (lengths == 0)
        if wrong.any():
            raise DataError(
                f"{path}: {role!r} must mark at least one step of row {int(wrong.argmax())}, real steps first, padding last"
            )
    _refuse(~np.isfinite(values) & mask[:, :, None], path, name, "no finite number")
    return {"sequence": np.where(mask[:, :, None], values, np.float32(0)), "mask": mask}


def _refuse(wrong: Array, path: Path, name: str, what: str) -> None:
    if wrong.any():
        at = [int(i) for i in np.unravel_index(int(wrong.argmax()), wrong.shape)]
        raise DataError(f"{path}: array {name!r} at {at}, counted from 0, is {what}; mend or leave out that row")


def _answers(path: Path, name: str, values: Array, rows: int) -> pl.DataFrame:
    """The targets as a table: column "y" for [N] and [N, 1], else "y1", "y2", …"""
    if values.ndim == 1:
        values = values[:, None]  # [N] -> [N, 1]
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "biufUS":
        raise DataError(
            f"{path}: array {name!r} is {values.dtype} of shape {list(values.shape)}; targets are [rows] or [rows, targets]"
        )
    if len(values) != rows:
        raise DataError(f"{path}: array {name!r} has {len(values)} rows, its inputs have {rows}")
    if values.dtype.kind in "US":
        values = values.astype(np.str_)
    elif values.dtype.kind == "f":
        values = values.astype(np.float64)
    names = ["y"] if values.shape[1] == 1 else [f"y{number}" for number in range(1, values.shape[1] + 1)]
    return pl.DataFrame(
        {
            column: pl.Series(list(map(str, row)) if values.dtype.kind == "U" else row)
            for column, row in zip(names, values.T, strict=True)
        }
    )
