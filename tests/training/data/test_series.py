from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.dataset import DataError
from training.data.series import interpolated, load_series
from training.data.source import Source

SOURCE = Source(series="id", target=("kind",), drop=("time",))


def long_table(count=40):
    """Series s0, s1, … of 3 to 6 steps, whose first channel counts steps and whose second is the number of the series."""
    return [
        {
            "id": f"s{i}",
            "time": f"12:0{step}",
            "step": float(step),
            "who": float(i),
            "kind": "odd" if i % 2 else "even",
            "site": i // 4,
        }
        for i in range(count)
        for step in range(3 + i % 4)
    ]


@pytest.fixture
def write(tmp_path):
    def write(rows, name="long.csv"):
        path = tmp_path / name
        frame = pl.DataFrame(rows)
        frame.write_parquet(path) if name.endswith(".parquet") else frame.write_csv(path)
        return path

    return write


def drop(source, *columns):
    return Source(series=source.series, target=source.target, drop=columns)


@pytest.mark.parametrize("name", ["long.csv", "long.parquet"])
def test_lines_become_series_divided_by_class(write, name):
    dataset = load_series(write(long_table(), name), drop(SOURCE, "time", "site"))
    assert dataset.task.labels == ("even", "odd")
    assert dataset.handling["channels"] == ["step", "who"]
    assert [len(split) for split in (dataset.train(1), dataset.validation, dataset.test)] == [28, 4, 8]
    assert (dataset.kind.length.min, dataset.kind.length.max) == (1, 6)
    whole = [dataset.train(1), dataset.validation, dataset.test]
    seen = []
    for split in whole:
        sequence, mask = split.inputs["sequence"], split.inputs["mask"]
        who = sequence[:, 0, 1]
        seen += who.tolist()
        np.testing.assert_array_equal(mask.sum(axis=1), 3 + who % 4)
        np.testing.assert_array_equal(split.targets[:, 0], who % 2)
        np.testing.assert_array_equal(sequence[..., 0], np.arange(mask.shape[1]) * mask)
    assert sorted(seen) == list(range(40)), "every series is in one split"


def test_series_may_be_interleaved(write):
    rows = long_table()
    by_time = sorted(rows, key=lambda row: row["time"])
    one, other = (load_series(write(order, "long.csv"), drop(SOURCE, "time", "site")) for order in (rows, by_time))
    assert one.fingerprint() == other.fingerprint()


def test_a_number_per_series_makes_a_regression(write):
    rows = [{**row, "kind": 0.5 * row["who"]} for row in long_table()]
    dataset = load_series(write(rows), drop(SOURCE, "time", "site"))
    assert dataset.task.type == "regression"
    np.testing.assert_allclose(dataset.test.targets[:, 0], dataset.test.inputs["sequence"][:, 0, 1] / 2)
    np.testing.assert_allclose(dataset.task.mean, dataset.train(1).targets.mean(axis=0), rtol=1e-6)


def test_a_class_is_told_by_series_not_by_lines(write):
    rows = [{**row, "kind": int(row["who"])} for row in long_table(10) for _ in range(10)]
    assert load_series(write(rows), drop(SOURCE, "time", "site")).task.type == "regression", "10 values for 10 series"


def test_series_of_a_group_stay_together(write):
    source = Source(series="id", target=("kind",), drop=("time",), group="site")
    dataset = load_series(write(long_table()), source)
    assert dataset.handling["channels"] == ["step", "who"]
    sites = [set(split.inputs["sequence"][:, 0, 1] // 4) for split in (dataset.train(1), dataset.validation, dataset.test)]
    assert not sites[0] & sites[1]
    assert not sites[0] & sites[2]
    assert not sites[1] & sites[2]


def test_official_splits_are_read_with_the_same_channels(write):
    test = [{"kind": "odd", "who": 1.0, "id": "t", "step": 9.0, "more": 5}]
    source = Source(
        series="id",
        target=("kind",),
        drop=("time", "site"),
        test_data=write(test, "test.csv"),
        validation_data=write(test, "val.csv"),
    )
    dataset = load_series(write(long_table()), source)
    assert [len(split) for split in (dataset.train(1), dataset.validation, dataset.test)] == [40, 1, 1]
    assert dataset.test.inputs["sequence"].tolist() == [[[9, 1]]]
    assert dataset.test.targets.tolist() == [[1]]


def test_missing_values_are_filled_in_from_the_series_and_counted(write):
    rows = long_table()
    rows[1]["step"] = rows[3]["who"] = None
    dataset = load_series(write(rows), drop(SOURCE, "time", "site"))
    assert dataset.handling["missing values"] == 2
    assert dataset.fingerprint() == load_series(write(long_table()), drop(SOURCE, "time", "site")).fingerprint()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.none(), st.integers(-9, 9)), min_size=1, max_size=12).filter(any))
