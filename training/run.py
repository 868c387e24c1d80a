"""The run folder while training goes on: what is recorded and saved, when, and when to stop.

Process 0 writes; what all processes must agree on (the time is up, the best is in) it tells the others.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import shlex
import shutil
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, get_args

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor

from modelrepo.tasks import Metric
from training import atomic, card, checkpoint, lineage, pictures, reference, tasks
from training.checkpoint import CONFIG, UNFINISHED, CheckpointError, Facts
from training.config import Config
from training.data import Dataset
from training.data.dataset import Split
from training.diagnosis import Monitor, chance, gradients
from training.distributed import World
from training.evaluation import Diverged, predict
from training.history import History
from training.models import family_of
from training.progress import Display
from training.state import State, weights
from training.step import tensors
from training.tasks import Objective

log = logging.getLogger("training")

CALIBRATION_ROWS = 256
LOG_EVERY = 50  # steps between two looks at the loss, which on a GPU wait for it


class Run:
    """One start of a run. `finished` holds its facts where nothing is left to do; `ended` says why training is over."""

    def __init__(self, config: Config, dataset: Dataset, world: World) -> None:
        self.config, self.dataset, self.world = config, dataset, world
        self.folder = config.out / UNFINISHED
        self.known = _known(config, dataset)
        self._identity = _identity(self.known["config"], self.known["fingerprint"])
        self.ended: Literal["epochs", "patience", "max-time"] | None = None
        self._waiting: list[tuple[int, int, Tensor, float, Tensor]] = []  # steps at whose loss nobody has looked yet
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        with ExitStack() as resources:
            if self.world.first:
                resources.enter_context(checkpoint.held(self.config.out))
            self.finished, self.restored = self.world.agreed(self._open() if self.world.first else (None, None))
            self._resources = resources.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._resources.__exit__(kind, error, trace)

    def _open(self) -> tuple[Facts | None, dict[str, Any] | None]:
        """What is left to do in this folder: facts of a run that is finished, a state to go on from, or neither."""
        control, out = self.config.control, self.config.out
        checkpoint.tidy(out)
        state = checkpoint.load_last(self.folder)
        if control.reuse or (control.resume and state is None):
            facts = self._finished()
            if facts and control.resume and facts.ended == "max-time":  # given more time
                checkpoint.reopen(out)
                state = checkpoint.load_last(self.folder)
            elif facts:
                log.info("%s holds this run already", out)
                return facts, None
        if control.resume and state:
            _same(json.loads(state["run"]), self._identity, self.folder)
            return None, state
        if state and not control.fresh:
            at = state["place"]["step"]
            raise CheckpointError(
                f"{self.folder} holds a run cut off after step {at}: add --resume to go on, --fresh to throw it away"
            )
        shutil.rmtree(self.folder, ignore_errors=True)
        return None, None

    def _finished(self) -> Facts | None:
        """The facts of a finished run of this very config on this very data, None where the folder holds none."""
        try:
            facts = checkpoint.load(self.config.out).facts
            for name in get_args(checkpoint.Kept):
                checkpoint.load_rows(self.config.out, name, facts)
        except CheckpointError:
            return None
        return facts if _identity(facts.config, facts.fingerprint) == self._identity else None

    def begin(self, state: State, objective: Objective) -> None:
        """Take up the state that was saved, if there is one, and start to record."""
        config, first = self.config, self.world.first
        if self.restored is not None:
            state.load_state_dict(self.restored)
            self.restored = None
            if first:
                log.info("going on after step %d", state.step)
        if first:
            kept: dict[checkpoint.Kept, Split] = {"holdout": self.dataset.test, "calibration": _calibration(self.dataset.train(1))}
            self.known |= {f"{name}_sha256": checkpoint.save_rows(self.folder, name, split) for name, split in kept.items()}
            self.known["reference"] = reference.describe(self.dataset)
            atomic.write(self.folder / CONFIG, (json.dumps(self.known["config"], indent=2) + "\n").encode())
        self._began -= state.seconds
        self._state = state
        self._lose_patience()
        targets = self.dataset.train(1).targets
        warmup = math.ceil(config.optimisation.warmup * config.epochs)
        self._monitor = Monitor(objective, chance(self.dataset.task, targets, objective), dataclasses.asdict(config.model), warmup)
        self._display = self._resources.enter_context(
            Display(config.out.name, state.steps, bar=config.control.log_format == "text", quiet=not first)
        )
        self._display.at(state.step)
        self._history: History | None = None
        if first:
            self._history = self._resources.enter_context(
                History(self.folder, run=config.out.name, config=self.known["config"], step=state.step)
            )

    def stepped(self, rows: int, loss: Tensor, norm: Tensor) -> None:
        """After each step: now and then look at the losses, and save where the config says so."""
        state, every = self._state, self.config.control.save_every
        rate = state.optimizer.param_groups[0]["lr"]
        self._waiting.append((state.step, rows, loss, rate, norm))
        if len(self._waiting) >= LOG_EVERY or (self._late and self.world.size == 1):
            self.look()
        if every and state.step % every == 0 and not self._whole:
            self.look()
            self._save()

    @property
    def _late(self) -> bool:
        """Whether the time is up, by this process's clock."""
        limit = self.config.control.max_time
        return limit is not None and time.monotonic() - self._began > 60 * limit

    @property
    def _whole(self) -> bool:
        """Whether the last step was its epoch's last, after which evaluation comes before the next save."""
        return self._state.step % self._state.per_epoch == 0

    def look(self) -> None:
        """Record the steps since the last look. Raises Diverged; sets `ended` where the time is up."""
        if self._waiting:
            numbers, rows, losses, rates, norms = zip(*self._waiting, strict=True)
            self._waiting.clear()
            losses = self.world.summed(torch.stack(losses)).tolist()
            for number, count, loss, rate, norm in zip(numbers, rows, losses, rates, torch.stack(norms).tolist(), strict=True):
                if not math.isfinite(loss):
                    self._diverge(number, loss)
                self._state.total += loss * count
                self._state.seen += count
                if self._history:
                    self._history.log_step(number, {"train/loss": loss, "learning_rate": rate, "gradient_norm": norm})
            self._display.at(self._state.step)
        if self.config.control.max_time and self.world.agreed(self._late) and not self.ended:
            self.ended = "max-time"
            if not self._whole:
                self._save()  # before anything of this epoch is judged, so that it can be taken up here

    def _diverge(self, step: int, loss: float) -> None:
        for name in (checkpoint.LAST, checkpoint.PREVIOUS):  # nothing one would want to go on from
            (self.folder / name).unlink(missing_ok=True)
        inputs, targets = tensors(self.dataset.train(self._state.epoch + 1).rows(slice(self.config.batch_size)), self.world.device)
        raise Diverged(f"the loss became {loss} at step {step}: {self._monitor.not_finite(self._state.model, inputs, targets)}")

    def evaluated(self, judged: Metric, validation_loss: float, split: Split) -> None:
        """After each epoch, or where the time is up in the middle of one: keep the best, record, save, and see whether to stop."""
        state, config = self._state, self.config
        train_loss = state.total / max(1, state.seen)
        epoch = state.epoch + 1
        if not self._whole and state.best is not None:
            return  # a run given more time finds the best it would have found without stopping
        as_good = state.best is None or _as_good(judged, state.best)
        if as_good and judged != state.best:
            state.improved_epoch = epoch
        if as_good or config.keep == "last":  # later epochs win ties: they were trained longer
            state.best, state.best_epoch = judged, epoch
            if self.world.first:
                checkpoint.save(self.folder, self._facts(), weights(state.judged))
        if not self._whole:
            return
        state.epoch, state.total, state.seen = epoch, 0.0, 0
        state.rate.after_epoch(validation_loss)
        if self._history:
            values = {"train/loss": train_loss, "validation/loss": validation_loss, f"validation/{judged.name}": judged.value}
            layers = {f"gradient_norm/{name}": norm for name, norm in gradients(state.model).items()}
            self._history.log_epoch(epoch, state.step, values | layers)
            self._display.epoch(epoch, config.epochs, train_loss, validation_loss, judged)
            inputs, targets = tensors(split.rows(slice(config.batch_size)), self.world.device)
            for finding in self._monitor.after_epoch(state.model, inputs, targets, self._history.epochs):
                self._display.warn(str(finding))
        self._lose_patience()
        self._save()

    def _lose_patience(self) -> None:
        if self.ended is None and self.config.patience and self._state.epoch - self._state.improved_epoch >= self.config.patience:
            self.ended = "patience"

    def _save(self) -> None:
        if self._history:
            self._history.flush()
            self._state.seconds = time.monotonic() - self._began
            checkpoint.save_last(self.folder, {"run": json.dumps(self._identity), **self._state.state_dict()})

    def close(self) -> Facts:
        """Judge the best on the test split, write what is left to write, and put the run into its place."""
        return self.world.agreed(self._close() if self.world.first else None)

    def _close(self) -> Facts:
        best = checkpoint.load(self.folder)
        model = best.model().to(self.world.device)
        outputs, dataset = predict(model, self.dataset.test), self.dataset
        task = tasks.calibrated(dataset.task, predict(model, dataset.validation), dataset.validation.targets)
        facts = best.facts.model_copy(
            update={
                "task": task,
                "test": tasks.metric(task, outputs, dataset.test.targets, self.config.floor),
                "metrics": tasks.metrics(task, outputs, dataset.test.targets),
                "reference": best.facts.reference and reference.with_predictions(best.facts.reference, task, outputs),
                "ended": self.ended or "epochs",
                "epochs": self._state.epoch,
                "seconds": round(time.monotonic() - self._began, 1),
            }
        )
        if self.config.control.pictures:
            pictures.draw(self.folder, model=model, dataset=dataset, task=task, outputs=outputs, best=facts.epoch)
        again = ["--config", str(self.config.out / CONFIG), "--out", f"{self.config.out}-again"]
        command = shlex.join(["python", "-m", "training", facts.family, *again])
        card.write(self.folder / "MODEL_CARD.md", json.loads(facts.model_dump_json()), command)
        checkpoint.save(self.folder, facts, best.weights)
        assert self._history is not None
        self._history.finish({f"test/{name}": value for name, value in facts.metrics.items()}, self.folder)
        checkpoint.finish(self.config.out)
        return facts

    def _facts(self) -> Facts:
        """Of the best epoch so far."""
        state = self._state
        parameters = sum(parameter.numel() for parameter in state.model.parameters())
        return Facts(**self.known, parameters=parameters, epoch=state.best_epoch, validation=state.best)


