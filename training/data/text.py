"""Text from tables: one column is read, turned into tokens by a tokenizer that knows the training texts alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
from tokenizers import Tokenizer

from modelrepo.tensors import ShapeRange
from training.data import splits, tables, targets
from training.data.dataset import DataError, Dataset, Split, Tokens
from training.data.source import Source
from training.data.tokenizer import byte_tokens, learn_bpe, padded, token_ids


def load_text(path: Path, source: Source) -> Dataset:
    """The texts of a table's `--text` column, and the `--target` to predict from each.

    Splits are by class where there are classes. Byte pair encoding is learnt from the training texts only. An empty text is
    one unknown token; a text of more than `--max-length` tokens loses the rest, and `handling` counts both. Raises DataError
    naming file, line, column and value.
    """
    frame = tables.read_table(path, source.header)
    texts = _texts(frame, source, path)
    train, validation, test = splits.divide(
        len(texts),
        source,
        strata=targets.strata(frame, source, path),
        groups=tables.by_value(frame, source.group, path)[0] if source.group else None,
        has_test=source.test_data is not None,
        has_validation=source.validation_data is not None,
    )
    task = targets.learn_task(frame, source, path, train)
    if source.tokenizer == "bytes":
        tokenizer = byte_tokens(lowercase=source.lowercase)
    else:
        tokenizer = learn_bpe([texts[row] for row in train], source.vocabulary, lowercase=source.lowercase)
    vocabulary = Tokenizer.from_str(tokenizer).get_vocab()
    answers = targets.encode(task, frame, source, path)
    read = {"train": (texts, answers, train), "validation": (texts, answers, validation), "test": (texts, answers, test)}
    for part, other in (("validation", source.validation_data), ("test", source.test_data)):
        if other:
            rows = tables.read_table(other, source.header)
            read[part] = (_texts(rows, source, other), targets.encode(task, rows, source, other), np.arange(rows.height))
    ids = {part: token_ids(tokenizer, [texts[row] for row in index]) for part, (texts, _, index) in read.items()}
    parts = {part: _split(ids[part], answers[index], source.max_length) for part, (_, answers, index) in read.items()}
    lengths = {part: split.inputs["mask"].sum(axis=1) for part, split in parts.items()}
    return Dataset(
        name=path.stem,
        kind=Tokens(
            vocabulary=len(vocabulary),
            length=ShapeRange(
                axis="length",
                min=1,
                opt=int(np.median(lengths["train"])),
                max=max(int(length.max()) for length in lengths.values()),
            ),
            tokenizer=tokenizer,
            description=f"the text of {source.text!r} as {'bytes' if source.tokenizer == 'bytes' else 'byte pair encoding'}",
        ),
        task=task,
        train=lambda _epoch: parts["train"],
        validation=parts["validation"],
        test=parts["test"],
        handling={
            "rows": {part: len(split) for part, split in parts.items()},
            f"texts cut after {source.max_length} tokens": {
                part: sum(len(row) > source.max_length for row in rows) for part, rows in ids.items()
            },
            "empty texts, read as one unknown token": {
                part: sum(not texts[row] for row in index) for part, (texts, _, index) in read.items()
            },
        },
    )


def _texts(frame: pl.DataFrame, source: Source, path: Path) -> list[str]:
    """The text column as it stands; a missing text is an empty one."""
    assert source.text is not None  # else another loader reads the table
    tables.require(frame, (source.text,), path)
    if source.text in source.target:
        raise DataError(f"{path}: column {source.text!r} is both --text and --target; predict another column")
    column = frame[source.text]
    if column.dtype.is_nested() or column.dtype == pl.Binary:
        raise DataError(f"{path}: column {source.text!r} holds {column.dtype}, not text")
    return column.cast(pl.String).fill_null("").to_list()


def _split(ids: list[list[int]], answers: npt.NDArray[np.generic], max_length: int) -> Split:
    tokens, mask = padded(ids, max_length)
    return Split({"tokens": tokens, "mask": mask}, answers)
