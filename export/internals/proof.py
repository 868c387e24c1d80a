"""Whether what explain.onnx shows adds up: on held-out rows of several lengths, padded, and on inputs at the edge of the data."""

from __future__ import annotations

import numpy as np

from export.errors import ConversionError
from export.parity import Truth
from modelrepo.internals import Internal
from modelrepo.tasks import Binary, Multiclass, Regression, Task
from modelrepo.tensors import Array, Tensors
from runtime.internals_session import InternalsSession

ROWS = 8
TOLERANCE = 1e-4  # absolute and relative: shares, gates and hidden states are of order 1, as are values in a target's unit


def prove(session: InternalsSession, truth: Truth) -> None:
    """Raise ConversionError naming the first output that is not what it says it is."""
    mask = session.signature.mask
    for example in truth.examples:
        inputs = {name: array[:ROWS] for name, array in example.inputs.items()}
        found = session.explain(inputs, [internal.name for internal in session.internals])
        rows, length = session.signature.check(inputs)
        real = None if mask is None else inputs[mask.name].sum(axis=1)
        for internal in session.internals:
            _check_shape(internal, found[internal.name], rows, length or 0)
            if internal.kind == "attention":
                _check_attention(internal.name, found[internal.name], length, real)
            if internal.kind == "gates":
                _check_gates(internal, found)
            if internal.kind == "outputs_by_step" and real is not None:
                last = found[internal.name][np.arange(rows), real - 1]
                _compare(internal.name, last, _predicted(found[truth.task.output], truth.task), np.array(truth.task.unit))


def _check_shape(internal: Internal, array: Array, rows: int, length: int) -> None:
    """Also that all is finite, and no more than callers are told."""
    expected = [size or (rows if axis == "instance" else None) for axis, size in zip(internal.axes, internal.shape, strict=True)]
    if len(array.shape) != len(expected) or any(a not in (None, b) for a, b in zip(expected, array.shape, strict=True)):
        raise ConversionError(f"{internal.name} came out in shape {list(array.shape)}, not {expected} of {list(internal.axes)}")
    if array.size > internal.numbers(rows, length):
        raise ConversionError(f"{internal.name} came out with {array.size} numbers, more than {internal.numbers(rows, length)}")
    if not np.isfinite(array).all():
        raise ConversionError(f"{internal.name} came out with a value that is not a number")


def _check_attention(name: str, shares: Array, length: int | None, real: Array | None) -> None:
    """Each real position's shares make up 1, and none goes to or comes from the padding; shares [N, heads, T, T]."""
    size = shares.shape[2]
    front = size - (length or size)  # a vector that the model puts before the sequence
    positions = np.full(len(shares), size) if real is None else real + front
    is_real = np.arange(size) < positions[:, None]  # [N, T]
    _compare(name, shares.sum(axis=3), np.broadcast_to(is_real[:, None, :], shares.shape[:3]))
    _compare(name, shares, shares * is_real[:, None, None, :])


def _check_gates(internal: Internal, found: Tensors) -> None:
    """The hidden states follow from the gates shown beside them, and from the cells or the states before."""
    prefix = internal.name.removesuffix("gates")
    hidden = found[f"{prefix}hidden"]  # [N, T, H]
    gates = dict(zip(internal.labels["gate"], np.moveaxis(found[internal.name], 2, 0), strict=True))
    if "cell" in gates:
        _compare(internal.name, gates["output"] * np.tanh(found[f"{prefix}cell"]), hidden)
        return
    nothing = np.zeros_like(hidden[:, :1])
    leftwards = prefix.endswith("leftwards.")
    before = np.concatenate([hidden[:, 1:], nothing] if leftwards else [nothing, hidden[:, :-1]], axis=1)
    _compare(internal.name, (1 - gates["update"]) * gates["candidate"] + gates["update"] * before, hidden)


def _predicted(output: Array, task: Task) -> Array:
    """Probabilities of all labels, or values, from [rows, outputs]."""
    if isinstance(task, Regression):
        return output
    logits = output.astype(np.float64) / task.temperature
    if isinstance(task, Multiclass):
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        shares: Array = powers / powers.sum(axis=1, keepdims=True)
        return shares
    chances: Array = 0.5 * (1 + np.tanh(0.5 * logits))
    return np.concatenate([1 - chances, chances], axis=1) if isinstance(task, Binary) else chances


def _compare(name: str, found: Array, expected: Array, unit: float | Array = 1.0) -> None:
    wrong = np.abs(found - expected) / unit - TOLERANCE * np.maximum(1, np.abs(expected) / unit)
    if not np.max(wrong, initial=0.0) <= 0:  # also true of NaN
        raise ConversionError(f"{name} does not add up: it is off by {np.max(np.abs(found - expected)):.3g}")
