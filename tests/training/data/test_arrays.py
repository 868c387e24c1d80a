from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from training import data
from training.data.dataset import DataError
from training.data.source import Source

N = 40
RNG = np.random.default_rng(0)
Y = np.arange(N) % 2
FEATURES = RNG.normal(size=(N, 3))
IMAGES = RNG.integers(0, 256, (N, 8, 6), np.uint8)
SEQUENCES = RNG.normal(size=(N, 5, 2))


def save(tmp_path: Path, name: str = "d.npz", **arrays: np.ndarray) -> str:
    np.savez(tmp_path / name, **arrays)
    return str(tmp_path / name)


@pytest.mark.parametrize(
    ("arrays", "kind", "shape"),
    [
        pytest.param({"X": FEATURES, "y": Y}, "Rows", (3,), id="features"),
        pytest.param({"features": FEATURES, "target": Y}, "Rows", (3,), id="features-by-name"),
        pytest.param({"X": IMAGES, "y": Y}, "Images", (1, 8, 6), id="grey"),
        pytest.param({"X": IMAGES[:, None], "y": Y}, "Images", (1, 8, 6), id="channels-first"),
        pytest.param({"X": IMAGES[..., None], "y": Y}, "Images", (1, 8, 6), id="channels-last"),
        pytest.param({"X": np.stack([IMAGES] * 3, axis=-1), "y": Y}, "Images", (3, 8, 6), id="rgb-last"),
        pytest.param({"sequence": SEQUENCES, "labels": Y}, "Series", (5, 2), id="sequence"),
        pytest.param({"X": SEQUENCES, "mask": np.ones((N, 5), bool), "y": Y}, "Series", (5, 2), id="mask"),
        pytest.param({"X": SEQUENCES[..., 0], "lengths": np.full(N, 5), "y": Y}, "Series", (5, 1), id="lengths"),
    ],
)
def test_names_and_shapes_say_what_an_array_is(tmp_path, arrays, kind, shape):
    dataset = data.load(save(tmp_path, **arrays))
    assert type(dataset.kind).__name__ == kind
    inputs = dataset.train(1).inputs[dataset.kind.input]
    assert inputs.shape == (28, *shape)
    assert inputs.dtype == np.float32
    assert dataset.task.type == "binary"


