"""Whether an artifact answers as PyTorch does, asked through the very session that will serve it.

PyTorch is given each held-out row alone and unpadded; the session gets the same rows in batches, padded to several lengths.
One comparison so proves the numbers, the dynamic axes, and that neither batch mates nor padding change an answer.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from modelrepo.manifest import ParityCase
from modelrepo.tasks import Metric, Multiclass, Regression, Task
from modelrepo.tensors import Array, Signature, Tensors
from runtime.session import Session
from training import tasks
from training.data.dataset import Split
from training.models import Model

FP32_TOLERANCE = 1e-4  # absolute: on logits, or on values in units of their target's scale
ENGINE_TOLERANCE = 1e-3  # TensorRT fp32 without TF32: other kernels, other order of sums


@dataclass(frozen=True)
class Comparison:
    """What was measured, and every miss in words; none means equal."""

    cases: tuple[ParityCase, ...]
    misses: tuple[str, ...]


def compare(session: Session, model: Model, holdout: Split, tolerance: float) -> Comparison:
    """Compare at batches of 1, 2, the usual and the largest size; sequences each at several lengths (see `lengths`).

    Every case is run before the verdict. `holdout` is held-out data of any number of rows, used in turn.
    """
    signature = session.signature
    measured: list[ParityCase] = []
    misses: list[str] = []
    for length in lengths(signature):
        rows = take(signature, holdout, np.arange(signature.batch.max) % len(holdout), length)
        truth = reference(model, signature, rows)
        for batch in sorted({1, 2, signature.batch.opt, signature.batch.max} & set(range(1, signature.batch.max + 1))):
            # The last rows of the pool, so that a batch of one is not always the same row.
            answers = session.run({name: array[-batch:] for name, array in rows.items()})[model.task.output]
            case = _case(model.task, batch, length, answers, truth[-batch:])
            measured.append(case)
            misses += _misses(case, tolerance, session.provider)
    return Comparison(tuple(measured), tuple(misses))


def lengths(signature: Signature) -> tuple[int | None, ...]:
    """The lengths to compare at: shortest, usual, an odd one between usual and longest, longest; (None,) without sequences."""
    span = signature.length
    if span is None:
        return (None,)
    odd = min(span.max, (span.opt + span.max) // 2 | 1)
    return tuple(sorted({span.min, span.opt, odd, span.max}))


def take(signature: Signature, holdout: Split, index: Array, length: int | None) -> Tensors:
    """Held-out rows as a batch of one length: longer sequences are cut, shorter ones padded and masked."""
    inputs = {spec.name: holdout.inputs[spec.name][index] for spec in signature.inputs}
    return inputs if length is None else {spec.name: spec.resized(inputs[spec.name], length) for spec in signature.inputs}


@torch.no_grad()
def reference(model: Model, signature: Signature, inputs: Tensors) -> Array:
    """PyTorch's answers [rows, outputs], each row computed alone and without padding."""
    answers = []
    for row in range(len(next(iter(inputs.values())))):
        alone = {name: array[row : row + 1] for name, array in inputs.items()}
        if signature.mask:
            real = int(alone[signature.mask.name].sum())
            alone = {spec.name: spec.resized(alone[spec.name], real) for spec in signature.inputs}
        answers.append(model(**{name: torch.from_numpy(array.copy()) for name, array in alone.items()}).numpy())
    return np.concatenate(answers)


def judge(session: Session, task: Task, holdout: Split, floor: float | None) -> Metric:
    """The task's own metric over all of `holdout`, through the session."""
    size = session.signature.batch.max
    parts = [holdout.rows(slice(start, start + size)).inputs for start in range(0, len(holdout), size)]
    outputs = np.concatenate([session.run(part)[task.output] for part in parts])
    return tasks.metric(task, outputs, holdout.targets, floor)


def _case(task: Task, batch: int, length: int | None, answers: Array, truth: Array) -> ParityCase:
    error = float(np.max(np.abs(answers - truth) / task.unit))
    agreement: float | None = None
    if not isinstance(task, Regression):
        decided = [logits.argmax(1) if isinstance(task, Multiclass) else logits > 0 for logits in (answers, truth)]
        agreement = float(np.mean(decided[0] == decided[1]))
    # A manifest holds no NaN; the largest float stands for "no number at all" and misses every tolerance.
    return ParityCase(
        batch=batch,
        length=length,
        max_abs_error=error if np.isfinite(error) else float(np.finfo(np.float64).max),
        top1_agreement=agreement,
    )


def _misses(case: ParityCase, tolerance: float, provider: str) -> list[str]:
    where = f"{provider}, batch {case.batch}" + ("" if case.length is None else f", length {case.length}")
    found = []
    if case.max_abs_error > tolerance:
        found.append(f"{where}: differs by {case.max_abs_error:.3g}, allowed is {tolerance:g}")
    if case.top1_agreement is not None and case.top1_agreement < 1:
        found.append(f"{where}: decides differently in {1 - case.top1_agreement:.1%} of rows")
    return found
