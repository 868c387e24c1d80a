"""Long short-term memory (Hochreiter & Schmidhuber 1997) over numeric sequences of any length.

- standardises its input itself, per channel
- reads left to right and answers from the state at each row's last real position, so padding on the right, which comes
  after it, cannot change the answer
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange, TensorSpec
from training.data.dataset import Series
from training.models.base import Model
from training.models.layers import Standardize, last_real


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Shape of a recurrent network."""

    hidden: int = 64
    """Units of the state."""
    layers: int = 1
    """LSTM layers on top of each other."""


class LSTM(Model):
    """sequence [N, T, C] and mask [N, T] -> [N, outputs]."""

    family = "lstm"
    kind = Series

    def __init__(self, config: LSTMConfig, data: Series, task: Task) -> None:
        super().__init__(task)
        self.channels = len(data.mean)
        self.length = data.length
        self.standardize = Standardize(data)
        self.lstm = nn.LSTM(self.channels, config.hidden, config.layers, batch_first=True)
        self.head = nn.Linear(config.hidden, task.outputs)

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        return (
            TensorSpec(name="sequence", dtype="float32", shape=(batch, self.length, self.channels), description="raw steps"),
            TensorSpec(name="mask", dtype="bool", shape=(batch, self.length), role="mask", description="true where a step is real"),
        )

    def forward(self, sequence: Tensor, mask: Tensor) -> Tensor:
        states, _ = self.lstm(self.standardize(sequence))  # [N, T, H]
        return self.head(last_real(states, mask))  # [N, H] -> [N, outputs]