def test_channels_that_were_last_hold_the_same_pixels(tmp_path):
    first = np.stack([IMAGES, IMAGES // 2, IMAGES // 3], axis=1)
    one = data.load(save(tmp_path, X=first, y=Y))
    other = data.load(save(tmp_path, X=np.moveaxis(first, 1, -1), y=Y))
    np.testing.assert_array_equal(one.test.inputs["image"], other.test.inputs["image"])
    assert one.test.inputs["image"].max() > 1, "pixels stay raw"


@pytest.mark.parametrize(
    "names",
    [("X_train", "y_train", "X_test", "y_test"), ("train_images", "train_labels", "test_images", "test_labels")],
    ids=["scikit-learn", "medmnist"],
)
def test_an_archive_with_official_splits_keeps_them(tmp_path, names):
    arrays = dict(zip(names, (IMAGES, Y, IMAGES[:7], Y[:7]), strict=True))
    dataset = data.load(save(tmp_path, **arrays))
    assert [len(dataset.train(1)), len(dataset.validation), len(dataset.test)] == [36, 4, 7]
    np.testing.assert_array_equal(dataset.test.inputs["image"][:, 0], IMAGES[:7])


def test_a_test_archive_may_be_a_file_of_its_own(tmp_path):
    other = Path(save(tmp_path, "test.npz", X=FEATURES[:5], y=Y[:5]))
    assert len(data.load(save(tmp_path, X=FEATURES, y=Y), Source(test_data=other)).test) == 5
    with pytest.raises(DataError, match=r"d.npz: holds test rows of its own; leave out --test-data"):
        data.load(save(tmp_path, X_train=FEATURES, y_train=Y, X_test=FEATURES, y_test=Y), Source(test_data=other))
    with pytest.raises(DataError, match=r"test.npz: a row of 'features' has shape \[3\], in the training data \[2\]"):
        data.load(save(tmp_path, X=FEATURES[:, :2], y=Y), Source(test_data=other))


def test_nan_in_features_is_a_missing_value(tmp_path):
    features = FEATURES.copy()
    features[::2, 1] = np.nan
    columns = data.load(save(tmp_path, X=features, y=Y)).kind.columns
    assert [column.missing for column in columns] == [False, True, False]


def test_lengths_become_a_mask_and_steps_past_them_are_zero(tmp_path):
    lengths = np.arange(N) % 4 + 2
    dirty = SEQUENCES.copy()
    dirty[np.arange(5) >= lengths[:, None]] = np.nan
    dataset = data.load(save(tmp_path, X=dirty, lengths=lengths, y=Y))
    split = dataset.train(1)
    assert set(split.inputs["mask"].sum(axis=1)) == {2, 3, 4, 5}
    assert (split.inputs["sequence"][~split.inputs["mask"]] == 0).all()
    assert dataset.kind.length.max == 5
    expected = split.inputs["sequence"][split.inputs["mask"]].mean(axis=0)
    assert dataset.kind.mean == pytest.approx(expected, abs=1e-5), "padding does not count"


@pytest.mark.parametrize(
    ("y", "task", "outputs"),
    [
        pytest.param(np.array(["a", "b", "c", "d"])[np.arange(N) % 4], "multiclass", 4, id="names"),
        pytest.param(np.array([b"a", b"b"])[Y], "binary", 1, id="bytes"),
        pytest.param(FEATURES[:, 0], "regression", 1, id="numbers"),
        pytest.param(FEATURES[:, :2], "regression", 2, id="two-columns"),
        pytest.param(np.stack([Y, 1 - Y, Y], axis=1), "multilabel", 3, id="0-and-1"),
        pytest.param(Y[:, None], "binary", 1, id="one-column"),
    ],
)
def test_targets_say_what_the_task_is(tmp_path, y, task, outputs):
    dataset = data.load(save(tmp_path, X=FEATURES, y=y))
    assert (dataset.task.type, dataset.task.outputs) == (task, outputs)


def test_other_arrays_are_left_out_and_recorded(tmp_path):
    assert data.load(save(tmp_path, X=FEATURES, y=Y, ids=Y)).handling["arrays left out"] == ["ids"]


def bad(values: np.ndarray, at: tuple, value: float = np.nan) -> np.ndarray:
    changed = values.astype(float)
    changed[at] = value
    return changed


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        pytest.param({"a": FEATURES}, r"needs arrays X and y, or X_train and y_train; there are a", id="no-names"),
        pytest.param({"X": FEATURES}, r"the train rows have no y; call it one of y, target", id="no-target"),
        pytest.param({"X": FEATURES, "y": Y[:9]}, r"array 'y' has 9 rows, its inputs have 40", id="rows-differ"),
        pytest.param({"X": FEATURES, "x": FEATURES, "y": Y}, r"arrays 'X' and 'x' are both X of the train rows", id="twice"),
        pytest.param({"X": FEATURES[:, 0], "y": Y}, r"array 'X' is float64 of shape \[40\]; rows of numbers are needed", id="flat"),
        pytest.param({"X": FEATURES.astype(str), "y": Y}, r"array 'X' is <U\d+ of shape", id="text"),
        pytest.param({"X": FEATURES[:0], "y": Y[:0]}, r"array 'X' of shape \[0, 3\] has no rows", id="empty"),
        pytest.param({"X": IMAGES[..., None, None], "y": Y}, r"array 'X' has shape \[40, 8, 6, 1, 1\]; X may be", id="five-axes"),
        pytest.param(
            {"X": bad(FEATURES, (3, 1), np.inf), "y": Y}, r"array 'X' at \[3, 1\], counted from 0, is infinite", id="infinite"
        ),
        pytest.param(
            {"X": bad(IMAGES, (2, 7, 5)), "y": Y}, r"array 'X' at \[2, 7, 5\], counted from 0, is no finite number", id="nan-pixel"
        ),
        pytest.param({"sequence": bad(SEQUENCES, (1, 4, 0)), "y": Y}, r"array 'sequence' at \[1, 4, 0\], counted", id="nan-step"),
        pytest.param(
            {"X": SEQUENCES, "lengths": np.full(N, 6), "y": Y}, r"'lengths' says 6 for row 0, but 'X' has 5 steps", id="too-long"
        ),
        pytest.param(
            {"X": SEQUENCES, "lengths": np.zeros(N, int), "y": Y}, r"'lengths' must mark at least one step of row 0", id="no-steps"
        ),
        pytest.param({"X": SEQUENCES, "mask": np.eye(N, 5), "y": Y}, r"'mask' is float64 of shape", id="float-mask"),
        pytest.param(
            {"X": SEQUENCES, "mask": np.ones((N, 5), bool)[:, ::-1] ^ np.eye(N, 5, dtype=bool), "y": Y},
            r"'mask' .* row 0",
            id="hole",
        ),
        pytest.param({"X": FEATURES, "y": np.array([{}] * N)}, r"cannot be read .* save numbers or text", id="objects"),
        pytest.param(
            {"X": FEATURES, "y": np.where(Y, np.nan, 0.5)}, r"d.npz: row 2, column 'y': the target is missing", id="nan-target"
        ),
    ],
)
def test_what_cannot_be_used_is_named_with_array_and_shape(tmp_path, arrays, message):
    with pytest.raises(DataError, match=message):
        data.load(save(tmp_path, **arrays))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and so on", b"\x80\x04K\x01."], ids=["empty", "cut", "pickle"])
def test_a_file_that_is_no_archive_is_refused(tmp_path, content):
    (tmp_path / "d.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"d.npz: cannot be read as an .npz archive"):
        data.load(str(tmp_path / "d.npz"))


def test_an_archive_that_was_cut_off_or_is_a_lone_array_is_refused(tmp_path):
    path = Path(save(tmp_path, X=FEATURES, y=Y))
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"d.npz: cannot be read as an .npz archive"):
        data.load(str(path))
    with path.open("wb") as file:
        np.save(file, FEATURES)
    with pytest.raises(DataError, match=r"d.npz: cannot be read as an .npz archive"):
        data.load(str(path))
