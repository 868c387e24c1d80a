"""What goes wrong when training goes wrong, found by looking: at one batch passed through the network, and at the losses.

The thresholds are wide on purpose, since an alarm that healthy runs set off is soon ignored. What each remedy is good for:
Glorot & Bengio 2010 and He et al. 2015 (initialisation), Ioffe & Szegedy 2015 (normalisation), Pascanu et al. 2013 (clipping).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from modelrepo.tasks import Task

Objective = Callable[[Tensor, Tensor], Tensor]  # outputs and targets to the loss of each row, [N]

VANISHED = 1e-5  # the first layer's gradient as a share of the largest
EXPLODED = 1e3  # a layer's gradient as a multiple of its weights
DEAD = 0.75  # share of a layer's units that no row of the batch activates; deep in a network half of them is common
LEAST = 32  # positions a unit must have had a chance at to be called dead
CHANCE = 0.99  # a loss above this share of a constant answer's has learnt nothing
PATIENCE = 3  # epochs that a run may take to leave chance behind
EVERY = 5  # epochs between two looks into the network, after the first few
LASTING = 5  # epochs without a lower validation loss; while the rate is high, single ones jump
OVERFITTED = 0.1  # rise of the validation loss since its lowest, as a share of a constant answer's loss

REMEDIES = {
    "the loss is not finite": (
        "--learning-rate ten times lower",
        "--warmup longer",
        "--model.init auto",
        "--model.norm layer",
        "--clip-norm 1, or lower",
        "--precision fp32, if it was fp16",
    ),
    "the input is not finite": ("look at the data: the values named here are infinite or missing",),
    "vanishing gradients": (
        "--model.init auto",
        "--model.norm batch",
        "--model.norm layer",
        "--model.activation relu",
        "--model.residual",
        "fewer layers",
    ),
    "exploding gradients": (
        "--learning-rate ten times lower",
        "--model.init auto",
        "--model.norm batch",
        "--clip-norm 1, or lower",
    ),
    "dead ReLUs": (
        "--learning-rate ten times lower",
        "--warmup longer",
        "--model.init auto",
        "--model.norm batch",
        "--model.activation leaky_relu",
    ),
    "the loss is at chance": (
        "--learning-rate ten times lower, or higher: --find-lr suggests one",
        "--model.init auto",
        "--model.norm batch",
        "--overfit-batches 1: a network that cannot learn one batch by heart is broken",
        "look at the data: do the targets belong to these rows?",
    ),
    "overfitting": (
        "--weight-decay higher",
        "--model.dropout 0.1 to 0.5",
        "--augment options, where there are some for this data",
        "a smaller network, or more data",
        "--patience to stop sooner: the best epoch is kept in any case",
    ),
}


@dataclass(frozen=True)
class Finding:
    """Something wrong: what it is, where it shows, and what to try, in this order."""

    what: str
    where: str
    remedies: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.what} ({self.where}); try, in this order: {'; '.join(self.remedies)}"


@dataclass
class Examination:
    """What one batch showed: norms by layer, in the order in which the layers ran, and what was not right on the way."""

    weights: dict[str, float] = field(default_factory=dict)
    gradients: dict[str, float] = field(default_factory=dict)  # not clipped
    matrices: list[str] = field(default_factory=list)  # the layers that have a weight of two axes or more
    dead: dict[str, tuple[int, int]] = field(default_factory=dict)  # units that stayed 0, and units, by ReLU
    not_finite: str | None = None  # the first thing that was not


class Monitor:
    """Watches one run. `options` are the model's own with their values: no remedy names one it lacks, or what is set already."""

    def __init__(self, objective: Objective, chance: float, options: Mapping[str, Any], warmup: int = 0) -> None:
        """`warmup` is the number of epochs in which the learning rate rises: chance is left behind after them."""
        self.objective, self.chance, self.options, self.warmup = objective, chance, options, warmup
        self._said: set[str] = set()

    def after_epoch(
        self, model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor, epochs: Sequence[Mapping[str, float]]
    ) -> list[Finding]:
        """What is wrong now and was not said before, from one batch and the epochs recorded so far (`History`'s rows)."""
        wrong = list(_from_losses(epochs, self.chance, self.warmup))
        if len(epochs) <= PATIENCE or len(epochs) % EVERY == 0:  # a look costs about as much as a step
            wrong += _from_examination(examine(model, inputs, targets, self.objective))
        new = [(what, where) for what, where in wrong if what not in self._said]
        self._said.update(what for what, _ in new)
        return [self._finding(what, where) for what, where in new]

    def not_finite(self, model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor) -> Finding:
        """Where a loss that is no number comes from, as far as this batch and the weights as they are now show it."""
        for name, tensor in inputs.items():
            if tensor.is_floating_point() and (rows := _rows(tensor.isinf())):
                return self._finding("the input is not finite", f"{name}, row {rows[0]} of the batch, holds an infinite value")
        where = examine(model, inputs, targets, self.objective).not_finite
        return self._finding("the loss is not finite", where or "weights, outputs and gradients are finite again on this batch")

    def _finding(self, what: str, where: str) -> Finding:
        return Finding(what, where, tuple(remedy for remedy in REMEDIES[what] if self._suits(remedy)))

    def _suits(self, remedy: str) -> bool:
        if not remedy.startswith("--model."):
            return True
        name, _, value = remedy.removeprefix("--model.").partition(" ")
        return name in self.options and str(self.options[name]) != (value or "True")


