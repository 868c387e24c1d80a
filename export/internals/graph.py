"""The fp32 graph as something to add outputs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from onnxscript import GraphBuilder
from torch import nn

from modelrepo.internals import Axis, Internal, Kind

FAR = 2**62  # the end of any axis
DYNAMIC = {"instance": "batch", "step": "length"}  # what the signature calls these axes


class Graph:
    """A graph, the modules its nodes came from, and the outputs it was given.

    `op` makes nodes: `op.MatMul(x, y)` is a new value of the graph.
    """

    def __init__(self, path: Path, model: nn.Module, modules: Mapping[str, str]) -> None:
        """`modules` are the paths of modules by the names of nodes, as `to_onnx` returns them."""
        self._model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load(path)))
        self._graph = self._model.graph
        self._original = list(self._graph)
        self._torch = model
        self._modules = modules
        self.op: Any = GraphBuilder(self._graph).op
        inputs = {value.name: value for value in self._graph.inputs}
        self.mask: ir.Value | None = inputs.get("mask")
        self.internals: list[Internal] = []

    def nodes(self, *operators: str) -> list[ir.Node]:
        """The model's own nodes of these operators, in the order they run."""
        return [node for node in self._original if node.op_type in operators]

    def path(self, node: ir.Node) -> str:
        """Of the module that a node came from, empty where nobody knows."""
        return self._modules.get(node.name or "", "")

    def within(self, path: str) -> list[ir.Node]:
        """The nodes of a module and of those in it, in the order they run."""
        return [node for node in self._original if self.path(node) == path or self.path(node).startswith(path + ".")]

    def result(self, path: str) -> ir.Value | None:
        """What a module returns; None where it has no nodes."""
        nodes = self.within(path)
        return nodes[-1].outputs[0] if nodes else None

    def enclosing(self, node: ir.Node, kind: type[nn.Module]) -> str | None:
        """The path of the innermost module of a kind around a node."""
        path = self.path(node)
        while path:
            if isinstance(self._torch.get_submodule(path), kind):
                return path
            path = path.rpartition(".")[0]
        return None

    def masked(self, value: ir.Value, mask: ir.Value | None, before: int = 0, after: int = 0) -> ir.Value:
        """`value` with 0 wherever `mask` [N, T] is false; it has `before` axes between N and T, and `after` of them behind."""
        if mask is None:
            return value
        axes = [*range(1, 1 + before), *range(2 + before, 2 + before + after)]
        masked: ir.Value = self.op.Where(self.op.Unsqueeze(mask, axes) if axes else mask, value, 0.0)
        return masked

    def show(
        self,
        value: ir.Value,
        name: str,
        kind: Kind,
        layer: int | None,
        axes: dict[Axis, int | None],
        labels: dict[Axis, Sequence[str]] | None = None,
        description: str = "",
    ) -> None:
        """Make a value an output. `axes` have their sizes, None where these depend on the request."""
        shown = self.op.Identity(value)
        shown.name = name
        shown.type = ir.TensorType(ir.DataType.FLOAT)
        shown.shape = ir.Shape([size or DYNAMIC.get(axis, axis) for axis, size in axes.items()])
        self._graph.outputs.append(shown)
        self.internals.append(
            Internal(
                name=name,
                kind=kind,
                layer=layer,
                axes=tuple(axes),
                shape=tuple(axes.values()),
                labels={axis: tuple(names) for axis, names in (labels or {}).items()},
                description=description,
            )
        )

    def save(self, path: Path) -> None:
        """Write the graph with its new outputs. Raises onnx.checker.ValidationError or onnx.shape_inference.InferenceError."""
        proto = ir.to_proto(self._model)
        del proto.graph.value_info[:]
        for node in _all_nodes(proto.graph):
            del node.metadata_props[:]
        onnx.checker.check_model(proto, full_check=True)
        onnx.save(proto, path)


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Those of loops' bodies too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)