def _as_good(one: Metric, other: Metric) -> bool:
    return one.value >= other.value if one.better == "higher" else one.value <= other.value


def _calibration(split: Split) -> Split:
    """Rows of the training split that stand for all of them, the same ones every time."""
    rows = np.random.default_rng(0).permutation(len(split))[:CALIBRATION_ROWS]
    return split.rows(np.sort(rows))


def _known(config: Config, dataset: Dataset) -> dict[str, Any]:
    """What is known before the first step, gathered once: all facts but held-out rows, epoch and scores."""
    commit, dirty = lineage.git()
    plain = json.loads(json.dumps(dataclasses.asdict(config), default=str))
    return {
        "family": family_of(config.model),
        "model": plain["model"],
        "kind": dataset.kind,
        "task": dataset.task,
        "config": plain,
        "seed": config.seed,
        "data": dataset.name,
        "fingerprint": dataset.fingerprint(),
        "rows": {"train": len(dataset.train(1)), "validation": len(dataset.validation), "test": len(dataset.test)},
        "handling": dataset.handling,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": commit,
        "git_dirty": dirty,
        "environment": lineage.environment(),
        "versions": lineage.versions(),
    }


def _identity(config: dict[str, JsonValue], fingerprint: str) -> dict[str, JsonValue]:
    """What makes two starts the same run: all settings but where it lies and how it is started, and the data."""
    return {**{name: value for name, value in config.items() if name not in ("out", "control")}, "fingerprint": fingerprint}


def _same(saved: Any, asked: Any, folder: Path, path: str = "") -> None:
    """Raises CheckpointError naming the first setting in which the run that was cut off differs from what is asked for."""
    if isinstance(saved, dict) and isinstance(asked, dict):
        for name in saved | asked:
            _same(saved.get(name), asked.get(name), folder, f"{path}.{name}" if path else name)
    elif saved != asked:
        what = "other data" if path == "fingerprint" else f"{path} = {saved}, now it is {asked}"
        raise CheckpointError(f"{folder} holds a run with {what}: start it as it was, or throw it away with --fresh")
