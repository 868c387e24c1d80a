"""Data-parallel training on one or more machines, as `torchrun` starts it: each process works on its part of every batch.

Process 0 evaluates, logs and saves; the others wait for what it decides.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """This process among all; alone, number 0 of 1."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process is the one that evaluates, logs and saves."""
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model whose backward pass averages gradients over all processes; alone, the model itself."""
        if self.size == 1:
            return model
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DistributedDataParallel(model, device_ids=[self.device.index] if on_gpu else None)

    def part(self, index: Tensor) -> Tensor:
        """This process's share of a batch; empty where the batch has fewer rows than there are processes."""
        return index.tensor_split(self.size)[self.rank]

    def summed(self, values: Tensor) -> Tensor:
        """The sum over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agreed(self, value: T) -> T:
        """What process 0 says."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes torchrun started, if it did. `device` is auto, cpu or cuda. Raises ValueError without such a device."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device is cuda, but PyTorch sees no GPU: check `nvidia-smi`, or leave --device at auto")
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield World(0, 1, torch.device(device))
        return
    place = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device("cpu")
    if device == "cuda":
        torch.cuda.set_device(place)
    store, rank, size = next(dist.rendezvous("env://"))
    # torchrun keeps the store when it restarts processes, and in it the addresses of those that were killed
    store = dist.PrefixStore(f"start {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group("nccl" if device == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    try:
        yield World(dist.get_rank(), dist.get_world_size(), place)
    finally:
        dist.destroy_process_group()
