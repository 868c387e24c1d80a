"""Where each position of a Transformer looks."""

from __future__ import annotations

from export.internals.graph import Graph
from modelrepo.internals import Axis
from training.models.attention import Attention
from training.models.transformer import Patches, Transformer


def show_attention(graph: Graph, model: Transformer) -> None:
    """Show the shares of every block and head, 0 for positions in the padding. A vector in front (pooling cls) is position 0."""
    mask = graph.mask
    if mask is not None and model.front is not None:
        mask = graph.op.Concat(graph.op.Slice(mask, [0], [1], [1]), mask, axis=1)  # the first position is always real
    said = "position 0 is the vector in front" if model.front is not None else ""
    size = model.embed.count + (model.front is not None) if isinstance(model.embed, Patches) else None
    blocks = [node for node in graph.nodes("Softmax") if graph.enclosing(node, Attention)]
    for number, node in enumerate(blocks):
        weights = graph.masked(node.outputs[0], mask, before=1, after=1)  # [N, heads, T, T]
        axes: dict[Axis, int | None] = {"instance": None, "head": model.config.heads, "query": size, "key": size}
        graph.show(weights, f"attention{number + 1}", "attention", number, axes, description=said)
