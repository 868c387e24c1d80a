"""Loss, metrics and calibration of each task.

Targets are [N] int64 for multiclass and [N, task.outputs] float32 otherwise; outputs are [N, task.outputs] float32: logits,
or values in the data's own units.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional import classification, regression

from modelrepo.tasks import Binary, Metric, Multiclass, Multilabel, Regression, Task
from training.data.dataset import DataError

Array = npt.NDArray[np.generic]

CALIBRATION_BINS = 15  # Guo et al. 2017


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What is minimised."""

    label_smoothing: float = 0.0
    """Classification: this share of each answer is spread evenly over all labels (Szegedy et al. 2016)."""
    class_weights: bool = False
    """Classification: rare labels count more, so that each label has the same weight in all (for binary and multilabel:
    the positive ones are weighted by negatives / positives)."""
    huber: float | None = None
    """Regression: beyond this many standard deviations of the target an error counts linearly (Huber 1964)."""

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"loss.label_smoothing must be at least 0 and below 1, not {self.label_smoothing}")
        if self.huber is not None and not self.huber > 0:
            raise ValueError(f"loss.huber must be above 0, not {self.huber}")


class Objective:
    """The loss of each row, [N]. Its mean over rows is what is minimised, however the rows are divided over machines.

    Raises DataError where an option does not suit the task.
    """

    def __init__(self, task: Task, config: Loss, targets: Array) -> None:
        self.task, self.config = task, config
        self.weights: Tensor | None = None
        if isinstance(task, Regression):
            if config.label_smoothing or config.class_weights:
                raise DataError("label smoothing and class weights suit classification; this task is regression: leave them out")
            self.scale = torch.tensor(task.scale or (1.0,) * task.outputs)
        else:
            if config.huber is not None:
                raise DataError("--loss.huber suits regression; this task is classification: leave it out")
            if config.class_weights:
                self.weights = _class_weights(task, targets)

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        match self.task:
            case Multiclass():
                losses = F.cross_entropy(outputs, targets, reduction="none", label_smoothing=self.config.label_smoothing)
                return losses if self.weights is None else losses * self.weights.to(outputs.device)[targets]
            case Binary() | Multilabel():
                smooth = self.config.label_smoothing
                weights = None if self.weights is None else self.weights.to(outputs.device)
                targets = targets * (1 - smooth) + smooth / 2
                return F.binary_cross_entropy_with_logits(outputs, targets, pos_weight=weights, reduction="none").mean(1)
            case Regression():
                error = (outputs - targets) / self.scale.to(outputs.device)
                if self.config.huber is None:
                    return error.square().mean(1)
                return F.huber_loss(error, torch.zeros_like(error), reduction="none", delta=self.config.huber).mean(1)


def _class_weights(task: Task, targets: Array) -> Tensor:
    """Per label, with a mean of 1 over the training rows for multiclass; negatives / positives otherwise."""
    counts = np.bincount(targets, minlength=task.outputs) if isinstance(task, Multiclass) else targets.sum(0)
    if (counts == 0).any():
        missing = task.labels[-1] if isinstance(task, Binary) else task.labels[int((counts == 0).argmax())]
        raise DataError(f"no training row has the label {missing!r}: leave out --loss.class-weights, or add such rows")
    weights = len(targets) / (task.outputs * counts) if isinstance(task, Multiclass) else (len(targets) - counts) / counts
    return torch.from_numpy(weights.astype(np.float32))


def metric(task: Task, outputs: Array, targets: Array, floor: float | None = None) -> Metric:
    """The number a model is judged by: accuracy, macro F1 for multilabel, MSE for regression."""
    y, truth = torch.from_numpy(outputs), torch.from_numpy(targets)
    match task:
        case Multiclass():
            return Metric(name="accuracy", value=float((y.argmax(1) == truth).double().mean()), better="higher", floor=floor)
        case Binary():
            return Metric(name="accuracy", value=float(((y > 0) == (truth > 0.5)).double().mean()), better="higher", floor=floor)
        case Multilabel():
            score = classification.multilabel_f1_score(y.sigmoid(), truth.long(), task.outputs, average="macro")
            return Metric(name="macro F1", value=float(score), better="higher", floor=floor)
        case Regression():
            return Metric(name="MSE", value=float((y - truth).double().square().mean()), better="lower", floor=floor)


def metrics(task: Task, outputs: Array, targets: Array) -> dict[str, float]:
    """All that is reported of a finished model, `metric` first. Probabilities are taken at the task's temperature.

    A metric that these rows leave undefined, such as AUROC where a label never occurs, is left out.
    """
    judged = metric(task, outputs, targets)
    y, truth, found = torch.from_numpy(outputs), torch.from_numpy(targets), {judged.name: judged.value}
    match task:
        case Multiclass():
            p, k, bins = (y / task.temperature).softmax(1), task.outputs, CALIBRATION_BINS
            found["macro F1"] = float(classification.multiclass_f1_score(p, truth, k, average="macro"))
            if len(truth.unique()) == k:
                found["AUROC"] = float(classification.multiclass_auroc(p, truth, k, average="macro"))
            found["calibration error"] = float(classification.multiclass_calibration_error(p, truth, k, n_bins=bins))
            found["log loss"] = float(F.cross_entropy(y / task.temperature, truth))
        case Binary():
            p, classes = (y / task.temperature).sigmoid()[:, 0], truth[:, 0].long()
            found["macro F1"] = float(classification.multiclass_f1_score((y[:, 0] > 0).long(), classes, 2, average="macro"))
            if len(classes.unique()) == 2:
                found["AUROC"] = float(classification.binary_auroc(p, classes))
            found["calibration error"] = float(classification.binary_calibration_error(p, classes, n_bins=CALIBRATION_BINS))
            found["log loss"] = float(F.binary_cross_entropy_with_logits(y / task.temperature, truth))
        case Multilabel():
            p, classes = (y / task.temperature).sigmoid(), truth.long()
            found["exact match"] = float(((y > 0) == (truth > 0.5)).all(1).double().mean())
            if all(len(column.unique()) == 2 for column in classes.T):
                found["AUROC"] = float(classification.multilabel_auroc(p, classes, task.outputs, average="macro"))
            flat = classification.binary_calibration_error(p.flatten(), classes.flatten(), n_bins=CALIBRATION_BINS)
            found["calibration error"] = float(flat)
            found["log loss"] = float(F.binary_cross_entropy_with_logits(y / task.temperature, truth))
        case Regression():
            found["MAE"] = float((y - truth).double().abs().mean())
            if len(truth) > 1 and bool((truth.std(0) > 0).all()):
                found["R2"] = float(regression.r2_score(y, truth))
    return found


def calibrated(task: Task, outputs: Array, targets: Array) -> Task:
    """The task with the temperature that makes these rows most likely (Guo et al. 2017, section 4.2).

    Left at 1 where no answer is wrong, since confidence then has nothing to be measured by, and for regression.
    """
    judged = metric(task, outputs, targets)
    if isinstance(task, Regression) or judged.value == 1:
        return task
    objective, y, truth = Objective(task, Loss(), targets), torch.from_numpy(outputs).double(), torch.from_numpy(targets)
    truth = truth if isinstance(task, Multiclass) else truth.double()
    found = minimize_scalar(lambda t: float(objective(y / math.exp(t), truth).mean()), bounds=(-3, 3), method="bounded")
    return task.model_copy(update={"temperature": round(math.exp(found.x), 4)})
