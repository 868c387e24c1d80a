"""What a model would answer if its sequence ended at each step.

That is one pass for a model whose positions see only those before them: one that reads left to right, or a causal Transformer. Its head
is applied to what it pools up to each step. Of other models each step is another sequence, and nothing is shown.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir

from export.internals.graph import Graph
from modelrepo.internals import Axis
from modelrepo.tasks import Binary, Multiclass, Regression, Task
from training.models import LSTM, Model, Transformer


def show_outputs_by_step(graph: Graph, model: Model) -> None:
    """Show probabilities or values after each step, where the model's own answer is the last of these."""
    states = _states(graph, model)
    if states is None or graph.mask is None:
        return
    answers = _predicted(graph.op, _answers(graph, _pooled(graph.op, states, model.config.pooling), model), model.task)
    if isinstance(model.task, Regression):
        axis: Axis = "target"
        names = model.task.targets
    else:
        axis, names = "label", model.task.labels
    axes: dict[Axis, int | None] = {"instance": None, "step": None, axis: len(names)}
    graph.show(graph.masked(answers, graph.mask, after=1), "outputs_by_step", "outputs_by_step", None, axes, labels={axis: names})


def _states(graph: Graph, model: Model) -> ir.Value | None:
    """What is pooled, [N, T, D]; None for a model in which a position sees those behind it."""
    match model:
        case LSTM() if not model.config.bidirectional:
            path = f"layers.{model.config.layers - 1}.rightwards"
        case Transformer() if model.config.causal:
            path = "norm"
        case _:
            return None
    return graph.result(path) or graph.result(f"blocks.{len(model.blocks) - 1}")  # the last norm may be none at all


def _pooled(op: Any, states: ir.Value, pooling: str) -> ir.Value:
    """What the model would have pooled up to each step: [N, T, D]."""
    if pooling == "last":
        return states
    if pooling == "max":
        return _largest(op, states)
    count = op.Range(1, op.Add(op.Squeeze(op.Shape(states, start=1, end=2), [0]), 1), 1)
    return op.Div(op.CumSum(states, 1), op.Unsqueeze(op.Cast(count, to=ir.DataType.FLOAT), [1]))


def _largest(op: Any, states: ir.Value) -> ir.Value:
    """The largest of each feature up to each step."""
    inputs = [ir.val(name, ir.DataType.FLOAT, [None, None]) for name in ("before", "state")]

    def step(op: Any, before: ir.Value, state: ir.Value) -> tuple[ir.Value, ir.Value]:
        now = op.Max(before, state)
        return now, op.Identity(now)

    body = op.builder.subgraph(step, inputs, [ir.val("now", ir.DataType.FLOAT), ir.val("shown", ir.DataType.FLOAT)])
    first = op.Squeeze(op.Slice(states, [0], [1], [1]), [1])
    return op.Scan(first, states, body=body, num_scan_inputs=1, scan_input_axes=[1], scan_output_axes=[1], _outputs=2)[1]


def _answers(graph: Graph, pooled: ir.Value, model: Model) -> ir.Value:
    """The head's own nodes over again, on every step: [N, T, D] -> [N, T, outputs]."""
    op, nodes = graph.op, graph.within("head")
    replaced = {nodes[0].inputs[0]: op.Reshape(pooled, [-1, model.head.linear.in_features])}  # the head takes rows
    for node in nodes:
        inputs = [replaced.get(value, value) for value in node.inputs]
        replaced[node.outputs[0]] = getattr(op, node.op_type)(
            *inputs, **{name: attr.value for name, attr in node.attributes.items()}
        )
    shape = op.Concat(op.Shape(pooled, start=0, end=2), [model.task.outputs], axis=0)
    return op.Reshape(replaced[nodes[-1].outputs[0]], shape)


def _predicted(op: Any, answers: ir.Value, task: Task) -> ir.Value:
    """Values as they are; logits as probabilities, of both labels where there are two."""
    if isinstance(task, Regression):
        return answers
    logits = op.Div(answers, task.temperature)
    if isinstance(task, Multiclass):
        return op.Softmax(logits, axis=2)
    chances = op.Sigmoid(logits)
    return op.Concat(op.Sub(1.0, chances), chances, axis=2) if isinstance(task, Binary) else chances
