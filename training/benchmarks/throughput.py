"""Our loop against a bare PyTorch loop, on the same model, data, batches and optimiser: milliseconds a step.

The bare loop is forward, loss, zero_grad, backward, step, over tensors that lie ready. Ours is `loop.fit` as everybody calls it,
with its clipping switched off, since the bare loop has none. They take turns step by step, so that whatever else the machine
does meets both: when ours fetches a batch, the bare loop first trains its own model on that batch. What ours does between
epochs (evaluation, saving) is in the figure for all of `fit`, not in that of its steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import torch
import tyro
from torch import Tensor

from training import loop
from training.benchmarks.trial import show, train
from training.config import Config, digits_cnn, spirals_mlp
from training.data import Dataset
from training.data.dataset import Split
from training.models import build
from training.optimisation import optimizer
from training.step import tensors
from training.tasks import Objective


def main(epochs: int = 10, rounds: int = 5) -> None:
    """Measure the CNN on digits and the tiny MLP on spirals.

    Args:
        epochs: Of each round.
        rounds: Their median is reported.
    """
    rows = []
    for preset in (digits_cnn, spirals_mlp):
        config = replace(preset(Path("throughput")), epochs=epochs)
        config = replace(config, augment=replace(config.augment, shift=0))
        config = replace(config, optimisation=replace(config.optimisation, clip_norm=None, schedule="constant", warmup=0))
        dataset = loop.load(config)
        measured = [measure(config, dataset) for _ in range(rounds)]
        bare, ours, whole = (1e3 * median(seconds) for seconds in zip(*measured, strict=True))
        ratio = median(ours / bare for bare, ours, _ in measured)
        rows.append((config.data, f"{bare:.3f}", f"{ours:.3f}", f"{ratio:.3f}", f"{whole:.3f}"))
    show(
        f"Milliseconds a step, median of {rounds} rounds of {epochs} epochs",
        ("preset's model on", "bare loop", "our steps", "ours / bare", "all of fit"),
        rows,
    )


def measure(config: Config, dataset: Dataset) -> tuple[float, float, float]:
    """Mean seconds a step of the bare loop, of our steps, and of all of `fit`."""
    turns, split = Turns(config, dataset), dataset.train(1)

    def train_in_turns(_epoch: int) -> Split:
        turns.since = None
        return Shared(split.inputs, split.targets, turns)

    began = time.perf_counter()
    train(config, replace(dataset, train=train_in_turns))
    whole = time.perf_counter() - began - turns.away
    return turns.bare / turns.pairs, turns.ours / turns.pairs, whole / turns.steps


class Turns:
    """The bare loop, and the time that each of the two has taken for `pairs` of steps."""

    def __init__(self, config: Config, dataset: Dataset) -> None:
        torch.manual_seed(config.seed)
        split = dataset.train(1)
        self.model = build(config.model, dataset.kind, dataset.task).train()
        self.objective = Objective(dataset.task, config.loss, split.targets)
        self.optimizer = optimizer(self.model, config.optimisation)
        self.inputs, self.targets = tensors(split, torch.device("cpu"))
        self.bare = self.ours = self.away = 0.0  # seconds; `away` are those of all bare steps
        self.pairs = self.steps = 0
        self.since: float | None = None  # when the last bare step of this epoch ended
        self.last = 0.0  # seconds that it took

    def step(self, index: Tensor) -> None:
        """A step of the bare loop."""
        loss = self.objective(self.model(**{name: rows[index] for name, rows in self.inputs.items()}), self.targets[index]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def take(self, index: Tensor) -> None:
        """Our loop is about to fetch this batch: its step before, if there was one in this epoch, is over."""
        now = time.perf_counter()
        if self.since is not None:
            self.ours += now - self.since
            self.bare += self.last
            self.pairs += 1
        self.step(index)
        self.since = time.perf_counter()
        self.last = self.since - now
        self.away += self.last
        self.steps += 1


@dataclass(frozen=True)
class Shared(Split):
    """A split from which the bare loop takes each batch before ours does."""

    turns: Turns

    def rows(self, index: npt.NDArray[np.int64] | slice) -> Split:
        if not isinstance(index, slice):  # which is how a look at some rows asks, not a step
            self.turns.take(torch.from_numpy(index))
        return super().rows(index)


if __name__ == "__main__":
    tyro.cli(main, prog="python -m training.benchmarks.throughput", description=__doc__)
