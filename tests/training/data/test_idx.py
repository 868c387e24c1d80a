from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from training import data
from training.data.dataset import DataError
from training.data.idx import read_idx
from training.data.source import Source

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}
MNIST = Path(__file__).parents[4] / "shared/data/mnist-10k"
IMAGES = np.random.default_rng(0).integers(0, 256, (30, 5, 4), np.uint8)
LABELS = (np.arange(30) % 3).astype(np.uint8)


def idx(array: np.ndarray) -> bytes:
    head = bytes([0, 0, CODES[array.dtype.str[1:]], array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def pair(
    folder: Path, prefix: str = "train", images: np.ndarray = IMAGES, labels: np.ndarray = LABELS, zipped: bool = False
) -> Path:
    folder.mkdir(exist_ok=True)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        content = idx(array)
        path = folder / f"{prefix}-{kind}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


@settings(max_examples=80, deadline=None)
@given(
    array=hnp.arrays(
        st.sampled_from([np.dtype(code) for code in CODES]), hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=5)
    ),
    zipped=st.booleans(),
)
def test_what_was_written_is_read(tmp_path_factory, array, zipped):
    path = tmp_path_factory.getbasetemp() / "round.idx"
    path.write_bytes(gzip.compress(idx(array)) if zipped else idx(array))
    found = read_idx(path)
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@settings(max_examples=150, deadline=None)
@given(
    content=st.binary(max_size=60)
    | st.binary(max_size=40).map(lambda tail: b"\0\0\x08\x03" + tail)
    | st.binary(max_size=30).map(gzip.compress)
)
def test_any_bytes_are_an_array_or_an_error_that_names_the_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.idx"
    path.write_bytes(content)
    try:
        found = read_idx(path)
    except DataError as error:
        found = error
    assert "any.idx" in str(found) if isinstance(found, DataError) else found.ndim <= 4


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(1, 10_000), zipped=st.booleans())
def test_a_file_cut_anywhere_is_refused(tmp_path_factory, cut, zipped):
    whole = gzip.compress(idx(IMAGES)) if zipped else idx(IMAGES)
    path = tmp_path_factory.getbasetemp() / "cut.idx"
    path.write_bytes(whole[: len(whole) - 1 - cut % (len(whole) - 1)])
    with pytest.raises(DataError, match="cut.idx: (begins with|ends at|broken or cut off|says 30 x 5 x 4 values)"):
        read_idx(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "begins with nothing, where IDX has 00 00", id="empty"),
        pytest.param(b"\x89PNG....", "begins with 89 50 4e 47", id="foreign"),
        pytest.param(b"\0\0\x07\x03" + bytes(12), "begins with 00 00 07 03", id="type"),
        pytest.param(b"\0\0\x08\x00", "begins with 00 00 08 00", id="no-axes"),
        pytest.param(b"\0\0\x08\x03\0\0", "ends at byte 6, before the sizes of its 3 axes", id="no-sizes"),
        pytest.param(
            idx(IMAGES)[:100],
            "says 30 x 5 x 4 values of 1 bytes, which end at byte 616, but ends at byte 100; fetch it anew",
            id="cut",
        ),
        pytest.param(idx(IMAGES) + b"!", "which end at byte 616, but goes on after that", id="too-long"),
        pytest.param(b"\0\0\x0e\x04" + b"\xff" * 16 + b"x", "4294967295 x 4294967295 x", id="absurd-size"),
        pytest.param(gzip.compress(idx(IMAGES))[:60], "broken or cut off", id="gzip-cut"),
    ],
)
def test_a_broken_file_is_named_with_what_was_expected(tmp_path, content, message):
    (tmp_path / "x.idx").write_bytes(content)
    with pytest.raises(DataError, match=f"x.idx: .*{message}"):
        read_idx(tmp_path / "x.idx")


@pytest.mark.parametrize("zipped", [False, True], ids=["plain", "gzipped"])
def test_a_folder_with_one_pair_is_divided(tmp_path, zipped):
    dataset = data.load(str(pair(tmp_path / "d", zipped=zipped)))
    assert [len(dataset.train(1)), len(dataset.validation), len(dataset.test)] == [21, 3, 6]
    assert dataset.task.labels == ("0", "1", "2")
    assert (dataset.kind.height, dataset.kind.width) == (5, 4)
    assert dataset.test.inputs["image"].dtype == np.float32
    assert {tuple(image.ravel()) for image in dataset.test.inputs["image"]} < {
        tuple(image.ravel().astype(float)) for image in IMAGES
    }
    assert dataset.name == "d"


def test_a_folder_with_train_and_t10k_is_an_official_split(tmp_path):
    pair(tmp_path)
    pair(tmp_path, "t10k", IMAGES[:7], LABELS[:7])
    dataset = data.load(str(tmp_path))
    assert [len(dataset.train(1)), len(dataset.validation), len(dataset.test)] == [27, 3, 7]
    np.testing.assert_array_equal(dataset.test.inputs["image"][:, 0], IMAGES[:7])
    with pytest.raises(DataError, match="has test images of its own; leave out --test-data"):
        data.load(str(tmp_path), Source(test_data=tmp_path))


def test_a_file_of_images_is_read_with_the_labels_beside_it(tmp_path):
    pair(tmp_path)
    pair(tmp_path, "t10k", IMAGES[:7], LABELS[:7])
    train, test = tmp_path / "train-images-idx3-ubyte", tmp_path / "t10k-images-idx3-ubyte"
    assert len(data.load(str(train)).test) == 6
    assert len(data.load(str(train), Source(test_data=test)).test) == 7


def test_missing_or_foreign_labels_are_named(tmp_path):
    pair(tmp_path, labels=LABELS[:9])
    with pytest.raises(DataError, match=r"labels-idx1-ubyte: holds labels of shape \[9\] for 30 images of train-images"):
        data.load(str(tmp_path))
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(
        DataError, match="its labels are missing: no file train-labels-idx1-ubyte or train-labels-idx1-ubyte.gz beside it"
    ):
        data.load(str(tmp_path))


def test_a_folder_of_several_sets_is_not_guessed_at(tmp_path):
    pair(tmp_path, "letters")
    pair(tmp_path, "digits")
    with pytest.raises(DataError, match="which of these files to read: digits-images-idx3-ubyte, letters-images-idx3-ubyte"):
        data.load(str(tmp_path))


def test_test_images_of_another_size_are_refused(tmp_path):
    pair(tmp_path)
    pair(tmp_path, "t10k", IMAGES[:, :4], LABELS)
    with pytest.raises(DataError, match=r"a row of 'image' has shape \[1, 4, 4\], in the training data \[1, 5, 4\]"):
        data.load(str(tmp_path))


@pytest.mark.skipif(not MNIST.is_dir(), reason=f"no {MNIST}")
def test_ten_thousand_digits_of_mnist_are_divided_by_class():
    dataset = data.load(str(MNIST))
    assert [len(dataset.train(1)), len(dataset.validation), len(dataset.test)] == [7000, 1000, 2000]
    assert dataset.kind.mean[0] == pytest.approx(33.8, abs=0.2)
    np.testing.assert_allclose(np.bincount(dataset.test.targets) / 2000, np.bincount(dataset.train(1).targets) / 7000, atol=0.001)
