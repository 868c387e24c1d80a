"""Numbers of 16 and of 8 bits on a CPU that has no such kernels: an fp32 graph that rounds where the other one does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from export.quiet import quietly
from modelrepo.manifest import Precision

SIXTEEN_BITS = (TensorProto.FLOAT16, TensorProto.BFLOAT16)


EMULATED: tuple[Precision, ...] = ("fp16", "bf16", "fp8")


def emulated(path: Path, precision: Precision) -> onnx.ModelProto:
    """A graph that answers on any CPU what the one at `path`, of a precision in EMULATED, does on hardware that has it.

    Sums within a node are fp32, as tensor cores have them. Raises ConversionError where the graph's types do not fit together.
    """
    return _fp8(path) if precision == "fp8" else _sixteen_bits(path)


def _sixteen_bits(path: Path) -> onnx.ModelProto:
    """All in fp32, rounded after every node."""
    with quietly("inferring the types of a graph"):
        proto = onnx.shape_inference.infer_shapes(onnx.load(path), strict_mode=True)
    graph = proto.graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for index, name in enumerate(node.output):
            kind = types.get(name)
            if kind not in SIXTEEN_BITS:
                continue
            exact, rounded = f"{name}_exact", f"{name}_rounded"
            node.output[index] = exact
            nodes.append(helper.make_node("Cast", [exact], [rounded], name=f"{rounded}_cast", to=kind))
            nodes.append(helper.make_node("Cast", [rounded], [name], name=f"{name}_back", to=TensorProto.FLOAT))
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i in SIXTEEN_BITS:
                attribute.i = TensorProto.FLOAT
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type in SIXTEEN_BITS:
                attribute.t.CopyFrom(_fp32(attribute.t))
    for tensor in graph.initializer:
        if tensor.data_type in SIXTEEN_BITS:
            tensor.CopyFrom(_fp32(tensor))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return proto


def _fp8(path: Path) -> onnx.ModelProto:
    """Q/DQ (E4M3) as scaling and casts: ONNX Runtime takes such pairs for int8's, and fails."""
    proto = onnx.load(path)
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    sources = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            nodes.append(node)
            continue
        tensor, name = node.input[0], node.output[0]
        scale = numpy_helper.to_array(weights[node.input[1]])
        if scale.ndim:  # one for each channel of a weight
            shape = [1] * len(weights[sources.get(tensor, tensor)].dims)
            shape[next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)] = -1
            scale = scale.reshape(shape)
        graph.initializer.append(numpy_helper.from_array(scale, f"{name}_by"))
        if node.op_type == "DequantizeLinear":
            nodes.append(helper.make_node("Mul", [tensor, f"{name}_by"], [name]))
            continue
        nodes.append(helper.make_node("Div", [tensor, f"{name}_by"], [f"{name}_scaled"]))
        nodes.append(helper.make_node("Cast", [f"{name}_scaled"], [f"{name}_rounded"], to=TensorProto.FLOAT8E4M3FN))
        nodes.append(helper.make_node("Cast", [f"{name}_rounded"], [name], to=TensorProto.FLOAT))
    del graph.node[:], graph.value_info[:]
    graph.node.extend(nodes)
    return proto


def _fp32(tensor: onnx.TensorProto) -> onnx.TensorProto:
    return numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name)
