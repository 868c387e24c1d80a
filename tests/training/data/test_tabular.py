from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training import data
from training.data.dataset import DataError
from training.data.source import Source

RNG = np.random.default_rng(0)
ROWS = 60


def people(tmp_path: Path, file: str = "people.csv", **changes: list) -> str:
    """A table of 60 people: age, town (two), a constant planet, an empty column and whether they came."""
    columns = {
        "age": [str(20 + n % 40) for n in range(ROWS)],
        "town": [("Ulm", "Bonn")[n % 2] for n in range(ROWS)],
        "planet": ["earth"] * ROWS,
        "empty": ["NA"] * ROWS,
        "came": [("no", "yes")[n % 3 == 0] for n in range(ROWS)],
    } | changes
    pl.DataFrame({key: column for key, column in columns.items() if column}).write_csv(tmp_path / file)
    return str(tmp_path / file)


CAME = Source(target=("came",))


def test_columns_are_typed_by_their_values_and_those_without_any_are_left_out(tmp_path):
    dataset = data.load(people(tmp_path), CAME)
    age, town = dataset.kind.columns
    assert (age.type, age.name, age.missing) == ("numeric", "age", False)
    assert (town.type, town.categories, town.missing) == ("categorical", ("Bonn", "Ulm"), False)
    assert dataset.handling == {
        "rows": {"train": 42, "validation": 6, "test": 12},
        "columns left out": {"planet": "always 'earth' in the training rows", "empty": "no value in the training rows"},
    }


def test_rows_hold_numbers_and_the_index_of_categories(tmp_path):
    dataset = data.load(people(tmp_path), CAME)
    seen = {
        (int(age), int(town), int(came))
        for (age, town), (came,) in zip(dataset.test.inputs["features"], dataset.test.targets, strict=True)
    }
    assert dataset.test.inputs["features"].dtype == np.float32
    assert seen <= {(20 + n % 40, int(n % 2 == 0), int(n % 3 == 0)) for n in range(ROWS)}


def test_moments_are_those_of_the_training_rows(tmp_path):
    dataset = data.load(people(tmp_path), CAME)
    ages = dataset.train(1).inputs["features"][:, 0]
    assert dataset.kind.columns[0].mean == pytest.approx(ages.mean(), rel=1e-5)
    assert dataset.kind.columns[0].scale == pytest.approx(ages.std(), rel=1e-5)


def test_missing_values_become_nan_and_are_counted_by_column(tmp_path):
    ages = ["?", "", "NaN", "null"] * 5 + ["33"] * 20 + ["44"] * 20
    dataset = data.load(people(tmp_path, age=ages, town=["Ulm", "NA", "Bonn"] * 20), CAME)
    age, town = dataset.kind.columns
    assert age.missing
    assert town.missing
    assert town.categories == ("Bonn", "Ulm")
    counts = dataset.handling["missing values and unknown categories"]
    assert sum(counts["age"].values()) == sum(counts["town"].values()) == 20
    assert counts["age"]["train"] == np.isnan(dataset.train(1).inputs["features"][:, 0]).sum()
    assert 33 < age.mean < 44


def test_a_category_that_training_lacks_becomes_nan(tmp_path):
    test = people(tmp_path, "test.csv", town=["Rom", "Ulm", "Bonn"] * 20)
    dataset = data.load(people(tmp_path), Source(target=("came",), test_data=Path(test)))
    assert np.isnan(dataset.test.inputs["features"][:, 1]).sum() == 20
    assert not dataset.kind.columns[1].missing, "training lacked none"
    assert dataset.handling["missing values and unknown categories"] == {"town": {"train": 0, "validation": 0, "test": 20}}


def test_an_official_split_is_matched_by_name(tmp_path):
    frame = pl.read_csv(people(tmp_path))
    frame.select("came", pl.lit(1).alias("new"), "town", "age").write_csv(tmp_path / "test.csv")
    dataset = data.load(str(tmp_path / "people.csv"), Source(target=("came",), test_data=tmp_path / "test.csv"))
    assert len(dataset.test) == ROWS
    assert dataset.test.inputs["features"][:3, 0].tolist() == [20, 21, 22]
    with pytest.raises(DataError, match=r"test.csv: no column 'age'; there are town, came"):
        frame.select("town", "came").write_csv(tmp_path / "test.csv")
        data.load(str(tmp_path / "people.csv"), Source(target=("came",), test_data=tmp_path / "test.csv"))


