"""Steps per second of our loop and of a bare PyTorch loop, in turn, on the same model, data, batches and optimiser.

The bare loop is forward, loss, zero_grad, backward, step, over tensors that lie ready. Ours is `loop.fit` as everybody calls it,
with its clipping switched off, since the bare loop has none. Its steps are timed from the moment it fetches an epoch's first
batch to the moment it fetches the last one, so that what comes between epochs (evaluation, saving) is not in the first figure;
the second one is all of `fit` over the same steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
import tyro

from training import loop
from training.benchmarks.trial import show, train
from training.config import Config, digits_cnn, spirals_mlp
from training.data import Dataset
from training.data.dataset import Split
from training.models import build
from training.optimisation import optimizer
from training.step import tensors
from training.tasks import Objective


@dataclass(frozen=True)
class Clocked(Split):
    """A split that notes when each batch is fetched from it."""

    fetched: list[float] = field(default_factory=list)

    def rows(self, index: npt.NDArray[np.int64] | slice) -> Split:
        if not isinstance(index, slice):  # which is how a look at some rows asks, not a step
            self.fetched.append(time.perf_counter())
        return super().rows(index)


def main(epochs: int = 20, rounds: int = 7) -> None:
    """Run both in turn, `rounds` times, and compare the medians.

    Args:
        epochs: Of each run.
        rounds: Pairs of runs.
    """
    rows = []
    for preset in (digits_cnn, spirals_mlp):
        config = preset(Path("throughput"))
        config = replace(config, epochs=epochs, augment=replace(config.augment, shift=0))
        config = replace(config, optimisation=replace(config.optimisation, clip_norm=None, schedule="constant", warmup=0))
        dataset = loop.load(config)
        measured = [(bare(config, dataset), *ours(config, dataset)) for _ in range(rounds)]
        plain, steps, whole = (median(times) for times in zip(*measured, strict=True))
        rows.append(
            (
                config.data,
                f"{1e3 * plain:.3f}",
                f"{1e3 * steps:.3f}",
                f"{steps / plain:.3f}",
                f"{median(step / alone for alone, step, _ in measured):.3f}",
                f"{1e3 * whole:.3f}",
            )
        )
    show(
        f"Milliseconds a step, median of {rounds} rounds of {epochs} epochs",
        ("preset's model on", "bare loop", "our steps", "ratio", "median ratio of a round", "all of fit"),
        rows,
    )


def bare(config: Config, dataset: Dataset) -> float:
    """Seconds a step of the bare loop."""
    torch.manual_seed(config.seed)
    model = build(config.model, dataset.kind, dataset.task).train()
    split = dataset.train(1)
    objective = Objective(dataset.task, config.loss, split.targets)
    optimiser = optimizer(model, config.optimisation)
    inputs, targets = tensors(split, torch.device("cpu"))
    order = [index for epoch in range(config.epochs) for index in loop.batches(len(split), config, epoch + 1)]
    began = time.perf_counter()
    for index in order:
        loss = objective(model(**{name: rows[index] for name, rows in inputs.items()}), targets[index]).mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return (time.perf_counter() - began) / len(order)


def ours(config: Config, dataset: Dataset) -> tuple[float, float]:
    """Seconds a step of `fit`: while it is stepping, and all of it."""
    split = dataset.train(1)
    epochs: list[list[float]] = []

    def clocked(_epoch: int) -> Split:
        epochs.append([])
        return Clocked(split.inputs, split.targets, epochs[-1])

    began = time.perf_counter()
    train(config, replace(dataset, train=clocked))
    whole = time.perf_counter() - began
    epochs = [fetched for fetched in epochs if fetched]  # the others were looked at, not stepped through
    steps = sum(len(fetched) for fetched in epochs)
    return sum(fetched[-1] - fetched[0] for fetched in epochs) / (steps - len(epochs)), whole / steps


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
