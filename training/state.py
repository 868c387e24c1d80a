"""All that changes while training: weights, optimiser, learning rate, loss scale, moving average, and the place in the run."""

from __future__ import annotations

from typing import Any

import torch
from torch.amp import GradScaler
from torch.optim.swa_utils import AveragedModel

from modelrepo.tasks import Metric
from training.models import Model
from training.optimisation import Optimisation, Rate, averaged, optimizer


class State:
    """`state_dict` and `load_state_dict` carry it through a file. Random numbers need no saving: they follow from seed and step."""

    def __init__(self, model: Model, config: Optimisation, epochs: int, per_epoch: int) -> None:
        self.model = model
        self.per_epoch, self.steps = per_epoch, epochs * per_epoch
        self.optimizer = optimizer(model, config)
        self.rate = Rate(self.optimizer, config, self.steps)
        device = next(model.parameters()).device.type
        self.scaler = GradScaler(device, enabled=config.precision == "fp16")
        self.ema: AveragedModel | None = averaged(model, config.ema) if config.ema else None
        self.step = 0  # of the optimiser, over all epochs
        self.epoch = 0  # finished ones
        self.seen = 0  # rows of the epoch in progress
        self.total = 0.0  # of their losses
        self.best: Metric | None = None
        self.best_epoch = 0
        self.improved_epoch = 0  # the last one that was better than all before it, and not merely as good
        self.seconds = 0.0  # of training, over all starts

    @property
    def judged(self) -> Model:
        """The network that is evaluated and kept: the moving average where there is one."""
        return self.ema.module if self.ema else self.model  # type: ignore[return-value]

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain values only."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rate": self.rate.state_dict(),
            "scaler": self.scaler.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "place": {
                name: getattr(self, name) for name in ("step", "epoch", "seen", "total", "best_epoch", "improved_epoch", "seconds")
            },
            "best": self.best.model_dump() if self.best else None,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rate.load_state_dict(state["rate"])
        self.scaler.load_state_dict(state["scaler"])
        if self.ema:
            self.ema.load_state_dict(state["ema"])
        for name, value in state["place"].items():
            setattr(self, name, value)
        self.best = Metric(**state["best"]) if state["best"] else None


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of the model's weights and buffers, in main memory."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
