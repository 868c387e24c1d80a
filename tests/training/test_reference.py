"""How training rows are spread is what training says it is, for every kind of data."""

from __future__ import annotations

import numpy as np
import pytest

from modelrepo.measures import Sample, measured
from modelrepo.preprocessing import Categorical, Numeric
from modelrepo.reference import Reference
from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression
from modelrepo.tensors import ShapeRange
from training.data import Source, load
from training.data.dataset import Dataset, Images, Rows, Series, Split, Tokens
from training.reference import describe, sample_of, with_predictions

RNG = np.random.default_rng(0)
LENGTH = ShapeRange(axis="length", min=1, opt=4, max=9)


def dataset(kind, inputs, **more):
    split = Split(inputs, np.zeros(len(next(iter(inputs.values())))))
    return Dataset(
        name="made up", kind=kind, task=Regression(targets=("y",)), train=lambda _epoch: split, validation=split, test=split, **more
    )


def sequences(lengths, draw):
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return {"mask": mask}, draw(mask.shape), mask


def of(reference, name):
    return next(feature for feature in (*reference.features, *reference.predictions) if feature.name == name)


def table(columns, features):
    return describe(dataset(Rows(columns=columns), {"features": np.array(features, np.float32)}))


def test_numbers_fall_into_ten_bins_of_about_the_same_size_between_the_extremes():
    values = RNG.normal(size=1000)
    found = of(table((Numeric(name="age", mean=0, scale=1),), values[:, None]), "age")
    assert (found.least, found.bounds[-1]) == (np.float32(values.min()), np.float32(values.max()))
    assert found.counts == (0, *[100] * 10, 0, 0)
    assert list(found.outside) == [True, *[False] * 10, True, True]


@pytest.mark.parametrize(
    ("values", "bounds", "counts"),
    [
        pytest.param([0] * 95 + [1] * 5, (0, 1), (0, 95, 5, 0, 0), id="a rare one"),
        pytest.param([1] * 95 + [0] * 5, (0, 1), (0, 5, 95, 0, 0), id="a rare zero"),
        pytest.param([7] * 40, (7,), (0, 40, 0, 0), id="constant"),
        pytest.param([3, 4, np.nan, np.nan], (3, 4), (0, 1, 1, 0, 2), id="some missing"),
    ],
)
def test_values_that_repeat_have_bins_of_their_own(values, bounds, counts):
    found = of(table((Numeric(name="n", mean=0, scale=1, missing=True),), np.array(values)[:, None]), "n")
    assert (found.bounds, found.counts) == (bounds, counts)


def test_a_value_that_fills_most_of_the_top_leaves_the_rest_apart():
    values = np.concatenate([np.linspace(0, 1, 100), np.full(1900, 5)])
    found = of(table((Numeric(name="n", mean=0, scale=1),), values[:, None]), "n")
    assert found.bounds == (1, 5)
    assert found.counts == (0, 100, 1900, 0, 0)


def test_the_most_frequent_of_many_categories_keep_their_names():
    names = tuple(f"town {number:02}" for number in range(30))
    codes = np.concatenate([np.repeat(np.arange(30), 20), np.repeat(25, 100), [np.nan]])
    found = of(table((Categorical(name="town", categories=names),), codes[:, None]), "town")
    assert len(found.names) == 20
    assert found.counts[found.names.index("town 25")] == 120
    assert found.counts[-2:] == (10 * 20, 1)


def test_a_column_without_any_value_is_not_watched():
    columns = (Numeric(name="none", mean=0, scale=1), Numeric(name="some", mean=0, scale=1))
    found = table(columns, [[np.nan, number] for number in range(40)])
    assert [feature.name for feature in found.features] == ["some"]
    assert table(columns[:1], [[np.nan]] * 9) is None


