"""Feature maps and kernels of convolutions."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from export.internals.graph import FAR, Graph
from modelrepo.internals import Axis
from training.models.cnn.parts import NormActivate

MOST = 24  # convolutions: of more, as many evenly spread ones, the first and last among them
LONGEST_SIDE = 64  # pixels; larger maps are averaged down
MAP_NUMBERS = 32_768  # of one convolution and instance: as many channels as fit
KERNEL_NUMBERS = 8_192  # of one convolution; of the first, as many filters as fit

PICTURE: tuple[Axis, ...] = ("height", "width")
SEQUENCE: tuple[Axis, ...] = ("step",)


def show_convolutions(graph: Graph, longest: int | None) -> None:
    """Show feature maps and kernels. `longest` is the most steps a sequence has, None for pictures."""
    nodes = graph.nodes("Conv")
    strides: dict[ir.Value, int] = {}
    for number in sorted(set(np.linspace(0, len(nodes) - 1, min(MOST, len(nodes))).round().astype(int).tolist())):
        maps = _activated(graph, nodes[number])
        if longest is None:
            _show_maps(graph, number, maps)
        else:
            _show_maps_of_sequence(graph, number, maps, _stride(maps, strides), longest)
        _show_kernels(graph, number, nodes[number], PICTURE if longest is None else SEQUENCE)


def _activated(graph: Graph, node: ir.Node) -> ir.Value:
    """A convolution's output after the norm and activation that it alone goes into; its own where it goes anywhere else."""
    value = node.outputs[0]
    following = {graph.enclosing(user, NormActivate) for user in value.consumers()}
    (path,) = following if len(following) == 1 else (None,)
    activated = None if path is None else graph.result(path)
    return value if activated is None else activated


def _show_maps(graph: Graph, number: int, maps: ir.Value) -> None:
    _, channels, height, width = _sizes(maps)
    said = []
    factor = math.ceil(max(height, width) / LONGEST_SIDE)
    if factor > 1:
        maps = graph.op.AveragePool(maps, kernel_shape=[factor, factor], strides=[factor, factor])
        height, width = height // factor, width // factor
        said.append(f"each pixel the mean of {factor}x{factor}")
    kept = min(channels, max(1, MAP_NUMBERS // (height * width)))
    if kept < channels:
        maps = graph.op.Slice(maps, [0], [kept], [1])
        said.append(f"the first {kept} of {channels} channels")
    axes: dict[Axis, int | None] = {"instance": None, "channel": kept, "height": height, "width": width}
    graph.show(maps, f"conv{number + 1}", "feature_maps", number, axes, description="; ".join(said))


def _show_maps_of_sequence(graph: Graph, number: int, maps: ir.Value, stride: int, longest: int) -> None:
    channels = _sizes(maps)[1]
    kept = min(channels, max(1, MAP_NUMBERS // longest))
    said = []
    if kept < channels:
        maps = graph.op.Slice(maps, [0], [kept], [1])
        said.append(f"the first {kept} of {channels} channels")
    mask = graph.mask
    if stride > 1:
        mask = graph.op.Slice(mask, [0], [FAR], [1], [stride])
        said.append(f"one step for every {stride} of the sequence")
    maps = graph.masked(maps, mask, before=1)
    axes: dict[Axis, int | None] = {"instance": None, "channel": kept, "step": None}
    graph.show(maps, f"conv{number + 1}", "feature_maps", number, axes, description="; ".join(said))


def _show_kernels(graph: Graph, number: int, node: ir.Node, along: tuple[Axis, ...]) -> None:
    weights = node.inputs[1]
    assert weights is not None
    filters, channels, *sides = _sizes(weights)
    kept = min(filters, max(1, KERNEL_NUMBERS // (channels * math.prod(sides))))
    if kept < filters and number:
        return
    said = ""
    if kept < filters:
        weights = graph.op.Slice(weights, [0], [kept], [0])
        said = f"the first {kept} of {filters} filters"
    axes: dict[Axis, int | None] = {"filter": kept, "channel": channels, **dict(zip(along, sides, strict=True))}
    graph.show(weights, f"conv{number + 1}.kernels", "kernels", number, axes, description=said)


def _stride(value: ir.Value, known: dict[ir.Value, int]) -> int:
    """How many steps of the input one step of `value` stands for."""
    if value not in known:
        node = value.producer()
        before = max((_stride(each, known) for each in node.inputs if each is not None), default=1) if node else 1
        own = node.attributes.get("strides") if node else None
        known[value] = before * (own.as_ints()[0] if own is not None else 1)
    return known[value]


def _sizes(value: ir.Value) -> list[int]:
    """Of all axes; 0 for one that is dynamic."""
    assert value.shape is not None  # inferred when the graph was read
    return [size if isinstance(size, int) else 0 for size in value.shape]
