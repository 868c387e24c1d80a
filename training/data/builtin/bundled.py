"""The small real data sets inside scikit-learn, each divided 70 / 10 / 20 as splits.divide divides a user's data."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris, load_wine
from sklearn.utils import Bunch

from modelrepo.tasks import Binary, Multiclass, Task
from modelrepo.tensors import Array, ShapeRange, Tensors
from training.data import splits
from training.data.dataset import Dataset, Images, Kind, Rows, Series, Split, moments, numeric, regression
from training.data.source import Source

DIGITS = Multiclass(labels=tuple(str(digit) for digit in range(10)))
Index = npt.NDArray[np.int64]


def iris() -> Dataset:
    """Fisher's irises (1936): 150 flowers of three species, four lengths and widths in cm."""
    return _classes("iris", load_iris())


def wine() -> Dataset:
    """178 wines of three growers, 13 chemical measurements (Forina et al. 1988)."""
    return _classes("wine", load_wine())


def breast_cancer() -> Dataset:
    """569 tumours, 30 measurements of cell nuclei, malignant or benign (Wolberg et al. 1995); benign is the positive class."""
    return _classes("breast-cancer", load_breast_cancer())


def diabetes() -> Dataset:
    """442 patients, ten measurements in their own units, and a number for the disease's progress in a year (Efron et al. 2004)."""
    bunch = load_diabetes(scaled=False)
    train, _, _ = parts = _divide(len(bunch.target))
    target = bunch.target[:, None]  # [N] -> [N, 1]
    features = bunch.data.astype(np.float32)
    kind = Rows(columns=numeric(bunch.data[train], bunch.feature_names))
    return _dataset(
        "diabetes", kind, regression(("progression",), target[train]), {"features": features}, target.astype(np.float32), parts
    )


def digits() -> Dataset:
    """1,797 handwritten digits as images of 8x8 pixels from 0 to 16 (Kaynak 1995), split 1,257 / 180 / 360."""
    bunch = load_digits()
    image = bunch.images.astype(np.float32)[:, None]  # [N, 8, 8] -> [N, 1, 8, 8]
    train, _, _ = parts = _divide(len(image), bunch.target)
    kind = Images(height=8, width=8, **moments(image[train], (0, 2, 3)))
    return _dataset("digits", kind, DIGITS, {"image": image}, bunch.target.astype(np.int64), parts)


def digits_rows() -> Dataset:
    """The digits as sequences: eight steps from top to bottom, each one row of eight pixels. Splits are those of digits."""
    bunch = load_digits()
    sequence = bunch.images.astype(np.float32)  # [N, 8 steps, 8 channels]
    train, _, _ = parts = _divide(len(sequence), bunch.target)
    kind = Series(length=ShapeRange(axis="length", min=8, opt=8, max=8), **moments(sequence[train], (0, 1)))
    inputs = {"sequence": sequence, "mask": np.ones(sequence.shape[:2], bool)}
    return _dataset("digits-rows", kind, DIGITS, inputs, bunch.target.astype(np.int64), parts)


def _classes(name: str, bunch: Bunch) -> Dataset:
    """A table of numbers with one label a row."""
    train, _, _ = parts = _divide(len(bunch.target), bunch.target)
    labels = tuple(str(label) for label in bunch.target_names)
    task: Task = Binary(labels=labels) if len(labels) == 2 else Multiclass(labels=labels)
    targets = bunch.target[:, None].astype(np.float32) if len(labels) == 2 else bunch.target.astype(np.int64)
    kind = Rows(columns=numeric(bunch.data[train], [str(column) for column in bunch.feature_names]))
    return _dataset(name, kind, task, {"features": bunch.data.astype(np.float32)}, targets, parts)


def _divide(rows: int, strata: Array | None = None) -> tuple[Index, Index, Index]:
    return splits.divide(rows, Source(), strata=strata, has_test=False, has_validation=False)


def _dataset(name: str, kind: Kind, task: Task, inputs: Tensors, targets: Array, parts: tuple[Index, Index, Index]) -> Dataset:
    train, validation, test = (Split(inputs, targets).rows(part) for part in parts)
    return Dataset(name=name, kind=kind, task=task, train=lambda _epoch: train, validation=validation, test=test)
