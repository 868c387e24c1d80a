"""What a model answers on a split, and how good that is."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from modelrepo.tasks import Metric
from training import tasks
from training.data.dataset import Split
from training.models import Model
from training.step import tensors
from training.tasks import Objective


class Diverged(Exception):
    """Loss or answers are no longer numbers; the message says where it began and what to change."""


ROWS = 256  # a batch without gradients; bounds the memory of an evaluation


@torch.no_grad()
def predict(model: nn.Module, split: Split) -> np.ndarray:
    """The model's outputs for every row, [N, task.outputs] float32, in evaluation mode."""
    model.eval()
    device = next(model.parameters()).device
    parts = [split.rows(slice(start, start + ROWS)) for start in range(0, len(split), ROWS)]
    return np.concatenate([model(**tensors(part, device)[0]).cpu().numpy() for part in parts])


def score(model: Model, objective: Objective, split: Split) -> tuple[Metric, float]:
    """The task's metric and the mean loss over all rows of a split. Raises Diverged where an output is no number."""
    outputs = predict(model, split)
    if not np.isfinite(outputs).all():
        raise Diverged("the network's answers are no numbers any more, though the training loss is: lower --learning-rate")
    loss = objective(torch.from_numpy(outputs), torch.from_numpy(split.targets)).mean()
    return tasks.metric(model.task, outputs, split.targets), float(loss)