def test_booleans_are_categories(tmp_path):
    pl.DataFrame({"x": [True, False, None] * 10, "y": RNG.normal(size=30)}).write_parquet(tmp_path / "t.parquet")
    (column,) = data.load(str(tmp_path / "t.parquet"), Source(target=("y",))).kind.columns
    assert (column.type, column.categories, column.missing) == ("categorical", ("false", "true"), True)


def test_dropped_columns_and_the_group_are_no_features(tmp_path):
    patients = [f"p{n // 4}" for n in range(ROWS)]
    path = people(tmp_path, patient=patients, noise=[f"{n}" for n in range(ROWS)])
    dataset = data.load(path, Source(target=("came",), drop=("noise",), group="patient"))
    assert [column.name for column in dataset.kind.columns] == ["age", "town"]
    ages = [set(split.inputs["features"][:, 0]) for split in (dataset.validation, dataset.test)]  # a patient's ages are its own
    assert not ages[0] & ages[1]


def test_row_numbers_without_a_name_are_left_out(tmp_path):
    lines = Path(people(tmp_path)).read_text().splitlines()
    (tmp_path / "people.csv").write_text("\n".join([f",{lines[0]}", *(f"{n},{line}" for n, line in enumerate(lines[1:]))]))
    dataset = data.load(str(tmp_path / "people.csv"), CAME)
    assert [column.name for column in dataset.kind.columns] == ["age", "town"]
    assert dataset.handling["columns left out"]["1"] == "row numbers"


def test_a_regression_learns_numbers_in_the_datas_own_units(tmp_path):
    dataset = data.load(people(tmp_path), Source(target=("age",)))
    assert dataset.task.type == "regression"
    assert dataset.task.mean[0] == pytest.approx(dataset.train(1).targets.mean(), rel=1e-5)


@pytest.mark.parametrize(
    ("changes", "source", "message"),
    [
        pytest.param({}, Source(), r"say with --target which column to predict; there are age, town", id="no-target"),
        pytest.param({}, Source(target=("cane",)), r"no column 'cane' \(did you mean 'came'\?\)", id="misspelt-target"),
        pytest.param({}, Source(target=("came",), drop=("twn",)), r"no column 'twn' \(did you mean 'town'\?\)", id="misspelt-drop"),
        pytest.param({}, Source(target=("came",), group="tribe"), r"no column 'tribe'", id="no-such-group"),
        pytest.param(
            {}, Source(target=("came",), drop=("came",)), r"--target came is also left out by --drop", id="target-dropped"
        ),
        pytest.param(
            {}, Source(target=("came",), drop=("age", "town")), r"no column is left to predict came from", id="nothing-left"
        ),
        pytest.param(
            {"name": [f"n{n}" for n in range(ROWS)]},
            CAME,
            r"line 2, column 'name': 'n0' is no number, and 42 different values .* --drop name",
            id="id",
        ),
        pytest.param(
            {"age": [str(n) for n in range(ROWS - 1)] + ["old"]},
            CAME,
            r"line 61, column 'age': 'old' is no number, and",
            id="bad-number",
        ),
        pytest.param({"age": ["1", "inf"] * 30}, CAME, r"line 3, column 'age': 'inf' is no number", id="infinite"),
        pytest.param(
            {"patient": ["a", ""] * 30},
            Source(target=("came",), group="patient"),
            r"line 3, column 'patient': is empty, so it is not known where the line belongs",
            id="no-group",
        ),
        pytest.param(
            {"came": ["yes", ""] * 30},
            CAME,
            r"line 3, column 'came': the target is missing, here and in 30 of 60",
            id="no-target-value",
        ),
    ],
)
def test_what_cannot_be_learnt_from_is_refused_with_the_place_and_a_way_out(tmp_path, changes, source, message):
    with pytest.raises(DataError, match=message):
        data.load(people(tmp_path, **changes), source)


def test_a_date_is_refused_with_a_way_out(tmp_path):
    frame = pl.DataFrame({"day": ["2020-01-01", "2020-01-02"] * 20, "y": [0, 1] * 20}).with_columns(pl.col("day").str.to_date())
    frame.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="column 'day' holds Date, neither numbers nor names; leave it out with --drop day"):
        data.load(str(tmp_path / "t.parquet"), Source(target=("y",)))
