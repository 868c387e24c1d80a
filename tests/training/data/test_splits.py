from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, example, given, reject, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from training.data.dataset import DataError
from training.data.source import Source
from training.data.splits import divide

NONE = {"has_test": False, "has_validation": False}
shares = st.floats(0.05, 0.45)


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(10, 300), test=shares, validation=shares)
def test_every_row_is_in_one_split_of_the_size_asked_for(rows, test, validation):
    assume(math.ceil(test * rows) + math.ceil(validation * rows) < rows)
    source = Source(test=test, validation=validation)
    parts = divide(rows, source, **NONE)
    assert sorted(np.concatenate(parts)) == list(range(rows))
    assert len(parts[2]) == pytest.approx(test * rows, abs=1)
    assert len(parts[1]) == pytest.approx(validation * rows, abs=1)
    assert all(np.array_equal(one, other) for one, other in zip(parts, divide(rows, source, **NONE), strict=True))


@settings(max_examples=60, deadline=None)
@given(labels=st.lists(st.integers(0, 6), min_size=10, max_size=200), test=shares, validation=shares)
@example(labels=[0] * 4 + [1] * 3 + [2, 3] + [4] * 8, test=0.3125, validation=0.3125)
def test_every_label_is_trained_on_and_shares_are_kept(labels, test, validation):
    strata = np.array(labels)
    try:
        parts = divide(len(strata), Source(test=test, validation=validation), strata=strata, **NONE)
    except DataError:
        reject()  # too few rows of some labels; what is said then has a test of its own
    assert sorted(np.concatenate(parts)) == list(range(len(strata)))
    assert set(strata[parts[0]]) == set(labels)
    for label, count in zip(*np.unique(strata, return_counts=True), strict=True):
        if len(parts[2]) >= 7 and count > 2:
            assert (strata[parts[2]] == label).sum() == pytest.approx(count * len(parts[2]) / len(strata), abs=2)


@settings(max_examples=60, deadline=None)
@given(groups=st.lists(st.integers(0, 12), min_size=20, max_size=120), classes=st.sampled_from([None, 2, 3]), test=shares)
def test_a_group_is_in_one_split_only(groups, classes, test):
    assume(len(set(groups)) >= 6)
    strata = None if classes is None else np.arange(len(groups)) % classes
    parts = divide(len(groups), Source(test=test), strata=strata, groups=np.array(groups), **NONE)
    assert sorted(np.concatenate(parts)) == list(range(len(groups)))
    assert all(len(part) for part in parts)
    held = [set(np.array(groups)[part]) for part in parts]
    assert not held[0] & held[1]
    assert not held[0] & held[2]
    assert not held[1] & held[2]


def test_the_test_rows_are_those_scikit_learn_draws():
    labels = np.random.default_rng(0).integers(0, 10, 10_000)
    train, validation, test = divide(10_000, Source(test=0.2, validation=0.1), strata=labels, **NONE)
    rest, expected = train_test_split(np.arange(10_000), test_size=0.2, random_state=0, stratify=labels)
    np.testing.assert_array_equal(test, expected)
    assert len(validation) == 1000
    assert set(train) | set(validation) == set(rest)


@pytest.mark.parametrize(
    ("has_test", "has_validation", "sizes"),
    [(True, False, (90, 10, 0)), (False, True, (80, 0, 20)), (True, True, (100, 0, 0))],
    ids=["test", "validation", "both"],
)
def test_a_split_that_the_user_brings_stays_empty(has_test, has_validation, sizes):
    assert tuple(map(len, divide(100, Source(), has_test=has_test, has_validation=has_validation))) == sizes


def test_a_label_with_one_row_stays_in_training():
    strata = np.array(["rare"] + ["a", "b"] * 20)
    train, _, test = divide(41, Source(), strata=strata, **NONE)
    assert 0 in train
    assert set(strata[test]) == {"a", "b"}


def test_more_labels_than_test_rows_still_leave_each_label_to_training():
    strata = np.repeat(np.arange(40), 3)
    train, validation, test = divide(120, Source(), strata=strata, **NONE)
    assert (len(validation), len(test)) == (12, 24)
    assert set(strata[train]) == set(range(40))


def test_grouped_splits_keep_label_shares_where_groups_allow_it():
    groups = np.repeat(np.arange(100), 5)
    strata = np.where(groups % 10 == 0, "rare", "often")
    for part in divide(500, Source(), strata=strata, groups=groups, **NONE):
        assert (strata[part] == "rare").mean() == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        pytest.param(1, {}, "1 rows leave none to train on after a test share of 0.2; bring more, or --test-data", id="one-row"),
        pytest.param(2, {}, "1 rows leave none to train on after a validation share", id="two-rows"),
        pytest.param(4, {"strata": np.arange(4)}, "4 rows of 4 labels cannot give 1 test rows", id="all-different"),
        pytest.param(9, {"groups": np.zeros(9)}, "1 group is left to divide into training and test rows", id="one-group"),
        pytest.param(
            9, {"groups": np.arange(9) % 2}, "1 group is left to divide into training and validation rows", id="two-groups"
        ),
    ],
)
def test_too_few_rows_are_refused(rows, options, message):
    with pytest.raises(DataError, match=message):
        divide(rows, Source(), **options, **NONE)
