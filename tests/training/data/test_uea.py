from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from training.data.dataset import DataError
from training.data.source import Source
from training.data.uea import load_ts, read_ts

VOWELS = Path(os.environ.get("QUARTET_SHARED", "/work/shared")) / "data/japanese-vowels"
HEADER = "# a comment\n@problemName Waves\n@timeStamps false\n@univariate false\n@dimensions 2\n@classLabel true up down\n@data\n"
ROWS = [f"{i},{i + 1},{i + 2}:{-i},{-i},{-i}:{'up' if i % 2 else 'down'}" for i in range(20)]


@pytest.fixture
def write(tmp_path):
    def write(text, name="waves.ts"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6).flatmap(lambda t: arrays(np.float64, (t, 3), elements=st.floats(-1e6, 1e6))), min_size=1, max_size=5)
)
def test_what_is_written_is_read(tmp_path_factory, series):
    path = tmp_path_factory.getbasetemp() / "written.ts"
    lines = [":".join(",".join(map(repr, channel)) for channel in steps.T.tolist()) + ":b" for steps in series]
    path.write_text("@CLASSLABEL true a b\n@Data\n" + "\n".join(lines) + "\n")
    file = read_ts(path)
    assert file.labels == ("a", "b")
    assert file.answers == ["b"] * len(series)
    for read, written in zip(file.series, series, strict=True):
        np.testing.assert_array_equal(read, written)


def test_series_of_several_lengths_are_padded_and_divided_by_class(write):
    rows = [":".join([",".join(["7"] * (3 + i % 5))] * 2) + (":up" if i % 2 else ":down") for i in range(40)]
    dataset = load_ts(write(HEADER + "\n".join(rows)), Source())
    assert dataset.name == "Waves"
    assert dataset.task.type == "binary"
    assert dataset.task.labels == ("up", "down")
    assert [len(split) for split in (dataset.train(1), dataset.validation, dataset.test)] == [28, 4, 8]
    assert dataset.test.targets.dtype == np.float32
    assert dataset.test.targets.sum() == 4, "half of the test rows are of the second label"
    span = dataset.kind.length
    assert (span.min, span.opt, span.max) == (1, 5, 7)
    sequence, mask = dataset.train(1).inputs["sequence"], dataset.train(1).inputs["mask"]
    assert sequence.dtype == np.float32
    np.testing.assert_array_equal(sequence, np.where(mask[..., None], 7, 0).repeat(1, axis=2) * np.ones((1, 1, 2)))
    assert dataset.kind.mean == (7, 7), "padding takes no part in the mean"


def test_targets_that_are_numbers_make_a_regression_scaled_by_the_training_rows(write):
    rows = "\n".join(f"{i},{i}:{i / 2}" for i in range(30))
    dataset = load_ts(write("@targetLabel true\n@data\n" + rows), Source())
    train = dataset.train(1)
    assert dataset.task.targets == ("target",)
    np.testing.assert_allclose(train.targets[:, 0] * 2, train.inputs["sequence"][:, 0, 0])
    np.testing.assert_allclose(
        [dataset.task.mean[0], dataset.task.scale[0]], [train.targets.mean(), train.targets.std()], rtol=1e-6
    )


