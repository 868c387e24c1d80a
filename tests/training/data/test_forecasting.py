from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.dataset import DataError
from training.data.forecasting import forecast, load_forecast, sunspots
from training.data.source import Source


def counting(*lengths):
    """Histories whose first channel counts on over all of them and so tells where a value stood; the second is its half."""
    ends = np.cumsum(lengths)
    return [
        np.stack([np.arange(end - n, end), np.arange(end - n, end) / 2], axis=1).astype(float)
        for n, end in zip(lengths, ends, strict=True)
    ]


def forecast_of(histories, horizon, window, target=("a",), **others):
    return forecast("counting", ("a", "b"), Source(target=target, horizon=horizon, window=window), histories, **others)


def steps(split):
    """The steps that the windows and the answers of a split touch."""
    return set(split.inputs["sequence"][..., 0][split.inputs["mask"]]), set(split.targets.flat)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(20, 90), min_size=1, max_size=3).filter(lambda lengths: max(lengths) >= 80),
    horizon=st.integers(1, 8),
    window=st.integers(2, 12),
    epoch=st.integers(1, 3),
)
def test_no_step_of_a_later_answer_is_trained_on(lengths, horizon, window, epoch):
    dataset = forecast_of(counting(*lengths), horizon, window)
    seen, learnt = steps(dataset.train(epoch))
    seen_in_validation, chosen_by = steps(dataset.validation)
    _, judged_by = steps(dataset.test)
    assert not (seen | learnt) & (chosen_by | judged_by)
    assert not (seen_in_validation | chosen_by) & judged_by


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(80, 90), min_size=1, max_size=3), horizon=st.integers(1, 8), window=st.integers(2, 12))
def test_an_answer_follows_its_window_within_one_series(lengths, horizon, window):
    histories = counting(*lengths)
    dataset = forecast_of(histories, horizon, window)
    series_of = np.repeat(np.arange(len(lengths)), lengths)
    for split in (dataset.train(1), dataset.validation, dataset.test):
        count = split.inputs["mask"].sum(axis=1)
        values = split.inputs["sequence"][..., 0]
        first, last = values[:, 0], values[np.arange(len(values)), count - 1]
        np.testing.assert_array_equal(last - first, count - 1)
        np.testing.assert_array_equal(split.targets, last[:, None] + np.arange(1, horizon + 1))
        np.testing.assert_array_equal(series_of[first.astype(int)], series_of[split.targets[:, -1].astype(int)])
        assert count.min() >= min(horizon, window)
        assert count.max() <= window


def test_every_answer_after_a_shortest_window_is_used_once():
    dataset = forecast_of(counting(100), horizon=5, window=10)
    # 70 / 10 / 20 steps: answers start at 5 … 65, 70 … 75, 80 … 95
    assert [split.targets[:, 0].tolist() for split in (dataset.train(1), dataset.validation, dataset.test)] == [
        list(range(5, 66)),
        list(range(70, 76)),
        list(range(80, 96)),
    ]
    assert (dataset.test.inputs["mask"].sum(axis=1) == 10).all(), "the test is of full windows"


def test_training_windows_are_cut_anew_each_epoch_and_alike_in_each_run():
    dataset = forecast_of(counting(400), horizon=5, window=20)
    one, again, two = dataset.train(1), forecast_of(counting(400), horizon=5, window=20).train(1), dataset.train(2)
    np.testing.assert_array_equal(one.inputs["mask"], again.inputs["mask"])
    assert not np.array_equal(one.inputs["mask"], two.inputs["mask"])
    np.testing.assert_array_equal(one.targets, two.targets)
    lengths = one.inputs["mask"].sum(axis=1)
    assert set(lengths) == set(range(5, 21))
    assert 0.4 < (lengths == 20).mean() < 0.65


