"""Loss and judging metric of each task."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.metrics import accuracy_score, f1_score, mean_squared_error
from torch import Tensor
from torch.nn import functional as F

from modelrepo.tasks import Binary, Metric, Multiclass, Multilabel, Regression, Task


def loss(task: Task, outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean loss of a batch: outputs [N, task.outputs]; targets [N] int64 for multiclass, [N, task.outputs] float32 otherwise."""
    match task:
        case Multiclass():
            return F.cross_entropy(outputs, targets)
        case Binary() | Multilabel():
            return F.binary_cross_entropy_with_logits(outputs, targets)
        case Regression():
            return F.mse_loss(outputs, targets)


def metric(task: Task, outputs: npt.NDArray[np.generic], targets: npt.NDArray[np.generic], floor: float | None = None) -> Metric:
    """The number a model is judged by: accuracy, macro F1 for multilabel, MSE for regression. Shapes as in `loss`."""
    match task:
        case Multiclass():
            return Metric(name="accuracy", value=float(accuracy_score(targets, outputs.argmax(1))), better="higher", floor=floor)
        case Binary():
            return Metric(name="accuracy", value=float(accuracy_score(targets > 0.5, outputs > 0)), better="higher", floor=floor)
        case Multilabel():
            score = f1_score(targets > 0.5, outputs > 0, average="macro", zero_division=0.0)
            return Metric(name="macro F1", value=float(score), better="higher", floor=floor)
        case Regression():
            return Metric(name="MSE", value=float(mean_squared_error(targets, outputs)), better="lower", floor=floor)
