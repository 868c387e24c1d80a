from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from training.data import targets
from training.data.dataset import DataError
from training.data.source import Source

PATH = Path("t.parquet")
Y = Source(target=("y",))


def learn(values: list, source: Source = Y, rows=None):
    return targets.learn_task(pl.DataFrame({"y": values}), source, PATH, rows)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        pytest.param(["b", "a", "c"], "multiclass", id="names"),
        pytest.param(["no", "yes"], "binary", id="two-names"),
        pytest.param([True, False], "binary", id="booleans"),
        pytest.param([0, 1, 0, 1], "binary", id="two-numbers"),
        pytest.param([-1.0, 1.0], "binary", id="signs"),
        pytest.param([1, 2, 3] * 5, "multiclass", id="few-whole-numbers"),
        pytest.param(["3", "10", "7"] * 5, "multiclass", id="few-whole-numbers-as-text"),
        pytest.param([1, 2, 3] * 4, "regression", id="whole-numbers-that-hardly-repeat"),
        pytest.param(list(range(21)) * 10, "regression", id="many-whole-numbers"),
        pytest.param([1.5, 2.0, 3.0] * 9, "regression", id="fractions"),
        pytest.param(["1", "2", "x"], "multiclass", id="numbers-and-a-name"),
    ],
)
def test_the_values_say_what_the_task_is(values, task):
    assert learn(values).type == task


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        pytest.param(["10", "9", "2"] * 5, ("2", "9", "10"), id="numbers-by-size"),
        pytest.param([2.0, 1.0, 3.0] * 5, ("1", "2", "3"), id="whole-floats-without-a-point"),
        pytest.param(["b", "B", "a", "10"], ("10", "B", "a", "b"), id="names-by-letter"),
        pytest.param([" a", "a ", "b"], ("a", "b"), id="spaces-are-nothing"),
        pytest.param(["01", "02", "1"] * 5, ("01", "1", "02"), id="codes-stay-as-written"),
    ],
)
def test_labels_are_sorted(values, labels):
    assert learn(values).labels == labels


def test_the_option_overrules_the_values():
    assert learn([0, 1, 0, 1], Source(target=("y",), task="regression")).type == "regression"
    assert learn(list(range(30)), Source(target=("y",), task="classification")).outputs == 30
    assert learn([0, 1], Source(target=("y",), task="multilabel")).type == "multilabel"


def test_several_targets_are_labels_where_all_are_0_or_1_and_numbers_otherwise():
    frame = pl.DataFrame({"a": [0, 1, 1], "b": ["1", "0", "1"], "c": [1.5, 2.0, 4.0]})
    both = targets.learn_task(frame, Source(target=("a", "b")), PATH)
    assert (both.type, both.labels) == ("multilabel", ("a", "b"))
    assert targets.encode(both, frame, Source(target=("a", "b")), PATH).tolist() == [[0, 1], [1, 0], [1, 1]]
    numbers = targets.learn_task(frame, Source(target=("a", "c")), PATH)
    assert (numbers.type, numbers.targets) == ("regression", ("a", "c"))


def test_scale_and_labels_are_those_of_the_training_rows():
    task = learn([1.5, 2.5, 1000.0], rows=np.array([0, 1]))
    assert (task.mean, task.scale) == ((2.0,), (0.5,))
    assert learn(["a", "b", "c"], rows=np.array([0, 1])).labels == ("a", "b")


def test_targets_have_the_form_of_their_task():
    for values, shape, dtype in (
        (["a", "b", "c"], (3,), np.int64),
        (["a", "b", "b"], (3, 1), np.float32),
        ([0.5, 1.5, 2.5], (3, 1), np.float32),
    ):
        encoded = targets.encode(learn(values), pl.DataFrame({"y": values}), Y, PATH)
        assert (encoded.shape, encoded.dtype) == (shape, dtype)
    assert encoded[:, 0].tolist() == [0.5, 1.5, 2.5]


def test_the_second_label_of_two_is_the_positive_one():
    assert targets.encode(learn(["no", "yes"]), pl.DataFrame({"y": ["yes", "no", "yes"]}), Y, PATH).tolist() == [[1], [0], [1]]


@pytest.mark.parametrize(
    ("values", "source", "message"),
    [
        pytest.param(["a", "a"], Y, "target 'y' is 'a' in every training row", id="one-label"),
        pytest.param([1.5, 1.5, 1.5], Source(target=("y",), task="regression"), "target 'y' is 1.5 in every", id="constant"),
        pytest.param(["a", None, "b", "NA"], Y, "row 2, column 'y': the target is missing, here and in 2 of 4 rows", id="missing"),
        pytest.param([0.5, float("nan")], Y, "row 2, column 'y': the target is missing", id="missing-number"),
        pytest.param(["1", "x"], Source(target=("y",), task="regression"), "row 2, column 'y': 'x' is no number", id="no-number"),
        pytest.param([1], Source(), "say with --target which column to predict; there are y", id="no-target"),
        pytest.param([1], Source(target=("z",)), "no column 'z'; there are y", id="no-such-target"),
        pytest.param([1], Source(target=("y", "y")), "--target names a column twice", id="twice"),
    ],
)
def test_a_target_that_cannot_be_learnt_is_refused(values, source, message):
    with pytest.raises(DataError, match=message):
        learn(values, source)


def test_one_classification_has_one_target():
    with pytest.raises(DataError, match="a classification has one --target, not 2"):
        targets.learn_task(pl.DataFrame({"a": [0], "b": [1]}), Source(target=("a", "b"), task="classification"), PATH)


def test_a_label_that_training_lacks_is_named_with_its_place():
    with pytest.raises(
        DataError, match=r"row 2, column 'y': no training row has the label 'cta' \(did you mean 'cat'\?\); training knows cat, dog"
    ):
        targets.encode(learn(["cat", "dog"]), pl.DataFrame({"y": ["dog", "cta"]}), Y, PATH)


def test_a_label_of_several_is_0_or_1():
    frame = pl.DataFrame({"a": [0, 2], "b": [1, 0]})
    source = Source(target=("a", "b"), task="multilabel")
    with pytest.raises(DataError, match="row 2, column 'a': 2 is neither 0 nor 1"):
        targets.encode(targets.learn_task(frame, source, PATH), frame, source, PATH)


def test_only_classes_are_strata():
    assert targets.strata(pl.DataFrame({"y": ["b", "a"]}), Y, PATH).tolist() == ["b", "a"]
    assert targets.strata(pl.DataFrame({"y": [0.5, 1.5, 2.5]}), Y, PATH) is None
