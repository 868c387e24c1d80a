"""The training loop, in one visible function: step, evaluate, save, log.

All that is random follows from the seed and the place in the run: dropout and augmentation from (seed, step, process), the
order of rows from (seed, epoch). So a run that was cut off and resumed ends with the weights of one that was not, to the bit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn

from training import data
from training.checkpoint import Facts
from training.config import Config
from training.data import Dataset
from training.data.dataset import Split
from training.distributed import joined
from training.evaluation import ROWS, score
from training.finder import Range, find
from training.models import Model, build
from training.run import Run
from training.state import State
from training.step import Step
from training.tasks import Objective


def fit(config: Config, dataset: Dataset | None = None) -> Facts:
    """Train, judge the best epoch on the test split, and leave both in `config.out` with the record of how it went.

    `dataset` stands in for what `config.data` names. A finished run in that folder is replaced only when this one has ended.
    Raises DataError, Diverged, CheckpointError, or ValueError where options do not suit each other or the machine.
    """
    dataset = dataset or load(config)
    config.augment.check(dataset.kind)
    with joined(config.device) as world, _determined(config), Run(config, dataset, world) as run:
        if run.finished:
            return run.finished
        torch.manual_seed(config.seed)
        model = build(config.model, dataset.kind, dataset.task).to(world.device)
        split = dataset.train(1)
        objective = Objective(dataset.task, config.loss, split.targets)
        shares = world.size * config.optimisation.accumulate
        _check_shares(model, config, min(config.batch_size, len(split)) // shares, shares)
        state = State(model, config.optimisation, config.epochs, len(batches(len(split), config, 1, shares)))
        run.begin(state, objective)
        net = world.wrap(torch.compile(model) if config.compile else model)
        step = Step(net, state, objective, dataset.kind, config, world)
        score(state.judged, objective, dataset.validation.rows(slice(ROWS)))  # fails now rather than after an epoch

        while state.epoch < config.epochs and not run.ended:
            # step
            split = dataset.train(state.epoch + 1)
            net.train()
            order = batches(len(split), config, state.epoch + 1, shares)
            for index in order[state.step - state.epoch * state.per_epoch :]:
                loss, norm = step(split, index)
                run.stepped(len(index), loss, norm)
                if run.ended:
                    break

            # evaluate
            run.look()
            judged = world.agreed(score(state.judged, objective, dataset.validation) if world.first else None)

            # save, log
            run.evaluated(*judged, split)

        return run.close()


def load(config: Config) -> Dataset:
    """The data of a run. Raises DataError."""
    dataset = data.load(config.data, config.source)
    if config.overfit_batches:
        few = some(dataset.train(1), config.overfit_batches * config.batch_size)
        return replace(dataset, train=lambda _epoch: few, validation=few)
    return dataset


def some(split: Split, rows: int) -> Split:
    """The first rows, and among them one at least of each label, as far as there is room."""
    labels = split.targets if split.targets.ndim == 1 else split.targets[:, 0]
    first = np.unique(labels, return_index=True)[1] if len(np.unique(labels)) <= rows else np.arange(0)
    index = np.concatenate([first, np.setdiff1d(np.arange(len(split)), first)])[:rows]
    return split.rows(np.sort(index))


def batches(rows: int, config: Config, epoch: int, shares: int) -> Sequence[Tensor]:
    """The row numbers of each batch of an epoch, in that epoch's order; the last has two rows for each of `shares` at least."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(hash((config.seed, epoch)) % 2**63))
    parts = order.split(config.batch_size)
    if len(parts) > 1 and len(parts[-1]) < 2 * shares:  # batch norm cannot learn from one row
        parts = (*parts[:-2], torch.cat(parts[-2:]))
    return parts


def _check_shares(model: Model, config: Config, rows: int, shares: int) -> None:
    """Raises ValueError where batch norm would see one row at a time."""
    if rows < 2 and any(isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) for module in model.modules()):
        raise ValueError(
            f"batch norm needs two rows at a time, and a batch of {config.batch_size} in {shares} parts has {rows}: "
            "raise --batch-size, lower --accumulate, or take --model.norm layer"
        )


@contextmanager
def _determined(config: Config) -> Iterator[None]:
    """Refuse, where asked to, what differs from run to run on a GPU, and then leave PyTorch as it was."""
    if not config.deterministic:  # even switching it off imports PyTorch's compiler: seconds
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def find_learning_rate(config: Config, dataset: Dataset | None = None) -> Range:
    """The learning-rate range test on this config's network, data and optimiser. Keeps nothing. Raises as `fit` does."""
    dataset = dataset or load(config)
    with joined(config.device) as world:
        torch.manual_seed(config.seed)
        model = build(config.model, dataset.kind, dataset.task).to(world.device).train()
        split = dataset.train(1)
        state = State(model, config.optimisation, 1, 1)
        step = Step(model, state, Objective(dataset.task, config.loss, split.targets), dataset.kind, config, world)
        order = (index for epoch in count(1) for index in batches(len(split), config, epoch, 1))

        def train_at(rate: float) -> float:
            state.rate.hold(rate)
            return float(step(split, next(order))[0])

        return find(train_at)
