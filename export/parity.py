"""Whether an artifact answers as PyTorch does, asked through the very session that will serve it.

PyTorch is given each held-out row alone and unpadded, in float64; the session gets the same rows in batches, padded to several
lengths. One comparison so proves the numbers, the dynamic axes, and that neither batch mates nor padding change an answer.
Inputs at the edge of what the model has seen follow: zeros, one value, the extremes, nothing but missing values, almost only
padding. Then every test row decides and is scored, through the session and by the original.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from modelrepo.parity import HELD_OUT, Gate, Parity, ParityCase
from modelrepo.tasks import Metric, Multiclass, Regression, Task
from modelrepo.tensors import Array, Signature, Tensors
from runtime.goldens import at
from runtime.session import Session
from training import tasks
from training.data.dataset import Split
from training.evaluation import predict
from training.models import Model


@dataclass(frozen=True)
class Example:
    """Rows of one length, and PyTorch's answers to them, [rows, outputs] float64. `rows` says what kind they are."""

    rows: str
    length: int | None
    inputs: Tensors
    truth: Array


@dataclass(frozen=True)
class Truth:
    """All that an artifact must equal: examples, and the original's answers to every row of the test split."""

    task: Task
    examples: tuple[Example, ...]
    holdout: Split
    answers: Array
    metric: Metric


@dataclass(frozen=True)
class Comparison:
    """What was measured, and every miss in words; none means that the gate is passed and there is a proof."""

    gate: Gate
    proof: Parity | None
    misses: tuple[str, ...]
    metric: Metric
    agreement: float | None
    loss: float
    max_abs_error: float
    worst: Example
    """The example with the largest share of its allowance used, or with the largest error where any is allowed."""


def truth(model: Model, holdout: Split, metric: Metric) -> Truth:
    """What PyTorch says. `metric` is the one the model was judged by, with its floor; `holdout` the test split."""
    signature = model.signature()
    precise = copy.deepcopy(model).double()
    examples = []
    for length in lengths(signature):
        rows = take(signature, holdout, np.arange(signature.batch.max) % len(holdout), length)
        examples.append(Example(HELD_OUT, length, rows, reference(precise, signature, rows)))
    for length in sorted({lengths(signature)[0], lengths(signature)[-1]}, key=lambda span: span or 0):
        for name, row in extremes(signature, holdout, length).items():
            examples.append(Example(name, length, row, reference(precise, signature, row)))
    return Truth(model.task, tuple(examples), holdout, predict(model, holdout), metric)


def compare(session: Session, truth: Truth, gate: Gate) -> Comparison:
    """Compare at batches of 1, 2, the usual and the largest size, and over the whole test split. Everything is run before the
    verdict."""
    signature, task = session.signature, truth.task
    measured: list[tuple[ParityCase, Example]] = []
    for example in truth.examples:
        for batch in _batches(signature) if example.rows == HELD_OUT else (1,):
            # The last rows of the pool, so that a batch of one is not always the same row.
            answers = session.run({name: array[-batch:] for name, array in example.inputs.items()})[task.output]
            measured.append((_case(task, gate, example, answers, example.truth[-batch:]), example))
    answers = _over_all(session, task, truth.holdout)
    metric = tasks.metric(task, answers, truth.holdout.targets, truth.metric.floor)
    agreement = _agreement(task, answers, truth.answers)
    loss = _loss(truth, metric)
    cases = tuple(case for case, _ in measured)
    misses = [miss for case in cases for miss in _misses(case, gate)]
    if agreement is not None and gate.min_agreement is not None and agreement < gate.min_agreement:
        misses.append(f"decides differently in {1 - agreement:.2%} of the test rows, allowed is {1 - gate.min_agreement:.2%}")
    if gate.max_loss is not None and loss > gate.max_loss:
        misses.append(
            f"test {metric.name} is {metric.value:.4g}, {loss:.2%} worse than the original's; allowed is {gate.max_loss:.2%}"
        )
    if not metric.reached():
        misses.append(f"test {metric.name} of {metric.value:.4g}, its floor is {metric.floor:g}")
    proof = None
    if not misses:
        proof = Parity(provider=session.provider, gate=gate, cases=cases, metric=metric, loss=loss, agreement=agreement)
    _, worst = max(measured, key=lambda pair: (pair[0].used or 0, pair[0].max_abs_error))
    return Comparison(
        gate=gate,
        proof=proof,
        misses=tuple(misses),
        metric=metric,
        agreement=agreement,
        loss=loss,
        max_abs_error=max(case.max_abs_error for case in cases if case.rows == HELD_OUT),
        worst=worst,
    )


