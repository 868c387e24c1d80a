"""The plain recurrent network's translation to ONNX, which torch.onnx lacks: it would unroll the steps of the example."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from onnxscript import opset20

op: Any = opset20  # its annotations are for graphs written as Python source


def rnn_tanh(
    x: Any,
    state: Any,
    weights: Sequence[Any],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Any, Any]:
    """aten::rnn_tanh.input as one ONNX RNN, for one layer and direction with biases and the batch first, as our family makes it.

    x [N, T, D] and state [1, N, H] give all states [N, T, H] and the last [1, N, H].
    """
    if not (has_biases and batch_first) or num_layers != 1 or bidirectional:
        raise NotImplementedError("only one layer and direction with biases, batch first, is translated")
    into, within, bias_into, bias_within = weights
    bias = op.Concat(bias_into, bias_within, axis=0)  # [2H]
    states, last = op.RNN(
        op.Transpose(x, perm=[1, 0, 2]),
        op.Unsqueeze(into, [0]),  # ONNX puts an axis for the directions in front
        op.Unsqueeze(within, [0]),
        op.Unsqueeze(bias, [0]),
        None,
        state,
        hidden_size=within.shape[0],
        activations=["Tanh"],  # the defaults, which TensorRT wants spelt out
        activation_alpha=[0.0],
        activation_beta=[0.0],
    )
    return op.Transpose(op.Squeeze(states, [1]), perm=[1, 0, 2]), last  # [T, 1, N, H] -> [T, N, H] -> [N, T, H]


TRANSLATIONS: dict[Callable[..., Any], Callable[..., Any]] = {torch.ops.aten.rnn_tanh.input: rnn_tanh}
