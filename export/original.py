"""What a version is made from: a finished run, read from its folder, and what PyTorch answers for it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from export import parity
from export.errors import BelowFloor, ExportError
from export.parity import Truth
from modelrepo.tasks import Metric
from modelrepo.tensors import Signature, Tensors
from training import checkpoint
from training.checkpoint import Checkpoint, CheckpointError
from training.data.dataset import Split
from training.models import Model

GOLDEN_ROWS = 16


@dataclass(frozen=True)
class Original:
    """A model that was trained to its end: the test split it is judged on, rows it learnt from, and the metric it reached."""

    saved: Checkpoint
    model: Model
    holdout: Split
    calibration: Split
    metric: Metric

    @cached_property
    def signature(self) -> Signature:
        """Of the model."""
        return self.model.signature()

    @cached_property
    def truth(self) -> Truth:
        """All that an artifact must equal; takes seconds."""
        return parity.truth(self.model, self.holdout, self.metric)

    def goldens(self) -> tuple[Tensors, Tensors]:
        """Held-out rows with PyTorch's answers; sequences of evenly spread lengths, shortest and longest among them."""
        signature, holdout = self.signature, self.holdout
        index = np.arange(len(holdout))
        if signature.mask:
            index = np.argsort(holdout.inputs[signature.mask.name].sum(axis=1), kind="stable")
        chosen = index[np.linspace(0, len(index) - 1, GOLDEN_ROWS).astype(int)]
        inputs: Tensors = {name: np.ascontiguousarray(array) for name, array in holdout.rows(chosen).inputs.items()}
        return inputs, {self.model.task.output: parity.reference(self.model, signature, inputs)}


def load(run: Path) -> Original:
    """A finished run that reached its floor. Raises ExportError."""
    try:
        saved = checkpoint.load(run)
        model = saved.model()
        holdout, calibration = (checkpoint.load_rows(run, rows, saved.facts) for rows in ("holdout", "calibration"))
    except CheckpointError as error:
        raise ExportError(str(error)) from None
    test = saved.facts.test
    if test is None:
        raise ExportError(
            f"{run} holds a checkpoint of epoch {saved.facts.epoch}, whose training has not ended: go on with --resume"
        )
    if not test.reached():
        raise BelowFloor(
            f"{run} has a test {test.name} of {test.value:.4g}, its floor is {test.floor:g}: nothing exported. "
            "Train longer, or train with another --floor if this is good enough"
        )
    return Original(saved, model, holdout, calibration, test)
