from __future__ import annotations

import numpy as np

from export.divergence import first_leaving, node_errors
from modelrepo.parity import Gate
from tests.export.graphs import write_chain

ROWS = {"x": np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)}
GATE = Gate(atol=1e-3)


def chain(path, factor=2.0, offset=1.0):
    return write_chain(path, ("Tanh", None), ("Mul", np.float32(factor)), ("Add", np.float32(offset)), ("Sigmoid", None))


def test_the_first_node_that_leaves_is_named_not_the_last(tmp_path):
    original, wrong = chain(tmp_path / "a.onnx"), chain(tmp_path / "b.onnx", factor=2.2)
    errors = node_errors(original, wrong, ROWS)
    assert [error.node for error in errors] == ["node0", "node1", "node2", "node3"]
    first = first_leaving(errors, GATE)
    assert (first.node, first.operator) == ("node1", "Mul")
    assert "node1 (Mul), whose output differs by 1" in str(first)


def test_a_graph_that_is_right_leaves_nowhere(tmp_path):
    original = chain(tmp_path / "a.onnx")
    errors = node_errors(original, original, ROWS)
    assert {error.error for error in errors} == {0.0}
    assert first_leaving(errors, GATE) is None


def test_what_is_no_number_any_more_has_left(tmp_path):
    original, wrong = chain(tmp_path / "a.onnx"), chain(tmp_path / "b.onnx", offset=np.nan)
    assert first_leaving(node_errors(original, wrong, ROWS), GATE).node == "node2"


def test_nodes_that_the_artifact_has_not_are_passed_over(tmp_path):
    original = chain(tmp_path / "a.onnx")
    shorter = write_chain(tmp_path / "b.onnx", ("Tanh", None), ("Sigmoid", None))
    assert [error.node for error in node_errors(original, shorter, ROWS)] == ["node0", "node3"]
