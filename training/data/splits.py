"""How rows are divided into training, validation and test rows: always the same way for the same rows and shares."""

from __future__ import annotations

import math
import warnings

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import GroupShuffleSplit, StratifiedGroupKFold, train_test_split

from training.data.dataset import DataError
from training.data.source import Source

Index = npt.NDArray[np.int64]
Values = npt.NDArray[np.generic]

SEED = 0  # not the run's seed: runs with different seeds must be judged on the same rows


def divide(
    rows: int,
    source: Source,
    *,
    strata: Values | None = None,
    groups: Values | None = None,
    has_test: bool,
    has_validation: bool,
) -> tuple[Index, Index, Index]:
    """Indices of the training, validation and test rows, in shuffled order; a split that the user brings stays empty.

    The test rows are drawn first, then the validation rows from the rest; both shares are of all rows, rounded up, as
    scikit-learn's train_test_split(random_state=0) draws them. `strata` [rows] are values, such as labels, whose shares
    every split keeps. A label with one row stays in training; where a split is smaller than the number of labels, it is
    drawn at random but leaves at least one row of every label to training.
    `groups` [rows] keep together: rows of one value are all in one split, and shares are then of the groups, or as near as
    whole folds come to them where labels are kept in proportion (StratifiedGroupKFold).
    Raises DataError where there are too few rows or groups.
    """
    rest, test, validation = np.arange(rows), np.arange(0), np.arange(0)
    if not has_test:
        rest, test = _draw(rest, source.test, "test", strata, groups)
    if not has_validation:
        share = source.validation * rows / len(rest) if groups is None else source.validation / (1 if has_test else 1 - source.test)
        rest, validation = _draw(rest, share, "validation", strata, groups)
    return rest, validation, test


def _draw(rows: Index, share: float, name: str, strata: Values | None, groups: Values | None) -> tuple[Index, Index]:
    """Divide `rows` into what is left and what is drawn."""
    if groups is not None:
        return _draw_groups(rows, share, name, None if strata is None else strata[rows], groups[rows])
    count = math.ceil(share * len(rows) - 1e-9)  # 1e-9: 0.125 * 8000 must not become 1001
    if count >= len(rows):
        raise DataError(f"{len(rows)} rows leave none to train on after a {name} share of {share:g}; bring more, or --{name}-data")
    if strata is None:
        left, drawn = train_test_split(rows, test_size=count, random_state=SEED)
        return left, drawn
    _, label, sizes = np.unique(strata[rows], return_inverse=True, return_counts=True)
    several = sizes[label] > 1  # a label's only row can be learnt or judged, not both
    labels = int((sizes > 1).sum())
    if several.sum() - labels >= count >= labels > 0:
        keys = np.flatnonzero(several)
        left, drawn = train_test_split(keys, test_size=count, random_state=SEED, stratify=label[several])
        if len(np.unique(label[left])) == labels:  # large shares of rare labels can be rounded to every row
            return np.concatenate([rows[left], rows[~several]]), rows[drawn]
    shuffled = np.random.default_rng(SEED).permutation(len(rows))
    first = np.unique(label[shuffled], return_index=True)[1]
    free = np.delete(shuffled, first)
    if len(free) < count:
        raise DataError(
            f"{len(rows)} rows of {len(sizes)} labels cannot give {count} {name} rows and leave each label one to train on; "
            f"bring more rows, or --{name}-data"
        )
    drawn = np.sort(free[:count])
    return np.delete(rows, drawn), rows[drawn]


def _draw_groups(rows: Index, share: float, name: str, strata: Values | None, groups: Values) -> tuple[Index, Index]:
    count = len(np.unique(groups))
    if count < 2:
        raise DataError(f"{count} group is left to divide into training and {name} rows; a split needs at least two")
    folds = min(count, max(2, round(1 / share)))
    if strata is not None and folds <= np.unique(strata, return_counts=True)[1].max():
        splitter = StratifiedGroupKFold(n_splits=folds, shuffle=True, random_state=SEED)
    else:
        splitter = GroupShuffleSplit(n_splits=1, test_size=share, random_state=SEED)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a label with fewer rows than folds is no reason not to divide
        left, drawn = next(splitter.split(rows, strata, groups))
    if not len(left) or not len(drawn):
        raise DataError(f"{count} groups leave no training or no {name} rows at a {name} share of {share:g}; change --{name}")
    return rows[left], rows[drawn]
