"""How far two versions' answers may be apart, and what a decision is."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from modelrepo.parity import Gate
from modelrepo.repository import Repository
from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression
from service.rollout.comparison import Comparison
from tests import micro


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    return Repository(root).open("double").manifest


def comparing(manifest, task, theirs=None, gates=(1e-4, 1e-4), tolerance=None):
    """A function of the two answers, for tasks and gates of the two versions; a gate of None asks for no closeness."""
    mine, other = (manifest.model_copy(update={"task": each}) for each in (task, theirs or task))
    (way,) = manifest.candidates
    ways = [way.model_copy(update={"parity": way.parity.model_copy(update={"gate": Gate(atol=atol, rtol=0.0)})}) for atol in gates]
    comparison = Comparison(mine, ways[0], other, ways[1], tolerance)

    def compare(stable, candidate):
        return comparison.compare({task.output: np.array(stable, np.float32)}, {task.output: np.array(candidate, np.float32)})

    return compare


TWO = Multiclass(labels=("a", "b"))


def test_each_version_may_be_off_by_its_own_gate_and_8_bits_by_their_golden_tolerance(manifest):
    assert comparing(manifest, TWO)([[1, 2]], [[1.00015, 2]])[1:3] == (0, 0)
    assert comparing(manifest, TWO)([[1, 2]], [[1.0003, 2]])[1:3] == (1, 0)
    assert comparing(manifest, TWO, gates=(1e-4, None))([[1, 2]], [[1.001, 2]])[1:3] == (0, 0)
    assert comparing(manifest, TWO, tolerance=0.5)([[1, 2]], [[1.4, 2]])[1:3] == (0, 0)


def test_a_regression_is_measured_in_the_scale_of_its_targets_and_disagrees_where_it_differs(manifest):
    task = Regression(targets=("a", "b"), mean=(0.0, 0.0), scale=(1000.0, 1.0))
    found = comparing(manifest, task, tolerance=0.01)([[5000, 1], [5000, 1]], [[5005, 1], [5000, 1.02]])
    assert found[:3] == (2, 1, 1)
    assert found.largest == pytest.approx(0.02, rel=1e-3)


@pytest.mark.parametrize(
    ("task", "stable", "candidate", "disagreeing"),
    [
        (TWO, [[1, 2], [2, 1]], [[1, 9], [1, 2]], 1),
        (Binary(labels=("no", "yes")), [[1], [-1], [1]], [[9], [-9], [-1]], 1),
        (Multilabel(labels=("a", "b")), [[1, -1], [1, 1]], [[2, -2], [1, -1]], 1),
    ],
)
def test_decisions_are_compared_as_the_task_makes_them(manifest, task, stable, candidate, disagreeing):
    assert comparing(manifest, task)(stable, candidate).disagreeing == disagreeing


def test_columns_are_compared_by_what_they_stand_for(manifest):
    swapped = comparing(manifest, TWO, Multiclass(labels=("b", "a")))
    assert swapped([[1, 2]], [[2, 1]]) == (1, 0, 0, 0.0)
    other = comparing(manifest, TWO, Multiclass(labels=("a", "c")))
    assert other([[1, 2]] * 3, [[1, 2]] * 3) == (3, 3, 3, sys.float_info.max)


def test_what_is_no_number_differs_unless_it_is_none_in_both(manifest):
    compare = comparing(manifest, TWO)
    assert compare([[1, np.nan]], [[1, np.nan]])[:2] == (1, 0)
    assert compare([[np.inf, 1]], [[np.inf, 1]])[:2] == (1, 0)
    assert compare([[1, 2], [1, 2]], [[1, np.nan], [1, np.inf]]) == (2, 2, 2, sys.float_info.max)
