"""What a model's output means to a person: labels and probabilities, or values, as JSON."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import numpy as np

from modelrepo.tasks import Binary, Multiclass, Regression, Task
from modelrepo.tensors import Array
from service.codec import tensor


class Ranked(msgspec.Struct):
    """A label and how likely it is."""

    label: str
    probability: float


class Class(msgspec.Struct):
    """The answer of a multiclass or binary model: the likeliest label, and the labels by falling probability."""

    label: str
    probabilities: list[Ranked]


class Labels(msgspec.Struct):
    """The answer of a multilabel model: the labels above one half, and all by falling probability."""

    labels: list[str]
    probabilities: list[Ranked]


class Values(msgspec.Struct):
    """The answer of a regression model: each target's value."""

    values: dict[str, float]


Predictions = list[Class] | list[Labels] | list[Values]


Explanation = Mapping[str, str | int | float]


class Response(msgspec.Struct, omit_defaults=True):
    """One prediction per instance, in their order, and how they came about where that was asked for."""

    model_name: str
    model_version: str
    predictions: Predictions
    explanation: dict[str, str | int | float] | None = None


_encoder = msgspec.json.Encoder()


def encode(model: str, version: str, task: Task, output: Array, top_k: int | None, explanation: Explanation | None = None) -> bytes:
    """The response's body. `output` is the task's tensor [rows, outputs]; `top_k` limits how many labels are listed.

    Raises Unprocessable where a row of it is not a number.
    """
    tensor.require_finite(task.output, output)
    answers = interpret(task, output.astype(np.float64), top_k)
    return _encoder.encode(Response(model, version, answers, None if explanation is None else dict(explanation)))


def interpret(task: Task, output: Array, top_k: int | None) -> Predictions:
    """What the rows of the task's output tensor mean."""
    if isinstance(task, Regression):
        return [Values(dict(zip(task.targets, row, strict=True))) for row in output.tolist()]
    logits = output / task.temperature
    if isinstance(task, Multiclass):
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
    else:
        chances = 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
        if isinstance(task, Binary):
            chances = np.concatenate([1 - chances, chances], axis=1)
    order = np.argsort(-chances, axis=1, kind="stable")[:, :top_k]
    ranked = [
        [Ranked(task.labels[column], row[column]) for column in columns]
        for row, columns in zip(chances.tolist(), order.tolist(), strict=True)
    ]
    if isinstance(task, Multiclass | Binary):
        return [Class(row[0].label, row) for row in ranked]
    active = [[label for label, chance in zip(task.labels, row, strict=True) if chance > 0.5] for row in chances.tolist()]
    return [Labels(labels, row) for labels, row in zip(active, ranked, strict=True)]
