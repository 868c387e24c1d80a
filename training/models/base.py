"""What every family is: a network that knows its own signature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from modelrepo.tasks import Task
from modelrepo.tensors import DEFAULT_BATCH, ShapeRange, Signature, TensorSpec
from training.data.dataset import Kind


class Model(nn.Module, ABC):
    """A network that takes raw inputs by keyword, named as in its signature.

    It returns one tensor [N, task.outputs]: unnormalised logits for classification, for regression values in the data's
    own units.
    """

    family: ClassVar[str]
    kinds: ClassVar[tuple[type[Kind], ...]]  # what the family reads

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    @abstractmethod
    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        """The input specs: the only place where the family's input shapes are written."""

    @abstractmethod
    def forward(self, **inputs: Tensor) -> Tensor:
        """Raw inputs in, logits or values out."""

    def signature(self, batch: ShapeRange = DEFAULT_BATCH) -> Signature:
        """Shapes and dtypes of all inputs and outputs, with `batch` as the range of batch sizes."""
        output = TensorSpec(name=self.task.output, dtype="float32", shape=(batch, self.task.outputs))
        return Signature(inputs=self.inputs(batch), outputs=(output,))
