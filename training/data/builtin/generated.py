"""Data that needs no download: two generated puzzles for sequences, generated spirals, and scikit-learn's digits.

All of it is the same on every machine and in every run: generators are seeded by name of split and epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from modelrepo.tasks import Multiclass
from modelrepo.tensors import ShapeRange
from training.data.dataset import Dataset, Images, Rows, Series, Split, Tokens, moments, numeric, regression

VALIDATION, TEST = 1_000_001, 1_000_002  # seeds no epoch number reaches


def spirals() -> Dataset:
    """Three interleaved spiral arms in the plane; the class is the arm. 3,000 / 600 / 1,500 points."""

    def points(seed: int, count: int) -> Split:
        rng = np.random.default_rng((1, seed))
        arm = rng.integers(0, 3, count)
        along = np.sqrt(rng.uniform(0.02, 1, count))  # the square root spreads points evenly over the arm's length
        angle = 4 * along + arm * 2 * np.pi / 3
        at = along[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1) + rng.normal(0, 0.09, (count, 2))
        return Split({"features": at.astype(np.float32)}, arm)

    train = points(0, 3000)
    return Dataset(
        name="spirals",
        kind=Rows(columns=numeric(train.inputs["features"], ("x", "y"))),
        task=Multiclass(labels=("red", "green", "blue")),
        train=lambda _epoch: train,
        validation=points(VALIDATION, 600),
        test=points(TEST, 1500),
    )


def digits() -> Dataset:
    """scikit-learn's 1,797 handwritten digits, 8x8 pixels of 0 to 16, split 1,257 / 180 / 360 by class.

    Each epoch moves every training picture by up to one pixel either way, which is worth about a point of accuracy.
    """
    bunch = load_digits()
    image = bunch.images.astype(np.float32)[:, None]  # [N, 1, 8, 8]
    target = bunch.target.astype(np.int64)
    rest, test = train_test_split(np.arange(len(target)), test_size=360, random_state=0, stratify=target)
    train, validation = train_test_split(rest, test_size=180, random_state=0, stratify=target[rest])

    def split(index: np.ndarray) -> Split:
        return Split({"image": image[index]}, target[index])

    def shifted(epoch: int) -> Split:
        dy, dx = np.random.default_rng((4, epoch)).integers(0, 3, (2, len(train), 1, 1))  # 1 leaves the picture where it is
        padded = np.pad(image[train, 0], ((0, 0), (1, 1), (1, 1)))
        moved = padded[np.arange(len(train))[:, None, None], np.arange(8)[:, None] + dy, np.arange(8) + dx]
        return Split({"image": moved[:, None]}, target[train])

    return Dataset(
        name="digits",
        kind=Images(height=8, width=8, **moments(image[train], (0, 2, 3))),
        task=Multiclass(labels=tuple(str(name) for name in bunch.target_names)),
        train=shifted,
        validation=split(validation),
        test=split(test),
    )


def adding() -> Dataset:
    """The adding problem (Hochreiter & Schmidhuber 1997): sum the two marked numbers of a sequence of 20 to 60.

    Each step is (number in [0, 1), marker 0 or 1). Predicting the mean, 1, gives an MSE of 1/6.
    """

    def sequences(seed: int, count: int) -> Split:
        rng = np.random.default_rng((2, seed))
        lengths = rng.integers(20, 61, count)
        mask = np.arange(60) < lengths[:, None]
        number = rng.random((count, 60)) * mask
        first = rng.integers(0, lengths // 2)
        second = rng.integers(lengths // 2, lengths)
        marker = np.zeros((count, 60))
        row = np.arange(count)
        marker[row, first] = marker[row, second] = 1
        target = number[row, first] + number[row, second]
        return Split(
            {"sequence": np.stack([number, marker], axis=2).astype(np.float32), "mask": mask},
            target[:, None].astype(np.float32),
        )

    sample = sequences(0, 2000)
    return Dataset(
        name="adding",
        kind=Series(
            length=ShapeRange(axis="length", min=20, opt=40, max=60),
            **moments(sample.inputs["sequence"][sample.inputs["mask"]], (0,)),
        ),
        task=regression(("sum",), sample.targets),
        train=lambda epoch: sequences(epoch, 6400),
        validation=sequences(VALIDATION, 1000),
        test=sequences(TEST, 2000),
    )


KEYS, VALUES = 16, 16


def recall() -> Dataset:
    """Associative recall: 4 to 16 key-value pairs with distinct keys, then a query key; answer its value.

    A pair is one token, `16 * key + value`; a query is the token `256 + key`. It is what attention was made for: a
    dictionary looked up by content (Graves et al. 2014, section 4.3).
    """

    def sequences(seed: int, count: int) -> Split:
        rng = np.random.default_rng((3, seed))
        pairs = rng.integers(4, 17, count)
        keys = rng.permuted(np.tile(np.arange(KEYS), (count, 1)), axis=1)
        values = rng.integers(0, VALUES, (count, KEYS))
        asked = rng.integers(0, pairs)
        row = np.arange(count)
        tokens = np.zeros((count, KEYS + 1), np.int64)
        tokens[:, :KEYS] = VALUES * keys + values
        mask = np.arange(KEYS + 1) <= pairs[:, None]
        tokens *= mask
        tokens[row, pairs] = KEYS * VALUES + keys[row, asked]
        return Split({"tokens": tokens, "mask": mask}, values[row, asked])

    return Dataset(
        name="recall",
        kind=Tokens(
            vocabulary=KEYS * VALUES + KEYS,
            length=ShapeRange(axis="length", min=2, opt=10, max=KEYS + 1),
            description="pairs as 16 * key + value, then the query as 256 + key",
        ),
        task=Multiclass(labels=tuple(str(value) for value in range(VALUES))),
        train=lambda epoch: sequences(epoch, 12_800),
        validation=sequences(VALIDATION, 1000),
        test=sequences(TEST, 2000),
    )


BUILTIN: dict[str, Callable[[], Dataset]] = {load.__name__: load for load in (spirals, digits, adding, recall)}