def test_filled_in_values_lie_between_known_ones(values):
    steps = np.array([np.nan if value is None else value for value in values])[:, None]
    result = interpolated(steps)[:, 0]
    known = ~np.isnan(steps[:, 0])
    assert not np.isnan(result).any()
    np.testing.assert_array_equal(result[known], steps[known, 0])
    for step in range(len(result)):
        before, after = steps[: step + 1][known[: step + 1], 0], steps[step:][known[step:], 0]
        ends = [*before[-1:], *after[:1]]
        assert min(ends) <= result[step] <= max(ends)


@pytest.mark.parametrize(
    ("change", "source", "message"),
    [
        pytest.param(
            {"kind": "even"}, SOURCE, r"line 6, column 'kind': 'even', but series 's1' began with 'odd'", id="target-changes"
        ),
        pytest.param({"kind": None}, SOURCE, r"line 6, column 'kind': is empty", id="target-missing"),
        pytest.param(
            {"id": None}, SOURCE, r"line 6, column 'id': is empty, so it is not known where the line belongs", id="no-series"
        ),
        pytest.param({"step": "x"}, SOURCE, r"line 6, column 'step': 'x' is no.*--drop step", id="word"),
        pytest.param({}, Source(series="id", target=("kind",)), r"column 'time': '12:00' is no.*--drop time", id="times"),
        pytest.param({}, Source(series="idd", target=("kind",)), r"no column 'idd' \(did you mean 'id'\?\)", id="misspelt-series"),
        pytest.param({}, Source(series="id", target=("kid",)), r"no column 'kid'", id="misspelt-target"),
        pytest.param({}, Source(series="id"), "series need --series.*and --target", id="no-target"),
        pytest.param({}, drop(SOURCE, "time", "step", "who", "site"), "no column is left", id="no-channel"),
        pytest.param(
            {"kind": "x"},
            Source(series="id", target=("kind",), drop=("time",), task="regression"),
            r"line 6, column 'kind': 'x', but series 's1' began",
            id="changes-in-regression",
        ),
        pytest.param(
            {},
            Source(series="id", target=("kind",), drop=("time",), task="regression"),
            r"line 2, column 'kind': 'even' is no",
            id="names-in-regression",
        ),
    ],
)
def test_a_broken_line_is_refused_by_place_and_value(write, change, source, message):
    rows = [dict(row) for row in long_table()]
    for row in rows:
        row.update({key: str(value) if isinstance(value, float) else value for key, value in row.items()})
    rows[4].update(change)  # the second line of series s1, line 6 of the file
    with pytest.raises(DataError, match=f"long.csv: .*{message}"):
        load_series(write(rows), source)


def test_a_group_that_changes_within_a_series_is_refused(write):
    rows = long_table()
    rows[4]["site"] = 7
    with pytest.raises(DataError, match="line 6, column 'site': '7', but series 's1' began with '0'"):
        load_series(write(rows), Source(series="id", target=("kind",), drop=("time",), group="site"))


def test_a_channel_without_any_value_in_a_series_is_refused(write):
    rows = [{**row, "who": None} if row["id"] == "s1" else row for row in long_table()]
    with pytest.raises(DataError, match="line 5, column 'who': series 's1' has no value here on any of its lines"):
        load_series(write(rows), drop(SOURCE, "time", "site"))


def test_a_label_only_the_test_file_has_is_named_by_its_line(write):
    test = [{**row, "kind": "even" if row["id"] == "s0" else "odder"} for row in long_table(2)]
    source = Source(series="id", target=("kind",), drop=("time",), test_data=write(test, "test.csv"))
    with pytest.raises(DataError, match=r"test.csv: line 5, column 'kind': no training row has the label 'odder'"):
        load_series(write(long_table()), source)