def test_missing_values_lie_between_their_neighbours_and_are_counted(write):
    dataset = load_ts(
        write(HEADER + "\n".join(["?,1,?,NaN,4,?:0,0,0,0,0,0:up", *ROWS])), Source(test_data=write(HEADER + ROWS[0], "t.ts"))
    )
    assert dataset.handling["missing values"] == 4
    series = read_ts(write(HEADER + "?,1,?,NaN,4,?:0,0,0,0,0,0:up")).series[0]
    np.testing.assert_array_equal(series[:, 0], [1, 1, 2, 3, 4, 4])
    assert "missing values" not in load_ts(write(HEADER + "\n".join(ROWS)), Source()).handling


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            HEADER + "\n".join([*ROWS, "1,2:3,x:up"]), r"line 28, series 21, channel 2, step 2: 'x' is no number", id="word"
        ),
        pytest.param(HEADER + "1,inf:3,4:up", r"series 1, channel 1, step 2: 'inf' is too large a number", id="infinite"),
        pytest.param(HEADER + "1,2:3,-1e39:up", r"channel 2, step 2: '-1e39' is too large", id="beyond-float32"),
        pytest.param(HEADER + "1,,2:3,4,5:up", r"channel 1, step 2: '' is no number", id="nothing-between-commas"),
        pytest.param(HEADER + "1,2:3:up", r"series 1, channel 2: has 1 steps where channel 1 has 2", id="channels-of-two-lengths"),
        pytest.param(HEADER + "1,2:3,4:5,6:up", r"line 8, series 1: has 3 channels where there should be 2", id="channel-too-many"),
        pytest.param(HEADER + "1,2,3,4", r"line 8, series 1: has 0 channels where there should be 2", id="no-label"),
        pytest.param(HEADER + "1,2:?,?:up", r"series 1, channel 2: has no value at all", id="nothing-known"),
        pytest.param(
            HEADER + "1,2:3,4:left", r"series 1: label 'left' is none of those of @classLabel: up, down", id="unknown-label"
        ),
        pytest.param("@targetLabel true\n@data\n1,2:?", r"series 1: target '\?' is no number", id="unknown-target"),
        pytest.param("@timeStamps true\n@classLabel true a b\n@data\n", "@timeStamps true is not read", id="times-announced"),
        pytest.param("@classLabel true a b\n@data\n(0,1),(1,2):a", r"channel 1: '\(0,1\),\(1,2\)' holds times", id="times"),
        pytest.param("@classLabel false\n@data\n1,2", "nothing to predict", id="no-labels"),
        pytest.param("@classLabel true\n@data\n1,2:a", "must be followed by the labels", id="labels-not-named"),
        pytest.param("1,2:a\n", r"line 1: '1,2:a' before @data", id="no-header"),
        pytest.param("@classLabel true a b\n", "has no line @data", id="header-only"),
        pytest.param(HEADER, "has no series after @data", id="no-series"),
        pytest.param("@dimensions two\n@data\n", "@dimensions 'two' is no count", id="dimensions"),
    ],
)
def test_a_malformed_file_is_refused_by_place_and_value(write, text, message):
    with pytest.raises(DataError, match=f"waves.ts: .*{message}"):
        load_ts(write(text), Source())


def test_a_test_file_must_suit_the_training_file(write):
    data = write(HEADER + "\n".join(ROWS))
    for text, message in (
        ("@classLabel true up down\n@data\n1,2:up", "test.ts: line 3, series 1: has 1 channels where there should be 2"),
        ("@classLabel true up left\n@data\n1,2:1,2:left", "test.ts: line 3, series 1: label 'left' is none of those"),
        ("@targetLabel true\n@data\n1,2:1,2:3", "test.ts: one of the files is a classification and the other a regression"),
    ):
        with pytest.raises(DataError, match=message):
            load_ts(data, Source(test_data=write(text, "test.ts")))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none.ts: No such file"):
        load_ts(tmp_path / "none.ts", Source())


@pytest.mark.skipif(not VOWELS.is_dir(), reason=f"no {VOWELS}")
def test_japanese_vowels_come_with_their_official_test_split():
    dataset = load_ts(VOWELS / "JapaneseVowels_TRAIN.ts", Source(test_data=VOWELS / "JapaneseVowels_TEST.ts"))
    assert [len(split) for split in (dataset.train(1), dataset.validation, dataset.test)] == [243, 27, 370]
    assert np.bincount(dataset.validation.targets).tolist() == [3] * 9
    assert np.bincount(dataset.test.targets).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]
    assert dataset.kind.length.max == 29
    assert len(dataset.kind.mean) == 12
    assert dataset.test.inputs["mask"].sum(axis=1).min() == 7
    np.testing.assert_array_equal(dataset.test.inputs["sequence"][0, :2, 0], np.float32([1.635533, 1.547694]))
