"""Optimiser, learning rate and precision: PyTorch's own parts, chosen by name."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

DECAYED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Embedding, nn.RNNBase)  # not norms, position codes, modes of a state space

Schedule = Literal["constant", "step", "cosine", "linear", "one-cycle", "plateau"]


@dataclass(frozen=True, kw_only=True)
class Optimisation:
    """How weights follow gradients."""

    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    """SGD with momentum, Adam, or AdamW, whose decay does not pass through the moments (Loshchilov & Hutter 2019)."""
    learning_rate: float = 2e-3
    """Step size at its peak."""
    momentum: float = 0.9
    """Of SGD."""
    nesterov: bool = False
    """Look ahead along the momentum (SGD)."""
    weight_decay: float = 0.01
    """Pull of the weights towards zero; biases, norms, position codes and the modes of a state space are left alone."""
    schedule: Schedule = "cosine"
    """Course of the learning rate after its warm-up."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises from zero; one-cycle rises for 0.3 by itself."""
    step_at: tuple[float, ...] = (0.5, 0.75)
    """schedule=step: the shares of the run after which the rate is multiplied by --decay-factor."""
    decay_factor: float = 0.1
    """schedule=step and plateau: what the rate is multiplied by."""
    plateau_patience: int = 5
    """schedule=plateau: epochs without a lower validation loss before the rate falls."""
    clip_norm: float | None = 1.0
    """Gradients are scaled down to this global norm; None leaves them."""
    clip_value: float | None = None
    """Each element of a gradient is cut to this size."""
    accumulate: int = 1
    """Parts in which a batch is worked through, to save memory; their gradients are added up before the step."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Arithmetic of the forward pass; weights stay fp32. fp16 scales the loss against underflow."""
    ema: float | None = None
    """Decay per step of an exponential moving average of the weights, which is then what is evaluated and kept."""

    def __post_init__(self) -> None:
        for name, least in (("accumulate", 1), ("plateau_patience", 0), ("weight_decay", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        for name in ("learning_rate", "clip_norm", "clip_value", "decay_factor"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0, not {value}")
        for name in ("warmup", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if self.nesterov and (self.optimizer != "sgd" or not self.momentum):
            raise ValueError(
                "nesterov looks ahead along the momentum of sgd: set --optimizer sgd and a --momentum, or leave it out"
            )
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must lie between 0 and 1, not {self.ema}")
        if any(not 0 < share < 1 for share in self.step_at):
            raise ValueError(f"step_at must hold shares between 0 and 1, not {list(self.step_at)}")


def optimizer(model: nn.Module, config: Optimisation) -> torch.optim.Optimizer:
    """The optimiser over all parameters; only the weights of the layers in DECAYED decay."""
    decayed = [
        p for module in model.modules() if isinstance(module, DECAYED) for p in module.parameters(recurse=False) if p.ndim > 1
    ]
    chosen = {id(p) for p in decayed}
    spared = [p for p in model.parameters() if id(p) not in chosen]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    groups = [group for group in groups if group["params"]]
    match config.optimizer:
        case "sgd":
            return torch.optim.SGD(groups, config.learning_rate, momentum=config.momentum, nesterov=config.nesterov, fused=True)
        case "adam":
            return torch.optim.Adam(groups, config.learning_rate, fused=True)
        case "adamw":
            return torch.optim.AdamW(groups, config.learning_rate, fused=True)


class Rate:
    """Sets the learning rate after each step and, for `plateau`, lowers it after epochs whose validation loss is no better."""

    def __init__(self, optimizer: torch.optim.Optimizer, config: Optimisation, steps: int) -> None:
        self.by_step = LambdaLR(optimizer, partial(factor, steps=steps, config=config))
        self.plateau: ReduceLROnPlateau | None = None
        if config.schedule == "plateau":
            self.plateau = ReduceLROnPlateau(optimizer, factor=config.decay_factor, patience=config.plateau_patience)
        self.rising = config.warmup * steps

    def after_step(self) -> None:
        """Call after every step of the optimiser."""
        if self.plateau is None or self.by_step.last_epoch < self.rising:
            self.by_step.step()

    def after_epoch(self, validation_loss: float) -> None:
        """Call after every epoch."""
        if self.plateau is not None:
            self.plateau.step(validation_loss)

    def hold(self, rate: float) -> None:
        """Take the next step at this rate."""
        for group in self.by_step.optimizer.param_groups:
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"by_step": self.by_step.state_dict(), "plateau": self.plateau.state_dict() if self.plateau else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""
        self.by_step.load_state_dict(state["by_step"])
        if self.plateau:
            self.plateau.load_state_dict(state["plateau"])


def factor(step: int, steps: int, config: Optimisation) -> float:
    """What the peak rate is multiplied by at a step, counted from 0, of `steps` in all."""
    if config.schedule == "one-cycle":
        return one_cycle(step, steps)
    rising = config.warmup * steps
    if step < rising:
        return (step + 1) / (rising + 1)
    course: Callable[[float], float] = {
        "constant": lambda done: 1.0,
        "plateau": lambda done: 1.0,
        "step": lambda done: config.decay_factor ** sum(step >= share * steps for share in config.step_at),
        "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        "linear": lambda done: 1 - done,
    }[config.schedule]
    return course((step - rising) / max(1, steps - rising))


def one_cycle(step: int, steps: int) -> float:
    """Half a cosine from 1/25 up to 1 over the first 30 %, then down to 1/250,000 (Smith & Topin 2018).

    The figures are those of torch.optim.lr_scheduler.OneCycleLR.
    """
    top, last = 0.3 * steps - 1, steps - 1
    start, end = 1 / 25, 1 / 25 / 1e4
    if step <= top:
        return _between(start, 1.0, step / top)
    return _between(1.0, end, min(1.0, (step - top) / max(1e-9, last - top)))


def _between(start: float, end: float, done: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * done))


def averaged(model: nn.Module, decay: float) -> AveragedModel:
    """The exponential moving average of `model`, batch statistics included; it starts at the weights after the first step.

    Early averages forget faster, by min(decay, (1 + n) / (10 + n)) after n steps, so that they do not hang on the initial
    weights (as num_updates does in TensorFlow's ExponentialMovingAverage).
    """

    def update(average: list[Tensor], current: list[Tensor], steps: Tensor | int) -> None:
        taken = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + taken) / (10 + taken)))(average, current, steps)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)
