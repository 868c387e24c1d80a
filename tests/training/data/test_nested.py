"""Parquet with a picture, a sequence or tokens in each row, in a file or in a folder of them."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from training import data
from training.data.dataset import DataError
from training.data.source import Source

N = 40
RNG = np.random.default_rng(0)
LABELS = ["no", "yes"] * (N // 2)
IMAGES = RNG.integers(0, 256, (N, 3, 4, 5)).astype(np.float32)
SEQUENCES = [RNG.normal(size=(length, 2)).astype(np.float32) for length in [2, 3, 7, 4] * (N // 4)]
TOKENS = [RNG.integers(0, 30, length).tolist() for length in [2, 3, 7, 4] * (N // 4)]
LABEL = Source(target=("label",))
NESTED = {
    "an image": (pl.Series("image", IMAGES), "Images"),
    "an image in lists": (pl.Series("image", IMAGES[:, 0].tolist()), "Images"),
    "a sequence": (pl.Series("sequence", [steps.tolist() for steps in SEQUENCES], pl.List(pl.Array(pl.Float32, 2))), "Series"),
    "a sequence in lists": (pl.Series("sequence", [steps.tolist() for steps in SEQUENCES]), "Series"),
    "one channel": (pl.Series("sequence", [steps[:, 0].tolist() for steps in SEQUENCES]), "Series"),
    "tokens": (pl.Series("tokens", TOKENS), "Tokens"),
}


def write(path, column, rows=slice(None), **others):
    path.parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame(
        [column[rows], pl.Series("label", LABELS[rows]), *(pl.Series(name, of) for name, of in others.items())]
    ).write_parquet(path)
    return path


@pytest.mark.parametrize(("column", "kind"), NESTED.values(), ids=NESTED)
def test_a_column_says_by_its_name_what_it_is(tmp_path, column, kind):
    dataset = data.load(str(write(tmp_path / "d.parquet", column, extra=range(N))), LABEL)
    assert type(dataset.kind).__name__ == kind
    assert dataset.task.labels == ("no", "yes")
    assert dataset.handling["columns left out"] == ["extra"]
    found = np.concatenate([split.inputs[dataset.kind.input].reshape(len(split), -1).sum(axis=1) for split in _splits(dataset)])
    given = [np.sum(row) for row in column.to_list()]
    np.testing.assert_allclose(np.sort(found), np.sort(given), rtol=1e-3, atol=1e-4)
    if kind != "Images":
        lengths = np.concatenate([split.inputs["mask"].sum(axis=1) for split in _splits(dataset)])
        assert sorted(lengths.tolist()) == sorted([2, 3, 7, 4] * (N // 4))


def _splits(dataset):
    return dataset.train(1), dataset.validation, dataset.test


def test_files_of_a_folder_are_one_table_at_any_depth(tmp_path):
    column = pl.Series("tokens", TOKENS)
    whole = data.load(str(write(tmp_path / "whole.parquet", column)), LABEL)
    write(tmp_path / "parts" / "1" / "a.parquet", column, slice(0, 30))
    write(tmp_path / "parts" / "2" / "b.parquet", column, slice(30, None))
    (tmp_path / "parts" / "2" / ".c.parquet.part").write_bytes(b"half a file")
    parts = data.load(str(tmp_path / "parts"), LABEL)
    assert parts.fingerprint() == whole.fingerprint()
    test = write(tmp_path / "test.parquet", column, slice(10))
    assert len(data.load(str(tmp_path / "parts"), Source(target=("label",), test_data=test)).test) == 10


def test_a_table_in_several_files_keeps_its_names_and_leaves_out_what_is_about_requests(tmp_path):
    for number, towns in enumerate((["1", "2"], ["2", "3"])):
        frame = pl.DataFrame({"age": np.arange(20.0) + number, "town": pl.Series(towns * 10).cast(pl.Categorical)})
        label = pl.Series("bought", (["no", "yes"] * 10)).cast(pl.Categorical)
        frame = frame.with_columns(
            label, pl.Series("quartet:version", ["7"] * 10 + ["8"] * 10), pl.Series("quartet:p", [[0.1]] * 20)
        )
        frame.write_parquet(tmp_path / f"{number}.parquet")
    dataset = data.load(str(tmp_path), Source(target=("bought",)))
    assert [(column.name, column.type) for column in dataset.kind.columns] == [("age", "numeric"), ("town", "categorical")]
    assert dataset.kind.columns[1].categories == ("1", "2", "3"), "which are names, though they look like numbers"
    assert data.load(str(tmp_path), Source(target=("quartet:version",))).task.labels == ("7", "8"), "unless it is asked for"


@pytest.mark.parametrize(
    ("column", "message"),
    [
        pytest.param(pl.Series("image", [[1, 2], [3, 4]] * (N // 2)), r"'image' holds arrays of shape \[2\]", id="no picture"),
        pytest.param(
            pl.Series("image", [[[1]], [[1], [2]]] * (N // 2)), "in as many of them for each row", id="pictures of two sizes"
        ),
        pytest.param(
            pl.Series("image", [[[1.0]], [[float("nan")]]] * (N // 2)), "row 2, column 'image': holds what is no", id="NaN"
        ),
        pytest.param(pl.Series("image", [[[1.0]], None] * (N // 2)), "row 2, column 'image': is missing", id="missing"),
        pytest.param(pl.Series("tokens", [[1], []] * (N // 2)), "row 2, column 'tokens': has no steps", id="empty"),
        pytest.param(pl.Series("tokens", [[1], [2, -1]] * (N // 2)), "row 2, column 'tokens': holds a negative", id="negative"),
        pytest.param(pl.Series("tokens", [[1.5], [2.0]] * (N // 2)), "tokens are lists of whole numbers", id="fractions"),
        pytest.param(
            pl.Series("sequence", [[1.0], [float("inf")]] * (N // 2)), "row 2, column 'sequence': holds what", id="infinite"
        ),
        pytest.param(pl.Series("sequence", [["a"], ["b"]] * (N // 2)), "'sequence' holds String", id="text"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, column, message):
    with pytest.raises(DataError, match=message):
        data.load(str(write(tmp_path / "d.parquet", column)), LABEL)


def test_files_that_do_not_fit_together_are_named(tmp_path):
    write(tmp_path / "a.parquet", pl.Series("tokens", TOKENS))
    write(tmp_path / "b.parquet", pl.Series("tokens", TOKENS), more=range(N))
    with pytest.raises(DataError, match=r"b\.parquet: column 'more' is in this file or in .*a\.parquet, not in both"):
        data.load(str(tmp_path), LABEL)
    write(tmp_path / "b.parquet", pl.Series("tokens", ["x"] * N))
    with pytest.raises(DataError, match="its files do not fit together"):
        data.load(str(tmp_path), LABEL)
    (tmp_path / "b.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"b\.parquet: cannot be read as Parquet"):
        data.load(str(tmp_path), LABEL)


def test_options_that_say_nothing_here_are_refused(tmp_path):
    path = write(tmp_path / "d.parquet", pl.Series("tokens", TOKENS))
    with pytest.raises(DataError, match="is read as rows that hold arrays: --drop does nothing here"):
        data.load(str(path), Source(target=("label",), drop=("x",)))
    with pytest.raises(DataError, match="no column 'lable'"):
        data.load(str(path), Source(target=("lable",)))
    with pytest.raises(DataError, match="say with --target which column"):
        data.load(str(path))
    image = write(tmp_path / "test.parquet", pl.Series("image", IMAGES))
    with pytest.raises(DataError, match=r"test\.parquet: holds 'image', the training data 'tokens'"):
        data.load(str(path), Source(target=("label",), test_data=image))