def test_pictures_have_a_brightness_for_each_channel_and_a_contrast():
    pixels = RNG.integers(0, 256, (50, 3, 4, 5)).astype(np.float32)
    kind = Images(height=4, width=5, mean=(0,) * 3, scale=(1,) * 3)
    found = describe(dataset(kind, {"image": pixels}))
    assert [feature.name for feature in found.features] == [*(f"brightness of channel {c}" for c in (1, 2, 3)), "contrast"]
    values = measured(found.features[1], sample_of(kind, Split({"image": pixels}, np.zeros(50)))).values
    np.testing.assert_allclose(values, pixels[:, 1].mean(axis=(1, 2)), rtol=1e-6)
    assert found.features[3].bounds[-1] == pytest.approx(pixels.std(axis=(1, 2, 3)).max())


def test_sequences_are_measured_where_they_are_real_and_by_the_names_of_their_channels():
    inputs, values, mask = sequences([2, 5, 9] * 20, lambda shape: RNG.normal(size=(*shape, 2)))
    values[~mask] = 1e9
    kind = Series(length=LENGTH, mean=(0, 0), scale=(1, 1))
    found = describe(dataset(kind, {"sequence": values.astype(np.float32), **inputs}, handling={"channels": ["heat", "load"]}))
    assert [feature.name for feature in found.features] == ["length", "channel heat", "channel load"]
    assert of(found, "length").bounds == (2, 5, 9)
    assert of(found, "channel load").bounds[-1] < 10
    assert sum(of(found, "channel load").counts) == mask.sum()


def test_tokens_say_which_of_them_no_training_row_held():
    inputs, tokens, mask = sequences([3, 4] * 30, lambda shape: RNG.choice([1, 2, 3, 7, 8, 40], shape))
    tokens[~mask] = 99
    kind = Tokens(vocabulary=100, length=LENGTH)
    found = describe(dataset(kind, {"tokens": tokens, **inputs}))
    assert found.tokens == ((1, 3), (7, 8), (40, 40))
    strange = {"tokens": np.array([[1, 4, 9, 40], [0, 8, 41, 0]]), "mask": np.array([[True] * 4, [True] * 3 + [False]])}
    sample = sample_of(kind, Split(strange, np.zeros(2)))
    shares = measured(of(found, "unseen tokens"), Sample(sample.values, sample.lengths, None, found.tokens)).values
    np.testing.assert_allclose(shares, [0.5, 2 / 3])


@pytest.mark.parametrize(
    ("task", "output", "name", "bins", "counts"),
    [
        (Multiclass(labels=("a", "b", "c")), [[0, 1, 0], [2, 1, 0]] * 20, "prediction", ["a", "b", "c"], (20, 20, 0, 0, 0)),
        (Binary(labels=("no", "yes")), [[1], [-1], [2]] * 20, "prediction", ["no", "yes"], (20, 40, 0, 0)),
        (Multilabel(labels=("x", "y")), [[1, -1], [1, 1]] * 20, "prediction y", ["no", "yes"], (20, 20, 0, 0)),
        (Regression(targets=("price",)), [[1], [2]] * 20, "prediction price", ["1", "over 1 to 2"], (0, 20, 20, 0, 0)),
    ],
)
def test_predictions_for_held_out_rows_are_spread_by_label_or_value(task, output, name, bins, counts):
    found = with_predictions(table((Numeric(name="n", mean=0, scale=1),), [[1], [2]]), task, np.array(output, np.float32))
    feature = of(found, name)
    assert set(bins) <= set(feature.bins)
    assert feature.counts == counts


def test_a_column_called_prediction_keeps_its_name_and_the_other_gets_another():
    found = with_predictions(
        table((Numeric(name="prediction", mean=0, scale=1),), [[1], [2]]), Binary(labels=("a", "b")), np.ones((2, 1), np.float32)
    )
    assert [feature.name for feature in found.predictions] == ["prediction'"]
    assert Reference.model_validate_json(found.model_dump_json()) == found


def test_a_forecast_is_described_by_whole_windows_as_they_will_be_served(tmp_path):
    (tmp_path / "load.csv").write_text("load\n" + "".join(f"{value}\n" for value in range(200)))
    found = describe(load(str(tmp_path / "load.csv"), Source(target=("load",), horizon=4, window=12)))
    assert [feature.name for feature in found.features] == ["length", "channel load"]
    length = of(found, "length")
    assert length.counts[length.bins.index("over 11 to 12")] > 100, "and not half of them shorter, as in an epoch of training"
