"""Generated data: points in the plane that no straight line divides, and two puzzles for sequences.

All of it is the same on every machine and in every run: generators are seeded by name of split and epoch.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from sklearn.datasets import make_circles, make_moons

from modelrepo.tasks import Binary, Multiclass, Task
from modelrepo.tensors import ShapeRange
from training.data.dataset import Dataset, Rows, Series, Split, Tokens, moments, numeric, regression

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

    return _plane("spirals", Multiclass(labels=("red", "green", "blue")), points, (3000, 600, 1500))


def moons() -> Dataset:
    """Two interleaved half circles with noise of 0.2 (scikit-learn's make_moons). 1,000 / 300 / 1,000 points."""

    def points(seed: int, count: int) -> Split:
        at, lower = make_moons(count, noise=0.2, random_state=seed)
        return _two(at, lower)

    return _plane("moons", Binary(labels=("upper", "lower")), points, (1000, 300, 1000))


def circles() -> Dataset:
    """A circle within another, of half its radius, with noise of 0.1 (scikit-learn's make_circles). 1,000 / 300 / 1,000 points."""

    def points(seed: int, count: int) -> Split:
        at, inner = make_circles(count, noise=0.1, factor=0.5, random_state=seed)
        return _two(at, inner)

    return _plane("circles", Binary(labels=("outer", "inner")), points, (1000, 300, 1000))


def xor() -> Dataset:
    """Exclusive or (Minsky & Papert 1969): four clusters around (±1, ±1); do the signs differ? 1,000 / 300 / 1,000 points.

    A linear model is right half of the time, or three times in four if it gives up one cluster.
    """

    def points(seed: int, count: int) -> Split:
        rng = np.random.default_rng((5, seed))
        corner = rng.permutation(np.arange(count) % 4)  # as many of each
        sign = np.stack([corner % 2, corner // 2], axis=1) * 2 - 1
        return _two(sign + rng.normal(0, 0.25, (count, 2)), sign[:, 0] != sign[:, 1])

    return _plane("xor", Binary(labels=("same", "different")), points, (1000, 300, 1000))


def _two(at: np.ndarray, second: np.ndarray) -> Split:
    return Split({"features": at.astype(np.float32)}, second[:, None].astype(np.float32))  # targets [N, 1]


def _plane(name: str, task: Task, points: Callable[[int, int], Split], counts: tuple[int, int, int]) -> Dataset:
    train = points(0, counts[0])
    return Dataset(
        name=name,
        kind=Rows(columns=numeric(train.inputs["features"], ("x", "y"))),
        task=task,
        train=lambda _epoch: train,
        validation=points(VALIDATION, counts[1]),
        test=points(TEST, counts[2]),
    )


def adding() -> Dataset:
    """The adding problem (Hochreiter & Schmidhuber 1997): sum the two marked numbers of a sequence of 20 to 60.

    Each step is (number in [0, 1), marker 0 or 1). Predicting the mean, 1, gives an MSE of 1/6.
    """
    return _adding("adding", 20, 60)


def adding_100() -> Dataset:
    """The adding problem with 100 numbers each time: long enough to tell networks that keep what they read from others."""
    return _adding("adding-100", 100, 100)


def _adding(name: str, shortest: int, longest: int) -> Dataset:
    def sequences(seed: int, count: int) -> Split:
        rng = np.random.default_rng((2, seed))
        lengths = rng.integers(shortest, longest + 1, count)
        mask = np.arange(longest) < lengths[:, None]
        number = rng.random((count, longest)) * mask
        first = rng.integers(0, lengths // 2)
        second = rng.integers(lengths // 2, lengths)
        marker = np.zeros((count, longest))
        row = np.arange(count)
        marker[row, first] = marker[row, second] = 1
        target = number[row, first] + number[row, second]
        return Split(
            {"sequence": np.stack([number, marker], axis=2).astype(np.float32), "mask": mask},
            target[:, None].astype(np.float32),
        )

    sample = sequences(0, 2000)
    return Dataset(
        name=name,
        kind=Series(
            length=ShapeRange(axis="length", min=shortest, opt=(shortest + longest) // 2, max=longest),
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