def chance(task: Task, targets: npt.NDArray[np.generic], objective: Objective) -> float:
    """The loss of the best constant answer: with cross-entropy the entropy of the labels, with squared error the variance.

    Found by minimising the objective itself, whatever its weights and smoothing. Looks at 10,000 rows at most.
    """
    truth = torch.from_numpy(np.ascontiguousarray(targets[:: math.ceil(len(targets) / 10_000)]))
    start = truth.mean(0) if truth.is_floating_point() else torch.zeros(task.outputs)  # [outputs]
    scale = truth.std(0).clamp(min=1e-6) if task.type == "regression" and len(truth) > 1 else torch.ones(task.outputs)
    answer = torch.zeros(task.outputs, requires_grad=True)
    search = torch.optim.LBFGS([answer], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        mean = objective((start + scale * answer).expand(len(truth), -1), truth).mean()
        mean.backward()
        return mean

    search.step(loss)
    with torch.no_grad():
        return float(objective((start + scale * answer).expand(len(truth), -1), truth).mean())


def gradients(model: nn.Module) -> dict[str, float]:
    """Norm of each layer's gradient as the last backward pass, and clipping after it, left it; in the order of definition."""
    squares: dict[str, list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            squares.setdefault(_layer(name), []).append(parameter.grad.detach().float().square().sum())
    totals = [torch.stack(parts).sum() for parts in squares.values()]
    return dict(zip(squares, torch.stack(totals).sqrt().tolist(), strict=True)) if totals else {}


def examine(model: nn.Module, inputs: Mapping[str, Tensor], targets: Tensor, objective: Objective) -> Examination:
    """Pass one batch forward and backward in evaluation mode. Changes neither weights, gradients, statistics nor random state."""
    found = Examination()
    training = [module for module in model.modules() if module.training]
    order: list[str] = []
    convolved = [False]  # whether the last layer with weights has its units on axis 1
    layers = {n: m for n, m in model.named_modules() if not list(m.children()) or list(m.parameters(recurse=False))}
    hooks = [module.register_forward_hook(partial(_look, found, order, convolved, name)) for name, module in layers.items()]
    model.eval()
    try:
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):  # cuDNN has no backward pass in evaluation mode
            loss = objective(model(**inputs).float(), targets).mean()
            parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
            partials = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    ran = {name: place for place, name in enumerate(dict.fromkeys(order))}
    pairs: dict[str, list[tuple[Tensor, Tensor | None]]] = {}
    for (name, weight), gradient in zip(parameters.items(), partials, strict=True):
        pairs.setdefault(_layer(name), []).append((weight.detach(), gradient))
    for layer in sorted(pairs, key=lambda name: ran.get(name, -1)):
        found.weights[layer] = _norm(weight for weight, _ in pairs[layer])
        found.gradients[layer] = _norm(gradient for _, gradient in pairs[layer] if gradient is not None)
        if any(weight.ndim > 1 for weight, _ in pairs[layer]):
            found.matrices.append(layer)
    if found.not_finite is None and not math.isfinite(float(loss.detach())):
        found.not_finite = "the loss, though all outputs are finite"
    if found.not_finite is None and (first := next((n for n, g in found.gradients.items() if not math.isfinite(g)), None)):
        found.not_finite = f"the gradient of {first}"
    return found


def _look(
    found: Examination, order: list[str], convolved: list[bool], name: str, module: nn.Module, _inputs: object, output: object
) -> None:
    """A forward hook on what has weights of its own or no layers within."""
    order.append(name)
    if found.not_finite is None:
        if not all(_finite(parameter) for parameter in module.parameters(recurse=False)):
            found.not_finite = f"the weights of {name}"
        elif not all(_finite(tensor) for tensor in _floating(output)):
            found.not_finite = f"the output of {name}"
    if next(module.parameters(recurse=False), None) is not None:
        convolved[0] = isinstance(module, nn.Conv1d | nn.Conv2d | nn.BatchNorm1d | nn.BatchNorm2d)
    if isinstance(module, nn.ReLU) and isinstance(output, Tensor) and output.ndim > 1:
        units = output.detach().movedim(1, -1) if convolved[0] or output.ndim > 3 else output.detach()  # [..., units]
        units = units.flatten(0, -2)  # [positions, units]
        if len(units) >= LEAST:
            found.dead[name] = (int((units == 0).all(0).sum()), units.shape[1])


def _from_examination(found: Examination) -> Iterator[tuple[str, str]]:
    if found.not_finite:
        yield "the loss is not finite", found.not_finite
        return
    largest = max(found.gradients, key=found.gradients.__getitem__, default="")
    if found.matrices and found.gradients[largest] > 0:
        first = found.matrices[0]
        share = found.gradients[first] / found.gradients[largest]
        if share < VANISHED:
            reached = [layer for layer in found.matrices if found.gradients[layer] >= VANISHED * found.gradients[largest]]
            until = f"; {len(found.matrices) - len(reached)} of {len(found.matrices)} layers get next to none" if reached else ""
            yield "vanishing gradients", f"the gradient of {first} is {share:.1g} of that of {largest}{until}"
    if found.matrices:
        times = {layer: found.gradients[layer] / max(found.weights[layer], 1e-3) for layer in found.matrices}
        worst = max(times, key=times.__getitem__)
        if times[worst] > EXPLODED:
            yield "exploding gradients", f"the gradient of {worst} is {times[worst]:.1g} times its weights"
    dead = {name: (zero, units) for name, (zero, units) in found.dead.items() if zero > DEAD * units}
    if dead:
        shown = ", ".join(f"{name}: {zero} of {units} units" for name, (zero, units) in list(dead.items())[:3])
        more = f", and {len(dead) - 3} layers more" if len(dead) > 3 else ""
        yield "dead ReLUs", f"{shown}{more} are 0 for every row of a batch"


def _from_losses(epochs: Sequence[Mapping[str, float]], chance: float, warmup: int) -> Iterator[tuple[str, str]]:
    if not epochs:
        return
    training = epochs[-1].get("train/loss", 0.0)
    if len(epochs) >= warmup + PATIENCE and training >= CHANCE * chance:
        yield (
            "the loss is at chance",
            f"{training:.4g} after {len(epochs)} epochs; the best answer that is always the same has {chance:.4g}",
        )
    validation = [row.get("validation/loss", math.inf) for row in epochs]
    best = min(range(len(epochs)), key=validation.__getitem__)
    rise = validation[-1] - validation[best]
    if len(epochs) - 1 - best >= LASTING and rise > OVERFITTED * chance and training < epochs[best].get("train/loss", 0.0):
        yield (
            "overfitting",
            f"the validation loss rose from {validation[best]:.4g} in epoch {best + 1} to {validation[-1]:.4g}, "
            f"while the training loss fell to {training:.4g}",
        )


def _layer(parameter: str) -> str:
    """The layer a parameter belongs to; one that belongs to the whole model stands for itself."""
    return parameter.rpartition(".")[0] or parameter


def _finite(tensor: Tensor) -> bool:
    return bool(torch.isfinite(tensor).all())


def _floating(output: Any) -> Iterator[Tensor]:
    """The floating-point tensors in what a layer returned."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, tuple | list):
        for part in output:
            yield from _floating(part)


def _norm(tensors: Iterator[Tensor]) -> float:
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors))


def _rows(wrong: Tensor) -> list[int]:
    """The rows of [N, ...] bool that hold a true value."""
    return wrong.flatten(1).any(1).nonzero().flatten().tolist()
