from __future__ import annotations

import numpy as np
import pytest

from training.data.dataset import Dataset, Rows, Split, moments, numeric
from training.data.targets import Regression


def dataset(features: np.ndarray) -> Dataset:
    split = Split({"features": features}, np.zeros((len(features), 1), np.float32))
    return Dataset(
        name="d",
        kind=Rows(columns=numeric(features)),
        task=Regression(targets=("y",)),
        train=lambda _: split,
        validation=split,
        test=split,
    )


def test_rows_of_a_split_are_cut_to_their_longest():
    mask = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    split = Split({"tokens": mask * 7, "mask": mask}, np.arange(3))
    assert split.rows(np.array([0, 1])).inputs["tokens"].tolist() == [[7, 0], [7, 7]]
    assert split.rows(slice(2, 3)).inputs["mask"].shape == (1, 4)


def test_a_constant_column_is_not_divided_by_zero():
    assert moments(np.array([[1.0, 5.0], [3.0, 5.0]]), (0,)) == {"mean": (2.0, 5.0), "scale": (1.0, 1.0)}


def test_a_constant_column_keeps_scale_1_though_rounding_gives_it_a_deviation():
    assert moments(np.full((10, 1), 0.1), (0,))["scale"] == (1.0,)


def test_moments_of_many_float32_rows_far_from_zero_are_right():
    values = (100 + np.random.default_rng(0).normal(0, 1, (1_000_000, 2))).astype(np.float32)
    found = moments(values, (0,))
    assert found["mean"] == pytest.approx((100, 100), abs=0.01)
    assert found["scale"] == pytest.approx((1, 1), abs=0.01)


def test_a_column_is_described_by_the_values_it_has():
    assert [
        (column.name, column.mean, column.missing) for column in numeric(np.array([[1.0, 2.0], [3.0, np.nan]]), ("a", "b"))
    ] == [
        ("a", 2.0, False),
        ("b", 2.0, True),
    ]


def test_a_fingerprint_changes_with_one_value_and_with_the_shape():
    ones = np.ones((4, 2), np.float32)
    changed = ones.copy()
    changed[3, 1] = 2
    prints = {dataset(values).fingerprint() for values in (ones, ones.copy(), changed, np.ones((2, 4), np.float32))}
    assert len(prints) == 3
