"""What a model would answer if its sequence ended at each step.

That takes one pass where a position sees only those before it: in a network that reads left to right, and in a causal Transformer.
The head is applied to what the model pools up to each step. Of other models nothing is shown: each step would be a pass of its own.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from export.internals.graph import Graph
from modelrepo.internals import Axis
from modelrepo.tasks import Binary, Multiclass, Regression, Task
from training.models import Model
from training.models.layers import Head
from training.models.lstm import LSTM
from training.models.transformer import Transformer


def show_outputs_by_step(graph: Graph, model: Model) -> None:
    """Show probabilities or values after each step, where the model's own answer is the last of these."""
    match model:
        case LSTM() if not model.config.bidirectional:
            states = graph.result(f"layers.{model.config.layers - 1}.rightwards")
        case Transformer() if model.config.causal:
            states = graph.result("norm") or graph.result(f"blocks.{model.config.layers - 1}")  # post-norm has none at the end
        case _:
            return
    if graph.mask is None:  # the patches of a picture
        return
    assert states is not None
    answers = _answers(graph, _pooled(graph.op, states, model.config.pooling), model.head)
    axis: Axis = "target" if isinstance(model.task, Regression) else "label"
    names = model.task.targets if isinstance(model.task, Regression) else model.task.labels
    predicted = graph.masked(_predicted(graph.op, answers, model.task), graph.mask, after=1)
    axes: dict[Axis, int | None] = {"instance": None, "step": None, axis: len(names)}
    graph.show(predicted, "outputs_by_step", "outputs_by_step", None, axes, labels={axis: names})


def _pooled(op: Any, states: ir.Value, pooling: str) -> ir.Value:
    """What the model would have pooled up to each step, from [N, T, D] to as many."""
    if pooling == "max":
        return _largest(op, states)
    if pooling == "mean":
        count = op.Range(1, op.Add(op.Squeeze(op.Shape(states, start=1, end=2), [0]), 1), 1)
        states = op.Div(op.CumSum(states, 1), op.Unsqueeze(op.Cast(count, to=ir.DataType.FLOAT), [1]))
    return states


def _largest(op: Any, states: ir.Value) -> ir.Value:
    """The largest of each feature up to each step."""
    inputs = [ir.val(name, ir.DataType.FLOAT, [None, None]) for name in ("before", "state")]

    def step(op: Any, before: ir.Value, state: ir.Value) -> tuple[ir.Value, ir.Value]:
        now = op.Max(before, state)
        return now, op.Identity(now)

    body = op.builder.subgraph(step, inputs, [ir.val("now", ir.DataType.FLOAT), ir.val("shown", ir.DataType.FLOAT)])
    first = op.Squeeze(op.Slice(states, [0], [1], [1]), [1])
    largest: ir.Value
    _, largest = op.Scan(first, states, body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], _outputs=2)
    return largest


def _answers(graph: Graph, pooled: ir.Value, head: Head) -> ir.Value:
    """The head's own nodes over again, on every step: [N, T, D] -> [N, T, outputs]."""
    op, nodes = graph.op, graph.within("head")
    replaced = {nodes[0].inputs[0]: op.Reshape(pooled, [-1, head.linear.in_features])}  # the head takes rows
    for node in nodes:
        inputs = [replaced.get(value, value) for value in node.inputs]
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        replaced[node.outputs[0]] = getattr(op, node.op_type)(*inputs, **attributes)
    answers: ir.Value = op.Reshape(
        replaced[nodes[-1].outputs[0]], op.Concat(op.Shape(pooled, start=0, end=2), [head.linear.out_features], axis=0)
    )
    return answers


def _predicted(op: Any, answers: ir.Value, task: Task) -> ir.Value:
    """Values as they are; logits as probabilities, of both labels where there are two."""
    if isinstance(task, Regression):
        return answers
    chances = op.Div(answers, task.temperature)
    chances = op.Softmax(chances, axis=2) if isinstance(task, Multiclass) else op.Sigmoid(chances)
    if isinstance(task, Binary):
        chances = op.Concat(op.Sub(1.0, chances), chances, axis=2)
    shown: ir.Value = chances
    return shown
