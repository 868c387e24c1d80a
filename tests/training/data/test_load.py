from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training import data
from training.data.source import Source

TABLE = "x,y\n" + "".join(f"{n},{n % 2}\n" for n in range(40))
TEXT = "text\tmood\n" + "".join(f"it is {mood} {n}\t{mood}\n" for n in range(20) for mood in ("good", "bad"))
STEPS = "who,value,kind\n" + "".join(f"s{s},{s + t},{'ab'[s % 2]}\n" for s in range(20) for t in range(3))
TS = "@problemName P\n@univariate true\n@classLabel true a b\n@data\n" + "1,2,3:a\n2,3,4:b\n" * 10


def put(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("file", "text", "source", "kind"),
    [
        pytest.param("t.csv", TABLE, Source(target=("y",)), "Rows", id="table"),
        pytest.param("t.tsv", TEXT, Source(target=("mood",), text="text", vocabulary=300), "Tokens", id="text"),
        pytest.param("t.csv", STEPS, Source(target=("kind",), series="who"), "Series", id="series"),
        pytest.param("t.csv", TABLE, Source(target=("x",), horizon=2, window=6), "Series", id="forecast"),
        pytest.param("t.ts", TS, Source(), "Series", id="ts"),
    ],
)
def test_the_suffix_and_the_options_say_how_a_file_is_read(tmp_path, file, text, source, kind):
    dataset = data.load(put(tmp_path / file, text), source)
    assert type(dataset.kind).__name__ == kind
    assert len(dataset.train(1))
    assert len(dataset.validation)
    assert len(dataset.test)


def test_a_parquet_table_and_its_csv_are_the_same_data(tmp_path):
    pl.read_csv(TABLE.encode()).write_parquet(tmp_path / "t.parquet")
    source = Source(target=("y",))
    assert (
        data.load(put(tmp_path / "t.csv", TABLE), source).fingerprint()
        == data.load(str(tmp_path / "t.parquet"), source).fingerprint()
    )


def test_a_folder_of_train_and_test_ts_files_is_an_official_split(tmp_path):
    put(tmp_path / "P_TRAIN.ts", TS)
    put(tmp_path / "P_TEST.ts", TS + "5,6,7:a\n")
    assert len(data.load(str(tmp_path)).test) == 21
    with pytest.raises(data.DataError, match=r"holds the official test split P_TEST.ts; leave out --test-data other.ts"):
        data.load(str(tmp_path), Source(test_data=Path("other.ts")))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param(
            "spirl",
            r"no data called 'spirl' \(did you mean 'spirals'\?\): built in are adding, adding-100, .* tables \(.csv",
            id="near",
        ),
        pytest.param("data/none.csv", r"no data called 'data/none.csv': no such file or folder; built in are adding", id="path"),
        pytest.param("", r"no data called '': built in are adding", id="empty"),
        pytest.param(__file__, r"test_load.py: its name does not say what it is; known are tables \(.csv", id="suffix"),
    ],
)
def test_unknown_data_names_what_there_is(name, message):
    with pytest.raises(data.DataError, match=message):
        data.load(name)


def test_a_name_is_built_in_and_a_dot_makes_it_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "iris").mkdir()
    assert data.load("iris").name == "iris"
    with pytest.raises(data.DataError, match=r"iris: has no folders; images lie in one folder per class"):
        data.load("./iris")


@pytest.mark.parametrize(
    ("source", "option"),
    [
        pytest.param(Source(target=("species",)), "--target", id="target"),
        pytest.param(Source(test_data=Path("x.csv")), "--test-data", id="test-data"),
        pytest.param(Source(test=0.3), "--test", id="test"),
        pytest.param(Source(header=False), "--header", id="header"),
    ],
)
def test_an_option_that_built_in_data_would_not_heed_is_refused(source, option):
    with pytest.raises(
        data.DataError, match=rf"--data iris is built in, with its own splits: {option} does nothing here, leave it out"
    ):
        data.load("iris", source)


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        pytest.param(
            "t.csv", Source(target=("y",), lowercase=True), r"t.csv is read as a table: --lowercase does nothing", id="table"
        ),
        pytest.param("t.csv", Source(target=("y",), text="x", drop=("z",)), r"is read as text: --drop does nothing", id="text"),
        pytest.param("t.npz", Source(target=("y",)), r"is read as an .npz archive: --target does nothing", id="arrays"),
        pytest.param("t.ts", Source(group="y"), r"is read as a .ts file: --group does nothing", id="ts"),
    ],
)
def test_an_option_that_a_file_would_not_heed_is_refused(tmp_path, file, source, message):
    with pytest.raises(data.DataError, match=message):
        data.load(put(tmp_path / file, TABLE), source)


def test_all_built_in_names_are_those_their_data_says():
    for name in sorted(set(data.BUILTIN) - {"fashion-mnist", "listops", "sunspots"}):  # not here, or slow
        dataset = data.load(name)
        assert dataset.name == name
        assert np.isfinite(dataset.test.targets).all()