def test_targets_are_named_and_scaled_column_by_column():
    dataset = forecast_of(counting(200), horizon=3, window=8, target=("b", "a"))
    assert dataset.task.targets == ("b+1", "b+2", "b+3", "a+1", "a+2", "a+3")
    np.testing.assert_allclose(dataset.test.targets[:, :3] * 2, dataset.test.targets[:, 3:])
    train = dataset.train(1).targets
    np.testing.assert_allclose(dataset.task.mean, train.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dataset.task.scale, train.std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(dataset.kind.mean, [139 / 2, 139 / 4])  # steps 0 to 139, those of training


def test_a_window_shorter_than_the_horizon_is_allowed():
    span = forecast_of(counting(100), horizon=8, window=4).kind.length
    assert (span.min, span.opt, span.max) == (4, 4, 4)


def test_later_steps_may_come_as_a_table_of_their_own(tmp_path):
    rows = pl.DataFrame({"day": [f"d{i}" for i in range(90)], "price": np.arange(90.0), "rain": np.arange(90.0) % 7})
    rows[:60].write_csv(tmp_path / "data.csv")
    rows[60:].write_csv(tmp_path / "later.csv")
    source = Source(target=("price",), drop=("day",), horizon=2, window=6, test_data=tmp_path / "later.csv")
    dataset = load_forecast(tmp_path / "data.csv", source)
    assert dataset.handling["channels"] == ["price", "rain"]
    assert dataset.test.targets[:, 0].tolist() == list(range(62, 89))
    assert dataset.test.inputs["mask"].sum(axis=1)[:6].tolist() == [2, 3, 4, 5, 6, 6], "a table's first steps have short windows"
    assert dataset.validation.targets[:, 0].tolist() == list(range(54, 59))


def test_several_series_in_one_table_are_each_divided_in_time(tmp_path):
    shops = [{"shop": shop, "sold": 1000 * number + step} for step in range(40) for number, shop in enumerate("ab")]
    pl.DataFrame([*shops, {"shop": "new", "sold": 5}]).write_parquet(tmp_path / "shops.parquet")
    dataset = load_forecast(tmp_path / "shops.parquet", Source(series="shop", target=("sold",), horizon=2, window=6))
    assert dataset.test.targets[:, 0].tolist() == [*range(32, 39), *range(1032, 1039)]
    assert dataset.handling["series too short to train on"] == 1


@pytest.mark.parametrize(
    ("rows", "source", "message"),
    [
        pytest.param({"t": ["1", None, "3"]}, Source(target=("t",), horizon=1), r"line 3, column 't': is missing", id="missing"),
        pytest.param({"t": ["1", "x"]}, Source(target=("t",), horizon=1), r"line 3, column 't': 'x' is no.*--drop t", id="word"),
        pytest.param({"t": ["1"]}, Source(horizon=1), "--target which column to forecast; there are t", id="no-target"),
        pytest.param({"t": ["1"]}, Source(target=("T",), horizon=1), r"no column 'T'", id="misspelt"),
        pytest.param(
            {"t": ["1"], "d": ["1"]}, Source(target=("t",), drop=("t",), horizon=1), "also in --drop", id="dropped-target"
        ),
        pytest.param(
            {"t": ["1"] * 20}, Source(target=("t",), horizon=9), "training steps hold no answer of 9 steps", id="too-short"
        ),
        pytest.param({"t": ["1"] * 40}, Source(target=("t",), horizon=5), "validation steps hold no answer of 5", id="small-share"),
    ],
)
def test_what_cannot_be_forecast_is_refused_by_place_and_value(tmp_path, rows, source, message):
    pl.DataFrame(rows).write_csv(tmp_path / "t.csv")
    with pytest.raises(DataError, match=message):
        load_forecast(tmp_path / "t.csv", source)


def test_sunspots_are_forecast_for_a_cycle():
    dataset = sunspots()
    assert [len(split) for split in (dataset.train(1), dataset.validation, dataset.test)] == [195, 21, 52]
    assert dataset.task.targets[0] == "sunspots+1"
    assert (dataset.kind.length.min, dataset.kind.length.max) == (11, 44)
    assert dataset.test.targets[-1, -3:].round(1).tolist() == pytest.approx([15.2, 7.5, 2.9]), "the years 2006 to 2008"


def test_on_sunspots_last_cycle_again_beats_last_year_again():
    test = sunspots().test
    history = test.inputs["sequence"][..., 0]

    def error(forecast):
        return float(np.abs(forecast - test.targets).mean())

    assert error(history[:, -1:]) == pytest.approx(58.9, abs=0.1)
    assert error(history[:, -11:]) == pytest.approx(29.3, abs=0.1)
