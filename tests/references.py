"""Micro models that know what they learnt from: rows made up for the purpose."""

from __future__ import annotations

import numpy as np

from modelrepo.reference import Reference
from modelrepo.tasks import Regression
from modelrepo.tensors import Array, Tensors
from tests import micro
from training.data.dataset import Dataset, Kind, Rows, Split
from training.reference import describe, with_predictions

TASK = Regression(targets=("age", "town", "pay"))


def reference_of(kind: Kind, inputs: Tensors, output: Array | None = None) -> Reference:
    rows = Split(inputs, np.zeros(len(next(iter(inputs.values())))))
    found = describe(Dataset(name="made up", kind=kind, task=TASK, train=lambda _epoch: rows, validation=rows, test=rows))
    return found if output is None else with_predictions(found, TASK, output)


_RNG = np.random.default_rng(0)
PEOPLE = np.stack([_RNG.normal(40, 10, 3000), _RNG.choice(3, 3000), _RNG.normal(0, 1, 3000)], axis=1).astype(np.float32)
"""Rows of `micro.publish_table`, [3000, 3]."""
TABLE = reference_of(Rows(columns=micro.COLUMNS.columns), {"features": PEOPLE}, PEOPLE[:1000])
