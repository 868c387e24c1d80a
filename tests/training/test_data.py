from __future__ import annotations

import numpy as np
import pytest

from training import data
from training.data.dataset import Split, moments


@pytest.fixture(scope="module", params=sorted(data.BUILTIN))
def dataset(request):
    return data.load(request.param)


def test_the_same_data_comes_every_time(dataset):
    assert dataset.fingerprint() == data.load(dataset.name).fingerprint()


def test_splits_do_not_overlap(dataset):
    def rows(split):
        names = sorted(split.inputs)
        return {b"".join(np.ascontiguousarray(split.inputs[name][i]).tobytes() for name in names) for i in range(len(split))}

    train, validation, test = rows(dataset.train(1)), rows(dataset.validation), rows(dataset.test)
    assert not test & train
    assert not test & validation
    assert not validation & train


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
    assert lengths.max() == span.max
    assert len(set(lengths)) > 5


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


def test_a_training_digit_moves_by_a_pixel_at_most():
    digits = data.load("digits")
    one, two = digits.train(1).inputs["image"], digits.train(2).inputs["image"]
    assert one.shape == (1257, 1, 8, 8)
    assert not np.array_equal(one, two)
    # What lies at least two pixels from every edge cannot have been pushed out of the picture.
    core = np.sort(one[:, 0, 2:6, 2:6].max(axis=(1, 2)))
    assert (core <= two.max(axis=(1, 2, 3)).max()).all()


def test_rows_of_a_split_are_cut_to_their_longest():
    mask = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    split = Split({"tokens": mask * 7, "mask": mask}, np.arange(3))
    assert split.rows(np.array([0, 1])).inputs["tokens"].tolist() == [[7, 0], [7, 7]]
    assert split.rows(slice(2, 3)).inputs["mask"].shape == (1, 4)


def test_a_constant_column_is_not_divided_by_zero():
    assert moments(np.array([[1.0, 5.0], [3.0, 5.0]]), (0,)) == {"mean": (2.0, 5.0), "scale": (1.0, 1.0)}


def test_unknown_data_names_what_is_built_in():
    with pytest.raises(data.DataError, match="no data called 'spirl'; built in are adding, digits, recall, spirals"):
        data.load("spirl")
