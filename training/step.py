"""One step of the optimiser: a batch forward, its loss backward, the gradient clipped, the weights moved."""

from __future__ import annotations

from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, clip_grads_with_norm_, get_total_norm

from training.augment import Augment, Mix, augment, mix
from training.config import Config
from training.data.dataset import Images, Kind, Split
from training.distributed import World
from training.state import State
from training.tasks import Objective

HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Step:
    """Called with a split and the row numbers of a batch; `net` is the model as it is run: wrapped, compiled."""

    def __init__(self, net: nn.Module, state: State, objective: Objective, kind: Kind, config: Config, world: World) -> None:
        self.net, self.state, self.objective, self.kind, self.config, self.world = net, state, objective, kind, config, world
        options = config.optimisation
        half = HALF.get(options.precision)
        self.autocast = torch.autocast(world.device.type, half) if half else nullcontext()
        self.parameters = list(state.model.parameters())  # walking the modules at every step costs more than clipping
        self.augments = config.augment != Augment()

    def __call__(self, split: Split, index: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch (this process's share of it) and norm of its gradient before clipping; both [] float32."""
        state, options = self.state, self.config.optimisation
        random = self._seed()
        state.optimizer.zero_grad()
        total = torch.zeros((), device=self.world.device)
        parts = [part for part in self.world.part(index).tensor_split(options.accumulate) if len(part)]
        for number, part in enumerate(parts or [index[:0]], start=1):
            # other processes wait for this one's gradients once, after the last part
            waits = self.world.size > 1 and number < len(parts)
            with self.net.no_sync() if waits else nullcontext():
                loss = self._losses(split.rows(part.numpy()), random).sum() / len(index)
                state.scaler.scale(loss * self.world.size).backward()  # which is averaged over processes
            total += loss.detach()
        state.scaler.unscale_(state.optimizer)
        norm = get_total_norm([parameter.grad for parameter in self.parameters if parameter.grad is not None])
        if options.clip_norm:
            clip_grads_with_norm_(self.parameters, options.clip_norm, norm)
        if options.clip_value:
            clip_grad_value_(self.parameters, options.clip_value)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if state.ema:
            state.ema.update_parameters(state.model)
        state.rate.after_step()
        state.step += 1
        return total, norm

    def _losses(self, rows: Split, random: np.random.Generator) -> Tensor:
        """The loss of each row, [N]."""
        inputs, targets = tensors(rows, self.world.device)
        mixed: Mix | None = None
        if self.augments:
            inputs = augment(inputs, self.kind, self.config.augment, random)
            if isinstance(self.kind, Images):
                inputs["image"], mixed = mix(inputs["image"], self.config.augment, random)
        with self.autocast:
            outputs = self.net(**inputs)
        losses = self.objective(outputs.float(), targets)
        if mixed is None:
            return losses
        return mixed.share * losses + (1 - mixed.share) * self.objective(outputs.float(), targets[mixed.other])

    def _seed(self) -> np.random.Generator:
        """Dropout's and augmentation's random numbers, as functions of seed, step and process."""
        seed = hash((self.config.seed, self.state.step, self.world.rank)) % 2**63
        torch.default_generator.manual_seed(seed)
        if self.world.device.type == "cuda":
            torch.cuda.manual_seed(seed)
        return np.random.default_rng(seed) if self.augments else _UNUSED


_UNUSED = np.random.default_rng(0)


def tensors(rows: Split, device: torch.device) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs by name, and targets, on the device."""
    inputs = {name: _plain(torch.from_numpy(np.ascontiguousarray(array))).to(device) for name, array in rows.inputs.items()}
    return inputs, torch.from_numpy(rows.targets).to(device)


def _plain(tensor: Tensor) -> Tensor:
    """The same memory under the strides of its shape.

    NumPy leaves the stride of an axis of size 1 as it came. With grey pictures PyTorch then takes it for channels-last, and
    the backward pass of a convolution with few channels writes beyond its memory (2.13 on a CPU).
    """
    return tensor.view(tensor.shape)
