"""Recurrent networks over numeric or token sequences of any length: LSTM, GRU, the plain RNN, and a linear state-space layer.

- numbers are standardised by the network itself, per channel; tokens are embedded
- layers on top of each other, each reading left to right or, bidirectional, both ways side by side
- padding lies on the right, where reading left to right comes last; for reading right to left, each row is reversed within
  its own mask (packed sequences would not survive the export to ONNX); so padding cannot change an answer
- one vector per row, pooled under the mask, gives the answer
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from modelrepo.tasks import Task
from modelrepo.tensors import ShapeRange, TensorSpec
from training.data.dataset import Series, Tokens
from training.models import checks
from training.models.base import Model
from training.models.layers import Head, Init, Standardize, initialise
from training.models.sequences import Embedding, Pooling, last_real, pool, reverse, sequence_inputs
from training.models.ssm import S4D

Cell = Literal["lstm", "gru", "rnn", "ssm"]

_RECURRENCES = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}


@dataclass(frozen=True, kw_only=True)
class LSTMConfig:
    """Shape of a recurrent network."""

    cell: Cell = "lstm"
    """Long short-term memory (Hochreiter & Schmidhuber 1997), gated recurrent unit (Cho et al. 2014), tanh network (Elman
    1990), or diagonal state space (S4D, Gu et al. 2022)."""
    hidden: int = 64
    """Units of each layer and direction; also the width of token embeddings."""
    layers: int = 1
    """Layers on top of each other."""
    bidirectional: bool = False
    """Read each sequence from both ends."""
    pooling: Pooling = "last"
    """What of the last layer is answered from: the state after the last step read, or mean or maximum over all steps."""
    dropout: float = 0.0
    """Share of units zeroed in training, between layers and before the answer."""
    state: int = 16
    """For ssm: complex modes of each unit."""
    init: Init = "auto"
    """How weights into units are drawn: auto is xavier. Recurrent weights are orthogonal, but for zeros."""

    def __post_init__(self) -> None:
        checks.one_of("cell", self.cell, Cell)
        checks.one_of("pooling", self.pooling, Pooling)
        checks.one_of("init", self.init, Init)
        checks.share("dropout", self.dropout)
        for field in ("hidden", "layers", "state"):
            checks.at_least(field, getattr(self, field), 1)


class Recurrence(nn.Module):
    """One layer of PyTorch's LSTM, GRU or RNN, read left to right: [N, T, D] -> [N, T, H]."""

    def __init__(self, cell: Literal["lstm", "gru", "rnn"], width: int, hidden: int) -> None:
        super().__init__()
        self.cell = _RECURRENCES[cell](width, hidden, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0]

    @torch.no_grad()
    def initialise(self, scheme: Init) -> None:
        """Draw the weights of each gate by itself; biases are 0, but 1 for an LSTM's forget gate (Jozefowicz et al. 2015)."""
        cell = self.cell
        for parameter in cell.parameters():
            nn.init.zeros_(parameter)
        if scheme == "zeros":
            return
        gates = len(cell.weight_hh_l0) // cell.hidden_size
        for into, within in zip(cell.weight_ih_l0.chunk(gates), cell.weight_hh_l0.chunk(gates), strict=True):
            if scheme == "he":
                nn.init.kaiming_normal_(into, nonlinearity="relu")
            else:
                nn.init.xavier_uniform_(into)
            nn.init.orthogonal_(within)  # keeps the length of the state, and of the gradient, from step to step
        if isinstance(cell, nn.LSTM):
            _, forget, _, _ = cell.bias_ih_l0.chunk(gates)
            nn.init.ones_(forget)


class Layer(nn.Module):
    """One direction, or both side by side: [N, T, D] -> [N, T, H] or [N, T, 2H]."""

    def __init__(self, config: LSTMConfig, width: int) -> None:
        super().__init__()

        def reader() -> nn.Module:
            return (
                S4D(width, config.hidden, config.state) if config.cell == "ssm" else Recurrence(config.cell, width, config.hidden)
            )

        self.rightwards = reader()
        self.leftwards = reader() if config.bidirectional else None

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        states = self.rightwards(x)
        if self.leftwards is None:
            return states
        return torch.cat([states, reverse(self.leftwards(reverse(x, mask)), mask)], dim=2)


class LSTM(Model):
    """sequence [N, T, C] or tokens [N, T], and mask [N, T] -> [N, outputs]."""

    family = "lstm"
    kinds = (Series, Tokens)

    def __init__(self, config: LSTMConfig, data: Series | Tokens, task: Task) -> None:
        super().__init__(task)
        self.config = config
        self.data = data
        if isinstance(data, Tokens):
            self.embed = Embedding(data.vocabulary, config.hidden)
            width = config.hidden
        else:
            self.embed = Standardize(data)
            width = len(data.mean)
        self.layers = nn.ModuleList()
        for _ in range(config.layers):
            self.layers.append(Layer(config, width))
            width = config.hidden * (2 if config.bidirectional else 1)
        self.dropout = nn.Dropout(config.dropout)
        self.head = Head(width, task, config.dropout)
        initialise(self, config.init, "tanh")
        for module in self.modules():
            if isinstance(module, Recurrence):
                module.initialise(config.init)

    def inputs(self, batch: ShapeRange) -> tuple[TensorSpec, ...]:
        return sequence_inputs(self.data, batch)

    def forward(self, *, sequence: Tensor | None = None, tokens: Tensor | None = None, mask: Tensor) -> Tensor:
        x = self.embed(sequence if tokens is None else tokens)  # [N, T, D]
        x = x.masked_fill(~mask.unsqueeze(2), 0)  # whatever lies in the padding
        for number, layer in enumerate(self.layers):
            x = layer(self.dropout(x) if number else x, mask)  # [N, T, H] or [N, T, 2H]
        return self.head(self._pooled(x, mask))  # [N, outputs]

    def _pooled(self, x: Tensor, mask: Tensor) -> Tensor:
        """One vector per row: [N, T, D] -> [N, D]. Leftwards, the last step read is the first."""
        if self.config.pooling == "last" and self.config.bidirectional:
            rightwards, leftwards = x.chunk(2, dim=2)
            return torch.cat([last_real(rightwards, mask), leftwards[:, 0]], dim=1)
        return pool(x, mask, self.config.pooling)