def _batches(signature: Signature) -> Iterable[int]:
    return sorted({1, 2, signature.batch.opt, signature.batch.max} & set(range(1, signature.batch.max + 1)))


def lengths(signature: Signature) -> tuple[int | None, ...]:
    """The lengths to compare at: shortest, usual, an odd one between usual and longest, longest; (None,) without sequences."""
    span = signature.length
    if span is None:
        return (None,)
    odd = min(span.max, (span.opt + span.max) // 2 | 1)
    return tuple(sorted({span.min, span.opt, odd, span.max}))


def take(signature: Signature, holdout: Split, index: Array, length: int | None) -> Tensors:
    """Held-out rows as a batch of one length: see `runtime.goldens.at`."""
    return at(signature, holdout.inputs, index, length)


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
    """PyTorch's answers [rows, outputs] in the dtype of the model's weights, each row computed alone and without padding."""
    dtype = next(model.parameters()).dtype
    answers = []
    for row in range(len(next(iter(inputs.values())))):
        alone = {name: array[row : row + 1] for name, array in inputs.items()}
        if signature.mask:
            real = int(alone[signature.mask.name].sum())
            alone = {spec.name: spec.resized(alone[spec.name], real) for spec in signature.inputs}
        tensors = {name: torch.from_numpy(array.copy()) for name, array in alone.items()}
        answers.append(model(**{name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}).numpy())
    return np.concatenate(answers)


def _over_all(session: Session, task: Task, holdout: Split) -> Array:
    """The session's answers to every row, in its largest batches."""
    size = session.signature.batch.max
    parts = [holdout.rows(slice(start, start + size)).inputs for start in range(0, len(holdout), size)]
    return np.concatenate([session.run(part)[task.output] for part in parts])


def _agreement(task: Task, answers: Array, truth: Array) -> float | None:
    """The share of decisions that are the same; None where nothing is decided."""
    if isinstance(task, Regression):
        return None
    decided = [logits.argmax(1) if isinstance(task, Multiclass) else logits > 0 for logits in (answers, truth)]
    return float(np.mean(decided[0] == decided[1]))


def _loss(truth: Truth, metric: Metric) -> float:
    """By how much the metric is worse: of shares the difference, of a squared error that of R2."""
    original = tasks.metric(truth.task, truth.answers, truth.holdout.targets)
    worse = metric.value - original.value if metric.better == "lower" else original.value - metric.value
    if isinstance(truth.task, Regression):
        worse /= float(np.var(truth.holdout.targets.astype(np.float64), axis=0).mean()) or 1.0
    return _number(worse)


def _case(task: Task, gate: Gate, example: Example, answers: Array, truth: Array) -> ParityCase:
    wrong = np.abs(answers.astype(np.float64) - truth) / task.unit  # [rows, outputs]
    size = np.max(np.abs(truth.astype(np.float64)) / task.unit, axis=1, keepdims=True)  # [rows, 1]
    used: float | None = None
    if gate.atol is not None:
        # The answer to an extreme input may be of any size, so it is held to atol or, where that is more, as much relatively.
        allowed = gate.atol + gate.rtol * size if example.rows == HELD_OUT else gate.atol * np.maximum(1, size) + gate.rtol * size
        used = _number((wrong / np.maximum(allowed, np.finfo(np.float64).tiny)).max())
    return ParityCase(
        rows=example.rows,
        batch=len(truth),
        length=example.length,
        max_abs_error=_number(wrong.max()),
        mean_abs_error=_number(wrong.mean()),
        max_rel_error=_number((wrong / np.maximum(size, np.finfo(np.float32).tiny)).max()),
        min_cosine=None if task.outputs == 1 else _cosine(answers, truth),
        used=used,
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


def _misses(case: ParityCase, gate: Gate) -> list[str]:
    where = f"batch {case.batch}" + ("" if case.length is None else f", length {case.length}")
    if case.rows != HELD_OUT:
        where += f", {case.rows}"
    if case.used is None:
        return [] if case.max_abs_error < np.finfo(np.float64).max else [f"{where}: the answer is no number"]
    allowed = f"{gate.atol:g}" + (f" + {gate.rtol:g} x the row's largest element" if gate.rtol else "")
    return [f"{where}: differs by {case.max_abs_error:.3g}, allowed is {allowed}"] if case.used > 1 else []
