"""Where an artifact leaves its original: the error at every node that both graphs have."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from export.intermediates import INFINITE, Intermediates
from modelrepo.parity import Gate
from modelrepo.tensors import Array, Tensors

EIGHT_BITS = 0.05  # of a tensor's largest element: far more than one rounding to 8 bits


@dataclass(frozen=True)
class NodeError:
    """The largest difference in a node's output, as a share of the output's largest element, or of 1 where that is less."""

    node: str
    operator: str
    error: float

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}), whose output differs by {self.error:.2%} of its largest element"


def node_errors(original: Path, artifact: Path, rows: Tensors) -> tuple[NodeError, ...]:
    """The error of every node of `original` whose output has its name in `artifact` too, in the order they run."""
    probe = Intermediates(original)
    truth, found = probe.run(rows), Intermediates(artifact).run(rows)
    return tuple(
        NodeError(node.name, node.op_type, _error(found[name], truth[name]))
        for node in probe.graph.graph.node
        for name in node.output
        if name in found and found[name].shape == truth[name].shape and truth[name].dtype == np.float32 and truth[name].size
    )


def first_leaving(errors: tuple[NodeError, ...], gate: Gate) -> NodeError | None:
    """The first node whose error is more than the gate allows at the end, None where every one keeps to it."""
    limit = EIGHT_BITS if gate.atol is None else gate.atol + gate.rtol
    return next((error for error in errors if not error.error <= limit), None)


def _error(found: Array, truth: Array) -> float:
    finite = np.isfinite(truth) & (np.abs(truth) < INFINITE)
    wrong = np.abs(found.astype(np.float64) - truth)[finite]
    return float(np.max(wrong, initial=0.0) / max(1.0, float(np.max(np.abs(truth[finite]), initial=0.0))))
