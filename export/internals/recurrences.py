"""Gates and states of recurrent layers, at every step.

ONNX's recurrent operators answer with hidden states alone. Given all of these, each step's gates follow from its input and the
hidden state before it, for all steps at once; what an LSTM's cells hold is a loop over steps with one multiplication in it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import onnx_ir as ir

from export.internals.graph import Graph
from modelrepo.internals import Axis
from training.models.lstm import LSTM

LSTM_GATES = ("input", "forget", "cell", "output")
GRU_GATES = ("update", "reset", "candidate")


class Inside(NamedTuple):
    """Of one layer in one direction: states by name, each [N, T, H]; gates [N, T, gates, H] and their names."""

    states: dict[str, ir.Value]
    gates: ir.Value | None = None
    names: tuple[str, ...] = ()


def show_recurrences(graph: Graph, model: LSTM) -> None:
    """Show what every layer and direction has at each step; one that reads leftwards, at the steps it read."""
    assert graph.mask is not None  # sequences have one
    units = model.config.hidden
    for number, layer in enumerate(model.layers):
        both = layer.leftwards is not None
        for direction in ("rightwards", "leftwards") if both else ("rightwards",):
            name = f"{model.config.cell}{number + 1}" + (f".{direction}" if both else "")
            inside = _inside(graph, f"layers.{number}.{direction}", units)
            index = _reversed(graph.op, graph.mask) if direction == "leftwards" else None
            if inside.gates is not None:
                gates = graph.masked(_ordered(graph.op, inside.gates, index), graph.mask, after=2)
                axes: dict[Axis, int | None] = {"instance": None, "step": None, "gate": len(inside.names), "unit": units}
                graph.show(gates, f"{name}.gates", "gates", number, axes, labels={"gate": inside.names})
            for state, value in inside.states.items():
                states = graph.masked(_ordered(graph.op, value, index), graph.mask, after=1)
                graph.show(states, f"{name}.{state}", "states", number, {"instance": None, "step": None, "unit": units})


def _inside(graph: Graph, path: str, units: int) -> Inside:
    """Of what lies at a path; what is neither LSTM, GRU nor RNN shows what it answers."""
    node = next((node for node in graph.within(path) if node.op_type in ("LSTM", "GRU", "RNN")), None)
    if node is None:
        answer = graph.result(path)
        assert answer is not None
        return Inside({"output": answer})
    if node.op_type == "LSTM":
        return _lstm(graph.op, node, units)
    if node.op_type == "GRU":
        return _gru(graph.op, node, units)
    return Inside({"hidden": _hidden(graph.op, node)})


def _lstm(op: Any, node: ir.Node, units: int) -> Inside:
    hidden = _hidden(op, node)
    from_input, from_state = _weighted(op, node, hidden, 4, units)
    i, o, f, g = (op.Add(*pair) for pair in zip(from_input, from_state, strict=True))  # in ONNX's order, each [N, T, 1, H]
    i, f, g, o = op.Sigmoid(i), op.Sigmoid(f), op.Tanh(g), op.Sigmoid(o)
    kept, added = op.Squeeze(f, [2]), op.Squeeze(op.Mul(i, g), [2])
    cell = _accumulated(op, op.Squeeze(node.inputs[6], [0]), kept, added)
    return Inside({"hidden": hidden, "cell": cell}, op.Concat(i, f, g, o, axis=2), LSTM_GATES)


def _gru(op: Any, node: ir.Node, units: int) -> Inside:
    hidden = _hidden(op, node)
    from_input, from_state = _weighted(op, node, hidden, 3, units)
    update, reset = (op.Sigmoid(op.Add(from_input[gate], from_state[gate])) for gate in (0, 1))
    candidate = op.Tanh(op.Add(from_input[2], op.Mul(reset, from_state[2])))  # linear_before_reset, as PyTorch has it
    return Inside({"hidden": hidden}, op.Concat(update, reset, candidate, axis=2), GRU_GATES)


def _hidden(op: Any, node: ir.Node) -> ir.Value:
    """All hidden states: [T, 1, N, H] -> [N, T, H]."""
    found: ir.Value = op.Transpose(op.Squeeze(node.outputs[0], [1]), perm=[1, 0, 2])
    return found


def _weighted(op: Any, node: ir.Node, hidden: ir.Value, gates: int, units: int) -> tuple[list[ir.Value], list[ir.Value]]:
    """What each gate sums up of the step's input, and of the hidden state before it: each [N, T, 1, H], with its bias."""
    x, into, within, bias, _, first = node.inputs[:6]
    batch_first = [1, 0, 2]
    before = op.Concat(op.Transpose(first, perm=batch_first), op.Slice(hidden, [0], [-1], [1]), axis=1)  # [N, T, H]
    biases = op.Split(op.Squeeze(bias, [0]), axis=0, num_outputs=2, _outputs=2)
    sums = []
    for value, weights, own in ((op.Transpose(x, perm=batch_first), into, biases[0]), (before, within, biases[1])):
        product = op.Add(op.MatMul(value, op.Transpose(op.Squeeze(weights, [0]), perm=[1, 0])), own)  # [N, T, gates * H]
        apart = op.Reshape(product, [0, 0, gates, units])
        sums.append(list(op.Split(apart, axis=2, num_outputs=gates, _outputs=gates)))
    return sums[0], sums[1]


def _accumulated(op: Any, first: ir.Value, kept: ir.Value, added: ir.Value) -> ir.Value:
    """c[t] = kept[t] c[t - 1] + added[t], from `first` [N, H] on: [N, T, H]."""
    inputs = [ir.val(name, ir.DataType.FLOAT, [None, None]) for name in ("before", "kept", "added")]

    def step(op: Any, before: ir.Value, kept: ir.Value, added: ir.Value) -> tuple[ir.Value, ir.Value]:
        now = op.Add(op.Mul(before, kept), added)
        return now, op.Identity(now)

    body = op.builder.subgraph(step, inputs, [ir.val("now", ir.DataType.FLOAT), ir.val("shown", ir.DataType.FLOAT)])
    along = {"num_scan_inputs": 2, "scan_input_axes": [1, 1], "scan_output_axes": [1]}
    states: ir.Value
    _, states = op.Scan(first, kept, added, body=body, **along, _outputs=2)
    return states


def _reversed(op: Any, mask: ir.Value) -> ir.Value:
    """Where each step was read by a layer that reads leftwards, [N, T]: as `training.models.sequences.reverse` has it."""
    position = op.Range(0, op.Squeeze(op.Shape(mask, start=1, end=2), [0]), 1)
    mirrored = op.Sub(op.Sub(op.ReduceSum(op.Cast(mask, to=ir.DataType.INT64), [1]), 1), position)
    index: ir.Value = op.Where(mask, mirrored, position)
    return index


def _ordered(op: Any, value: ir.Value, index: ir.Value | None) -> ir.Value:
    """[N, T, …] with its steps taken from `index` [N, T]."""
    if index is not None:
        value = op.GatherND(value, op.Unsqueeze(index, [2]), batch_dims=1)
    return value
