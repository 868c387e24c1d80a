"""Golden rows: held-out inputs with PyTorch's answers, which a session must reproduce on the machine it is to serve on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from modelrepo.tensors import Array, Signature, Tensors
from runtime.session import Session, SessionError, promised_shapes


class GoldenMismatch(SessionError):
    """A session whose answers differ from PyTorch's."""


def prove(
    session: Session,
    inputs: Tensors,
    outputs: Tensors,
    tolerance: float,
    unit: tuple[float, ...] = (1.0,),
    progress: Callable[[int, int], None] = lambda done, all_: None,
) -> float:
    """Run the golden rows through every batch and length bucket; returns the largest absolute difference in the task's `unit`.

    This also warms the session up: each promised shape has run once; `progress` is told how many of how many. Raises GoldenMismatch
    at the first bucket in which an output element is further than `tolerance` from PyTorch's, or is not a number.
    """
    worst = 0.0
    shapes = list(promised_shapes(session.signature))
    for done, (batch, length) in enumerate(shapes):
        progress(done, len(shapes))
        fitting = _rows_up_to(session.signature, inputs, length)
        if fitting.size == 0:  # every golden sequence is longer than this bucket: warm it with one cut short, unjudged
            session.run(at(session.signature, inputs, np.zeros(batch, np.int64), length))
            continue
        worst = max(worst, _compare(session, inputs, outputs, np.resize(fitting, batch), length, tolerance, unit))
    return worst


def check(session: Session, inputs: Tensors, outputs: Tensors, tolerance: float, unit: tuple[float, ...] = (1.0,)) -> None:
    """One golden row through a session that served already. Raises GoldenMismatch, and whatever the session raises."""
    longest = session.signature.length.max if session.signature.length else None
    _compare(session, inputs, outputs, np.zeros(1, np.int64), longest, tolerance, unit)


def _compare(
    session: Session,
    inputs: Tensors,
    outputs: Tensors,
    index: np.ndarray,
    length: int | None,
    tolerance: float,
    unit: tuple[float, ...],
) -> float:
    """The largest difference of any output over some golden rows. Raises GoldenMismatch."""
    worst = 0.0
    for name, answer in session.run(at(session.signature, inputs, index, length)).items():
        difference = float(np.max(np.abs(answer - outputs[name][index]) / unit))
        if not difference <= tolerance:  # also true of NaN
            where = f"batch {len(index)}" if length is None else f"batch {len(index)}, length {length}"
            raise GoldenMismatch(
                f"{session.provider} differs from PyTorch by {difference:.3g} in {name!r} at {where}; {tolerance:g} is allowed"
            )
        worst = max(worst, difference)
    return worst


def costs(session: Session, inputs: Tensors) -> dict[tuple[int, int | None], float]:
    """Seconds that a warm session takes for each (batch, length) bucket: the fastest of three runs on golden rows."""
    measured: dict[tuple[int, int | None], float] = {}
    for batch, length in promised_shapes(session.signature):
        feed = at(session.signature, inputs, np.resize(np.arange(len(next(iter(inputs.values())))), batch), length)
        samples = []
        for _ in range(3):
            started = time.perf_counter()
            session.run(feed)
            samples.append(time.perf_counter() - started)
        measured[batch, length] = min(samples)
    return measured


def smallest(signature: Signature, inputs: Tensors) -> Tensors:
    """The first golden row as the smallest batch that the model takes."""
    return at(signature, inputs, np.zeros(signature.batch.min, np.int64), signature.length.min if signature.length else None)


def _rows_up_to(signature: Signature, inputs: Mapping[str, Array], length: int | None) -> np.ndarray:
    """Indices of the golden rows whose sequences are at most `length` long; all of them without sequences."""
    rows = len(next(iter(inputs.values())))
    if length is None or signature.mask is None:
        return np.arange(rows)
    return np.flatnonzero(inputs[signature.mask.name].sum(axis=1) <= length)


def at(signature: Signature, inputs: Mapping[str, Array], index: np.ndarray, length: int | None) -> Tensors:
    """Some rows as a batch, of one length where there is one: longer sequences are cut, shorter ones padded and masked."""
    taken = {spec.name: inputs[spec.name][index] for spec in signature.inputs}
    return taken if length is None else {spec.name: spec.resized(taken[spec.name], length) for spec in signature.inputs}
