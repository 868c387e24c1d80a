from __future__ import annotations

import numpy as np
import pytest

from training import data


@pytest.fixture(scope="module", params=sorted(set(data.BUILTIN) - {"fashion-mnist"}))
def dataset(request):
    return data.load(request.param)


def test_the_same_data_comes_every_time(dataset):
    assert dataset.fingerprint() == data.load(dataset.name).fingerprint()


def test_splits_do_not_overlap(dataset):
    def rows(split):
        names = sorted(split.inputs)
        return {b"".join(np.ascontiguousarray(split.inputs[name][i]).tobytes() for name in names) for i in range(len(split))}

    train, validation, test = rows(dataset.train(1)), rows(dataset.validation), rows(dataset.test)
    alike = {"iris": 1}.get(dataset.name, 0)  # two of the flowers have the same four measurements
    assert len(test & train) + len(test & validation) + len(train & validation) <= alike


def test_targets_are_of_the_tasks_form(dataset):
    targets = dataset.test.targets
    if dataset.task.type == "multiclass":
        assert targets.dtype == np.int64
        assert set(targets) == set(range(len(dataset.task.labels)))
    else:
        assert targets.dtype == np.float32
        assert targets.shape == (len(dataset.test), dataset.task.outputs)


def test_sequences_stay_within_the_lengths_they_announce(dataset):
    if "mask" not in dataset.test.inputs:
        pytest.skip(f"{dataset.name} has no sequences")
    lengths = dataset.test.inputs["mask"].sum(axis=1)
    span = dataset.kind.length
    assert span.min <= lengths.min()
    assert lengths.max() <= span.max


def test_generated_rows_are_fresh_each_epoch():
    for name in ("adding", "recall"):
        split = data.load(name)
        assert not np.array_equal(split.train(1).targets, split.train(2).targets)
        np.testing.assert_array_equal(split.train(2).targets, split.train(2).targets)


def test_an_adding_target_is_the_sum_of_the_two_marked_numbers():
    split = data.load("adding").test
    number, marker = split.inputs["sequence"][..., 0], split.inputs["sequence"][..., 1]
    assert (marker.sum(axis=1) == 2).all()
    np.testing.assert_allclose((number * marker).sum(axis=1, keepdims=True), split.targets, rtol=1e-5)
    assert np.var(split.targets) == pytest.approx(1 / 6, abs=0.015), "the error of predicting the mean"


def test_a_recall_target_is_the_value_stored_under_the_queried_key():
    split = data.load("recall").test
    for tokens, mask, target in zip(split.inputs["tokens"][:200], split.inputs["mask"], split.targets, strict=False):
        *pairs, query = tokens[mask].tolist()
        stored = {pair // 16: pair % 16 for pair in pairs}
        assert len(stored) == len(pairs), "keys are distinct"
        assert stored[query - 256] == target


def test_digits_keep_their_class_shares_in_every_split():
    digits = data.load("digits")
    assert [len(digits.train(1)), len(digits.validation), len(digits.test)] == [1257, 180, 360]
    for split in (digits.validation, digits.test):
        assert np.bincount(split.targets).min() >= 0.09 * len(split)


def test_digits_as_rows_are_the_same_pictures_row_by_row():
    rows, images = data.load("digits-rows"), data.load("digits")
    np.testing.assert_array_equal(rows.test.inputs["sequence"], images.test.inputs["image"][:, 0])
    np.testing.assert_array_equal(rows.test.targets, images.test.targets)


@pytest.mark.parametrize(
    ("name", "rows", "columns", "labels"),
    [
        pytest.param("iris", 150, 4, ("setosa", "versicolor", "virginica"), id="iris"),
        pytest.param("wine", 178, 13, ("class_0", "class_1", "class_2"), id="wine"),
        pytest.param("breast-cancer", 569, 30, ("malignant", "benign"), id="breast-cancer"),
    ],
)
def test_a_classic_table_is_whole_and_its_columns_are_named(name, rows, columns, labels):
    table = data.load(name)
    assert len(table.train(1)) + len(table.validation) + len(table.test) == rows
    assert table.test.inputs["features"].shape[1] == len(table.kind.columns) == columns
    assert table.task.labels == labels
    assert all(column.name for column in table.kind.columns)


def test_diabetes_is_in_the_units_of_its_measurements():
    table = data.load("diabetes")
    ages = table.test.inputs["features"][:, 0]
    assert table.kind.columns[0].name == "age"
    assert 18 < ages.min() < ages.max() < 90
    assert table.task.mean[0] == pytest.approx(152, abs=10)


def test_no_straight_line_solves_xor_and_one_product_does():
    from sklearn.linear_model import LogisticRegression

    train, test = data.load("xor").train(1), data.load("xor").test
    x, y = train.inputs["features"], train.targets[:, 0]
    tx, ty = test.inputs["features"], test.targets[:, 0]
    assert LogisticRegression().fit(x, y).score(tx, ty) < 0.76
    assert LogisticRegression().fit(x[:, :1] * x[:, 1:], y).score(tx[:, :1] * tx[:, 1:], ty) > 0.99


@pytest.mark.parametrize("name", ["moons", "circles"])
def test_neighbours_tell_the_classes_of_points_in_the_plane(name):
    from sklearn.neighbors import KNeighborsClassifier

    train, test = data.load(name).train(1), data.load(name).test
    neighbours = KNeighborsClassifier(15).fit(train.inputs["features"], train.targets[:, 0])
    assert neighbours.score(test.inputs["features"], test.targets[:, 0]) > 0.95
