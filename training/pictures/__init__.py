"""The pictures of a run: one function each, and `draw`, which chooses those that fit the model, the task and the data."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import nn

from modelrepo.preprocessing import Numeric
from modelrepo.tasks import Multilabel, Regression, Task
from training.data.dataset import Dataset, Rows
from training.history import read_epochs, read_steps
from training.models import Model
from training.pictures.inside import attention, decision_boundary, kernels
from training.pictures.progress import GRADIENT, curves, finder, gradient_norms, learning_rate
from training.pictures.quality import calibration, confusion, forecast, forecast_of, predicted

__all__ = [
    "attention",
    "calibration",
    "confusion",
    "curves",
    "decision_boundary",
    "draw",
    "finder",
    "forecast",
    "gradient_norms",
    "kernels",
    "learning_rate",
    "predicted",
]

log = logging.getLogger("training")


def draw(
    folder: Path, *, model: Model, dataset: Dataset, task: Task, outputs: npt.NDArray[np.generic], best: int | None = None
) -> list[Path]:
    """Draw what fits this run into `pictures/` of its folder, from its history there; returns the files.

    `model` is the trained one, `task` its task with the temperature, `outputs` its answers on the test split, `best` the
    epoch that was kept. A picture that cannot be drawn costs a warning, not the run.
    """
    test, kind, channels = dataset.test, dataset.kind, dataset.handling.get("channels", [])
    epochs, steps = read_epochs(folder), read_steps(folder)
    chosen: dict[str, Callable[[Path], None]] = {}
    if epochs:
        chosen["curves"] = partial(curves, epochs=epochs, best=best)
    if any("learning_rate" in row for row in steps):
        chosen["learning_rate"] = partial(learning_rate, steps=steps)
    if any(key.startswith(GRADIENT) for row in epochs for key in row):
        chosen["gradient_norms"] = partial(gradient_norms, epochs=epochs)
    if isinstance(task, Regression):
        chosen["predicted"] = partial(predicted, task=task, outputs=outputs, targets=test.targets)
        if forecast_of(task, channels):
            chosen["forecast"] = partial(forecast, task=task, split=test, outputs=outputs, channels=channels)
    else:
        chosen["confusion"] = partial(confusion, task=task, outputs=outputs, targets=test.targets)
        chosen["calibration"] = partial(calibration, task=task, outputs=outputs, targets=test.targets)
    plane = isinstance(kind, Rows) and len(kind.columns) == 2 and all(isinstance(column, Numeric) for column in kind.columns)
    if plane and not isinstance(task, Multilabel):
        chosen["decision_boundary"] = partial(decision_boundary, model=model, split=test, kind=kind)
    if model.family == "cnn" and any(isinstance(module, nn.Conv1d | nn.Conv2d) for module in model.modules()):
        chosen["kernels"] = partial(kernels, model=model)
    if hasattr(model, "attention_weights"):
        chosen["attention"] = partial(attention, model=model, split=test, kind=kind)

    shutil.rmtree(folder / "pictures", ignore_errors=True)
    drawn = []
    for name, picture in chosen.items():
        path = folder / "pictures" / f"{name}.png"
        try:
            picture(path)
        except Exception as error:  # noqa: BLE001 - hours of training are not lost to a picture
            log.warning("the picture %s could not be drawn (%s: %s)", path.name, type(error).__name__, error)
        else:
            drawn.append(path)
    return drawn
