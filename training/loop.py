"""The training loop, in one visible function: step, evaluate, save, log."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from torch import Tensor

from modelrepo.tasks import Metric
from training import checkpoint, data, lineage, tasks
from training.config import Config, learning_rate
from training.data import Dataset
from training.data.dataset import Split
from training.models import Model, build, family_of

log = logging.getLogger("training")

EVALUATION_ROWS = 256  # a batch without gradients; bounds the memory of an evaluation


class Diverged(Exception):
    """The loss is no longer a number; the message says what to lower."""


def fit(config: Config) -> checkpoint.Facts:
    """Train, keep the best epoch by validation metric, judge it on the test split, and leave both in `config.out`.

    The same config gives the same weights on the same machine. A finished run in that folder is replaced only when this one
    has finished, and kept where `reuse` is set and it is the same. Raises DataError or Diverged.
    """
    dataset = data.load(config.data)
    record = _record(config, dataset)
    if config.reuse and (finished := _finished(config, record)):
        log.info("%s holds this run already", config.out)
        return finished

    torch.manual_seed(config.seed)
    order = torch.Generator().manual_seed(config.seed)
    model = build(config.model, dataset.kind, dataset.task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    per_epoch = math.ceil(record["rows"]["train"] / config.batch_size)
    steps = config.epochs * per_epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps, config.warmup))
    facts: checkpoint.Facts | None = None
    record["holdout_sha256"] = checkpoint.save_holdout(config.out, dataset.test)

    with _progress() as bar:
        running = bar.add_task(f"{config.out.name}", total=steps, info="")
        for epoch in range(1, config.epochs + 1):
            # step
            split = dataset.train(epoch)
            model.train()
            total = 0.0
            for index in torch.randperm(len(split), generator=order).split(config.batch_size):
                batch = split.rows(index.numpy())
                loss = tasks.loss(model.task, model(**_tensors(batch)), torch.from_numpy(batch.targets))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
                optimizer.step()
                schedule.step()
                total += loss.item() * len(batch)
                bar.advance(running)
            train_loss = total / len(split)
            if not math.isfinite(train_loss):
                raise Diverged(f"the loss became {train_loss} in epoch {epoch}: lower --learning-rate ({config.learning_rate})")

            # evaluate
            score = tasks.metric(model.task, predict(model, dataset.validation), dataset.validation.targets, config.floor)

            # save
            if facts is None or _better(score, facts.validation):
                facts = checkpoint.Facts(**record, epoch=epoch, validation=score, test=None)
                weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
                checkpoint.save_partial(config.out, facts, weights)

            # log
            bar.update(running, info=f"loss {train_loss:.4f}, {score.name} {score.value:.4f}")
            if bar.disable:
                info = (epoch, config.epochs, train_loss, score.name, score.value)
                log.info("epoch %d/%d  loss %.4f  validation %s %.4f", *info)

    assert facts is not None  # at least one epoch ran
    model.load_state_dict(weights)
    test = tasks.metric(model.task, predict(model, dataset.test), dataset.test.targets, config.floor)
    facts = facts.model_copy(update={"test": test})
    checkpoint.save(config.out, facts, weights)
    return facts


@torch.no_grad()
def predict(model: Model, split: Split) -> np.ndarray:
    """The model's outputs for every row, [N, task.outputs] float32, in evaluation mode."""
    model.eval()
    parts = [split.rows(slice(start, start + EVALUATION_ROWS)) for start in range(0, len(split), EVALUATION_ROWS)]
    return np.concatenate([model(**_tensors(part)).numpy() for part in parts])


def _tensors(split: Split) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in split.inputs.items()}


def _better(one: Metric, other: Metric) -> bool:
    """Later epochs win ties: they were trained longer."""
    return one.value >= other.value if one.better == "higher" else one.value <= other.value


def _record(config: Config, dataset: Dataset) -> dict[str, Any]:
    """The facts that every checkpoint of this run shares, gathered once: all but held-out rows, epoch and scores."""
    commit, dirty = lineage.git()
    return {
        "family": family_of(config.model),
        "model": _plain(config.model),
        "kind": dataset.kind,
        "task": dataset.task,
        "config": _plain(config),
        "seed": config.seed,
        "data": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "rows": {"train": len(dataset.train(1)), "validation": len(dataset.validation), "test": len(dataset.test)},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": dirty,
        "versions": lineage.versions(),
    }


def _plain(config: Any) -> dict[str, Any]:
    """A config as JSON values."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def _finished(config: Config, record: dict[str, Any]) -> checkpoint.Facts | None:
    """The facts of a finished run of this very config on this very data, None where the folder holds none."""
    try:
        facts = checkpoint.load(config.out).facts
        checkpoint.load_holdout(config.out, facts)
    except checkpoint.CheckpointError:
        return None
    same = {**facts.config, "reuse": None} == {**record["config"], "reuse": None}
    return facts if same and facts.fingerprint == record["fingerprint"] else None


def _progress() -> Progress:
    """A bar that redraws itself on a terminal and stays silent elsewhere, where the log has a line per epoch."""
    console = Console()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TaskProgressColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[info]}"),
        console=console,
        disable=not console.is_terminal,
    )
