"""Parquet whose rows hold a picture, a sequence of numbers or tokens each, as a service keeps what it was asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from modelrepo.tensors import Array, ShapeRange, Tensors
from training.data import series, tables
from training.data.dataset import DataError, Dataset, Kind, Split, Tokens
from training.data.images import channels_first, describe_images
from training.data.parts import Name, Part, assemble
from training.data.source import Source

INPUTS = ("image", "sequence", "tokens")


def holds_nested(path: Path) -> bool:
    """Whether a Parquet file, or the first of a folder, has an input column of arrays or lists."""
    files = tables.parquet_files(path) or ([path] if path.suffix == ".parquet" and path.is_file() else [])
    if not files:
        return False
    try:
        schema = pl.read_parquet_schema(files[0])
    except pl.exceptions.PolarsError:
        return False  # whoever reads it says what is wrong
    return any(name in INPUTS and dtype.is_nested() for name, dtype in schema.items())


def load_nested(path: Path, source: Source) -> Dataset:
    """A column `image` ([H, W], [C, H, W] or [H, W, C]), `sequence` ([T, C] or [T]) or `tokens` ([T], whole numbers from 0 on).

    `--target` names columns beside it; all others are left out. Sequences may differ in length, pictures not. Token ids are taken
    as they are: the vocabulary ends with the largest. Raises DataError naming file, row and column.
    """
    parts: dict[Name, Part] = {"train": _part(path, source)}
    if source.validation_data:
        parts["validation"] = _part(source.validation_data, source)
    if source.test_data:
        parts["test"] = _part(source.test_data, source)
    (name, *_) = parts["train"].inputs
    for part in parts.values():
        if name not in part.inputs:
            raise DataError(f"{part.path}: holds {next(iter(part.inputs))!r}, the training data {name!r}")
    left_out = [column for column in parts["train"].answers.columns if column not in source.target]
    return assemble(path.stem, source, parts, _describe, {"columns left out": left_out} if left_out else {})


def _describe(train: Split, *others: Split) -> Kind:
    if "image" in train.inputs:
        return describe_images(train)
    if "sequence" in train.inputs:
        return series.describe(train, *others)
    splits = (train, *others)
    lengths = [split.inputs["mask"].sum(axis=1) for split in splits]
    return Tokens(
        vocabulary=1 + max(int(split.inputs["tokens"].max()) for split in splits),
        length=ShapeRange(axis="length", min=1, opt=int(np.median(lengths[0])), max=max(int(length.max()) for length in lengths)),
    )


def _part(path: Path, source: Source) -> Part:
    frame = tables.read_table(path, source.header)
    tables.require(frame, source.target, path)
    name = next((name for name in INPUTS if name in frame.columns and frame[name].dtype.is_nested()), None)
    if name is None:
        raise DataError(f"{path}: has no column of arrays or lists called {', '.join(INPUTS)}")
    values = frame[name]
    if values.has_nulls():
        raise DataError(f"{path}: row {int(values.is_null().arg_max() or 0) + 1}, column {name!r}: is missing; leave such rows out")
    inputs = {"image": _image(values, path)} if name == "image" else _ragged(values, path)
    return Part(path, inputs, frame.drop(name))


def _image(values: pl.Series, path: Path) -> Array:
    """[N, C, H, W]."""
    pixels = _numbers(values, path).astype(np.float32)
    if pixels.ndim not in (3, 4):
        raise DataError(f"{path}: column 'image' holds arrays of shape {list(pixels.shape[1:])}; a picture is [H, W] or [C, H, W]")
    _refuse(~np.isfinite(pixels).reshape(len(pixels), -1).all(axis=1), values.name, path, "holds what is no finite number")
    return channels_first(pixels)


def _ragged(values: pl.Series, path: Path) -> Tensors:
    """`sequence` [N, T, C] float32 or `tokens` [N, T] int64, zero where `mask` [N, T] is false."""
    lists = values.arr.to_list() if values.dtype == pl.Array else values
    lengths = lists.list.len().to_numpy().astype(np.int64)
    _refuse(lengths == 0, values.name, path, "has no steps")
    steps = _numbers(lists.explode(), path)
    row = np.repeat(np.arange(len(lengths)), lengths)
    mask = np.arange(lengths.max()) < lengths[:, None]  # [N, T]
    if values.name == "tokens":
        if steps.ndim != 1 or steps.dtype.kind not in "iu":
            raise DataError(f"{path}: column 'tokens' holds {values.dtype}; tokens are lists of whole numbers")
        _refuse(np.bincount(row, steps < 0) > 0, "tokens", path, "holds a negative token")
        tokens = np.zeros(mask.shape, np.int64)
        tokens[mask] = steps
        return {"tokens": tokens, "mask": mask}
    if steps.ndim == 1:
        steps = steps[:, None]  # [steps] -> [steps, 1]
    if steps.ndim != 2:
        raise DataError(f"{path}: column 'sequence' holds {values.dtype}; a sequence is [steps, channels]")
    _refuse(np.bincount(row, ~np.isfinite(steps).all(axis=1)) > 0, "sequence", path, "holds what is no finite number")
    sequence = np.zeros((*mask.shape, steps.shape[1]), np.float32)
    sequence[mask] = steps
    return {"sequence": sequence, "mask": mask}


def _numbers(values: pl.Series, path: Path) -> Array:
    """Arrays, or lists of the same lengths, as one array; a missing number is NaN."""
    try:
        plain: Array = values.to_numpy() if not isinstance(values.dtype, pl.List) else np.array(values.to_list())
    except (ValueError, pl.exceptions.PolarsError):
        plain = np.array(0)
    if plain.dtype.kind not in "biuf" or plain.ndim == 0:
        raise DataError(f"{path}: column {values.name!r} holds {values.dtype}; it takes numbers, in as many of them for each row")
    return plain


def _refuse(wrong: npt.NDArray[np.bool_], column: str, path: Path, what: str) -> None:
    if wrong.any():
        raise DataError(f"{path}: row {int(wrong.argmax()) + 1}, column {column!r}: {what}; mend or leave out that row")
