"""What a model's output means to a person: labels and probabilities, or values, as JSON.

A model that tells classes apart answers `{"label": …, "probabilities": […]}` for each row, one with several labels at once
`{"labels": […], "probabilities": […]}`, and one of numbers `{"values": {…}}`. Probabilities fall.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import orjson

from modelrepo.tasks import Binary, Multiclass, Regression, Task
from modelrepo.tensors import Array
from service.batch import Ran
from service.codec import tensor

Explanation = Mapping[str, str | int | float]
Ranked = tuple[list[list[int]], list[list[bytes]]]  # of each row: its labels by falling probability, and all probabilities as text

FEW = 64  # numbers with which Python is done before NumPy has begun


class Predictions:
    """The answers of one version. What never changes is written beforehand."""

    def __init__(self, model: str, version: str, task: Task) -> None:
        self._task = task
        self._head = b'{"model_name":%s,"model_version":%s,"predictions":[' % (orjson.dumps(model), orjson.dumps(version))
        names = task.targets if isinstance(task, Regression) else task.labels
        self._names = [orjson.dumps(name) for name in names]
        self._values = [b"%s:" % name for name in self._names]
        self._chances = [b'{"label":%s,"probability":' % name for name in self._names]

    def encode(self, ran: Ran, start: int, stop: int, top_k: int | None = None, explanation: Explanation | None = None) -> bytes:
        """The response's body: a prediction for each row of what ran from `start` to `stop`; `top_k` limits how many labels.

        Raises Unprocessable where a row is not a number.
        """
        name = self._task.output
        output = ran.outputs[name]
        finite = ran.finite(name)
        if not finite:
            tensor.require_finite(name, output[start:stop])
        if isinstance(self._task, Regression):
            texts = [self._row_of_values(row) for row in _texts(output[start:stop])]
        else:
            if finite:  # what the rows of other callers need too is done once for all
                ranked: Ranked | None = ran.made.get(self)
                if ranked is None:
                    ranked = ran.made[self] = self._rank(output)
                order, chances = ranked[0][start:stop], ranked[1][start:stop]
            else:
                order, chances = self._rank(output[start:stop])
            texts = [self._row_of_labels(*row, top_k) for row in zip(order, chances, strict=True)]
        tail = b"]}" if explanation is None else b'],"explanation":%s}' % orjson.dumps(dict(explanation))
        return b"%s%s%s" % (self._head, b",".join(texts), tail)

    def _rank(self, output: Array) -> Ranked:
        task = self._task
        assert not isinstance(task, Regression)
        if isinstance(task, Multiclass) and output.size <= FEW:
            rows = [_softmax(row, task.temperature) for row in output.tolist()]
            return [sorted(range(len(row)), key=row.__getitem__, reverse=True) for row in rows], _texts(rows)
        logits = output.astype(np.float64)
        if task.temperature != 1:
            logits /= task.temperature
        if isinstance(task, Multiclass):
            chances = np.exp(logits - np.maximum.reduce(logits, axis=1, keepdims=True))
            chances /= np.add.reduce(chances, axis=1, keepdims=True)
        else:
            chances = 0.5 * (1 + np.tanh(0.5 * logits))  # the sigmoid, without overflow
            if isinstance(task, Binary):
                chances = np.concatenate([1 - chances, chances], axis=1)
        return (-chances).argsort(axis=1, kind="stable").tolist(), _texts(chances)

    def _row_of_labels(self, order: list[int], chances: list[bytes], top_k: int | None) -> bytes:
        listed = b"},".join([self._chances[label] + chances[label] for label in order[:top_k]])
        if isinstance(self._task, Multiclass | Binary):
            return b'{"label":%s,"probabilities":[%s}]}' % (self._names[order[0]], listed)
        active = b",".join([name for name, chance in zip(self._names, chances, strict=True) if float(chance) > 0.5])
        return b'{"labels":[%s],"probabilities":[%s}]}' % (active, listed)

    def _row_of_values(self, values: list[bytes]) -> bytes:
        return b'{"values":{%s}}' % b",".join([name + value for name, value in zip(self._values, values, strict=True)])


def _softmax(logits: list[float], temperature: float) -> list[float]:
    largest = max(logits)
    powers = [math.exp((logit - largest) / temperature) for logit in logits]
    whole = sum(powers)
    return [power / whole for power in powers]


def _texts(rows: Array | list[list[float]]) -> list[list[bytes]]:
    """The JSON text of each number of [rows, columns], with as many digits as tell numbers of its type apart."""
    whole = orjson.dumps(rows if isinstance(rows, list) else np.ascontiguousarray(rows), option=orjson.OPT_SERIALIZE_NUMPY)
    return [row.split(b",") for row in whole[2:-2].split(b"],[")]
