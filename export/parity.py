"""Whether an artifact answers as PyTorch does, asked through the very session that will serve it.

PyTorch is given each held-out row alone and unpadded; the session gets the same rows in batches, padded to several lengths.
One comparison so proves the numbers, the dynamic axes, and that neither batch mates nor padding change an answer. Inputs at
the edge of what the model has seen follow: zeros, one value, the extremes, nothing but missing values, almost only padding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from modelrepo.manifest import HELD_OUT, ParityCase
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

    Then come the `extremes`, at the shortest and the longest length. Every case is run before the verdict. `holdout` is
    held-out data of any number of rows, used in turn.
    """
    signature = session.signature
    measured: list[ParityCase] = []
    spans = lengths(signature)
    for length in spans:
        rows = take(signature, holdout, np.arange(signature.batch.max) % len(holdout), length)
        truth = reference(model, signature, rows)
        for batch in sorted({1, 2, signature.batch.opt, signature.batch.max} & set(range(1, signature.batch.max + 1))):
            # The last rows of the pool, so that a batch of one is not always the same row.
            answers = session.run({name: array[-batch:] for name, array in rows.items()})[model.task.output]
            measured.append(_case(model.task, HELD_OUT, length, answers, truth[-batch:]))
    for length in sorted({spans[0], spans[-1]}, key=lambda span: span or 0):
        for name, row in extremes(signature, holdout, length).items():
            answers = session.run(row)[model.task.output]
            measured.append(_case(model.task, name, length, answers, reference(model, signature, row)))
    misses = [miss for case in measured for miss in _misses(case, tolerance, session.provider)]
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


def extremes(signature: Signature, holdout: Split, length: int | None) -> dict[str, Tensors]:
    """Single rows at the edge of what is held out, by name; of sequences all steps are real, but for the last of these rows."""
    mask = signature.mask
    real = None if mask is None else holdout.inputs[mask.name]
    seen = {spec.name: holdout.inputs[spec.name] for spec in signature.inputs if spec is not mask}
    steps = seen if real is None else {name: array[real] for name, array in seen.items()}  # [rows, …] or [real steps, …]
    values: dict[str, dict[str, Array]] = {
        "zeros": {name: np.zeros_like(array[0]) for name, array in steps.items()},
        "one value": {name: np.full_like(array[0], _middle(array)) for name, array in steps.items()},
        "smallest": {name: _extreme(np.fmin, array) for name, array in steps.items()},
        "largest": {name: _extreme(np.fmax, array) for name, array in steps.items()},
    }
    if any(np.issubdtype(array.dtype, np.floating) and np.isnan(array).any() for array in steps.values()):
        values["missing"] = {name: np.full_like(array[0], np.nan) for name, array in steps.items()}
    if mask is None or length is None:
        return {name: {key: value[None] for key, value in row.items()} for name, row in values.items()}
    rows = {
        name: {key: np.repeat(value[None, None], length, axis=1) for key, value in row.items()}
        | {mask.name: np.ones((1, length), bool)}
        for name, row in values.items()
    }
    if signature.length and length > signature.length.min:
        almost = np.arange(length)[None] < signature.length.min
        rows["almost only padding"] = rows["largest"] | {mask.name: almost}
    return rows


def _middle(array: Array) -> float:
    """A value that occurs, near the median of all numbers there are."""
    numbers = np.sort(array[~np.isnan(array)] if np.issubdtype(array.dtype, np.floating) else array, axis=None)
    return float(numbers[len(numbers) // 2]) if len(numbers) else 0.0


def _extreme(choose: np.ufunc, array: Array) -> Array:
    """The least or greatest of each element over all rows; 0 where every one is missing."""
    found: Array = np.nan_to_num(choose.reduce(array, axis=0)).astype(array.dtype)
    return found


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


def _case(task: Task, rows: str, length: int | None, answers: Array, truth: Array) -> ParityCase:
    wrong = np.abs(answers.astype(np.float64) - truth) / task.unit  # [rows, outputs]
    size = np.max(np.abs(truth.astype(np.float64)) / task.unit, axis=1, keepdims=True)  # [rows, 1]
    agreement: float | None = None
    if not isinstance(task, Regression) and rows == HELD_OUT:
        decided = [logits.argmax(1) if isinstance(task, Multiclass) else logits > 0 for logits in (answers, truth)]
        agreement = float(np.mean(decided[0] == decided[1]))
    return ParityCase(
        rows=rows,
        batch=len(truth),
        length=length,
        max_abs_error=_number(wrong.max()),
        mean_abs_error=_number(wrong.mean()),
        max_rel_error=_number((wrong / np.maximum(size, np.finfo(np.float32).tiny)).max()),
        min_cosine=None if task.outputs == 1 else _cosine(answers, truth),
        top1_agreement=agreement,
    )


def _number(error: float) -> float:
    """A manifest holds no NaN; the largest float stands for "no number at all" and misses every tolerance."""
    return float(error) if np.isfinite(error) else float(np.finfo(np.float64).max)


def _cosine(answers: Array, truth: Array) -> float:
    """The lowest cosine of any row; 1 for two rows of zeros, -1 where there are no numbers."""
    one, two = (np.asarray(array, np.float64) for array in (answers, truth))
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(two, axis=1)
    cosine = np.divide((one * two).sum(1), lengths, out=np.ones(len(one)), where=lengths != 0)
    return float(np.clip(np.nan_to_num(cosine, nan=-1.0).min(), -1, 1))


def _misses(case: ParityCase, tolerance: float, provider: str) -> list[str]:
    where = f"{provider}, batch {case.batch}" + ("" if case.length is None else f", length {case.length}")
    if case.rows != HELD_OUT:
        where += f", {case.rows}"
    found = []
    if case.error > tolerance:
        found.append(f"{where}: differs by {case.error:.3g}, allowed is {tolerance:g}")
    if case.top1_agreement is not None and case.top1_agreement < 1:
        found.append(f"{where}: decides differently in {1 - case.top1_agreement:.1%} of rows")
    return found
