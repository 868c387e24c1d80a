"""Sixteen bits in the graph: fp16 and bf16 as strongly typed ONNX files (NVIDIA: TensorRT 11 has no other kind).

What adds up many numbers or takes powers stays in fp32, as it does under torch.autocast, and so does every node in which a
number came near the end of fp16's range on calibration rows.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, numpy_helper, version_converter
from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel

from export.intermediates import INFINITE, Intermediates
from export.quiet import quietly
from modelrepo.tensors import Array, Tensors

SIXTEEN_BITS = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
BF16_OPSET = 22  # the first whose convolutions and recurrent layers know bfloat16
IN_FP32 = (
    *DEFAULT_OP_BLOCK_LIST,
    "Exp",
    "LayerNormalization",
    "LogSoftmax",
    "Pow",
    "ReduceMean",
    "ReduceSum",
    "ReduceSumSquare",
    "RMSNormalization",
    "Reciprocal",
    "Softmax",
    "Sqrt",
)
LIMIT = float(np.finfo(np.float16).max) / 2  # other rows than these may be larger


def to_fp16(source: Path, batches: list[Tensors], path: Path) -> tuple[str, ...]:
    """Write the fp32 graph `source` in fp16, with fp32 inputs and outputs, to `path`; returns the nodes kept in fp32.

    `batches` are of calibration rows. Raises ConversionError where the converter fails.
    """
    proto = onnx.load(source)
    near = overflowing(source, batches)
    onnx.save(_converted(proto, near), path)
    return near


def to_bf16(source: Path, path: Path) -> None:
    """Write the fp32 graph `source` in bf16, with fp32 inputs and outputs, to `path`. Raises ConversionError."""
    with quietly(f"converting to opset {BF16_OPSET}"):
        proto = version_converter.convert_version(onnx.load(source), BF16_OPSET)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    converted = _converted(proto, ())
    for tensor in converted.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:  # from the fp32 value: it would be rounded twice, and lose its range
            values = numpy_helper.to_array(weights[tensor.name]) if tensor.name in weights else numpy_helper.to_array(tensor)
            tensor.CopyFrom(_bf16(values, tensor.name))
    for node in converted.graph.node:
        for attribute in node.attribute:
            if attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
            if attribute.type == onnx.AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT16:
                attribute.t.CopyFrom(_bf16(numpy_helper.to_array(attribute.t), attribute.t.name))
    onnx.save(converted, path)


def overflowing(source: Path, batches: list[Tensors]) -> tuple[str, ...]:
    """Nodes of the fp32 graph that read or write a number which fp16 has no room for, or hardly, in file order."""
    probe = Intermediates(source)
    large = {tensor.name for tensor in probe.graph.graph.initializer if _is_large(numpy_helper.to_array(tensor))}
    for rows in batches:
        large |= {name for name, array in {**rows, **probe.run(rows)}.items() if _is_large(array)}
    return tuple(node.name for node in probe.graph.graph.node if large & {*node.input, *node.output})


def _is_large(array: Array) -> bool:
    if array.dtype != np.float32:
        return False
    return float(np.max(np.abs(array), initial=0.0, where=np.abs(array) < INFINITE)) > LIMIT


def _converted(proto: onnx.ModelProto, kept: tuple[str, ...]) -> onnx.ModelProto:
    with quietly("converting to 16 bits"):
        converted: onnx.ModelProto = convert_float_to_float16(
            proto, keep_io_types=True, op_block_list=list(IN_FP32), node_block_list=list(kept)
        )
    _keep_between(converted.graph)
    sorter = OnnxModel(converted)  # the converter puts its casts at the end, and ONNX wants an order
    sorter.topological_sort()
    sorted_proto: onnx.ModelProto = sorter.model
    return sorted_proto


def _keep_between(graph: onnx.GraphProto) -> None:
    """Let what flows from one node in fp32 to another stay fp32: the converter takes it to fp16 and back, where it overflows.

    Where several nodes in fp32 read one tensor it also writes the same cast for each, which is no valid graph.
    """
    casts = {node.output[0]: node for node in graph.node if node.op_type == "Cast"}
    others = [node for node in graph.node if node.op_type != "Cast"]
    lowered = {name: node.input[0] for name, node in casts.items() if _to(node) == TensorProto.FLOAT16}
    for node in casts.values():
        if _to(node) == TensorProto.FLOAT and node.input[0] in lowered:
            node.input[0] = lowered[node.input[0]]
    read = {name for node in (*others, *casts.values()) for name in node.input} | {value.name for value in graph.output}
    kept = [node for name, node in casts.items() if name in read or name not in lowered]
    names = {lowered[name]: name for name in set(lowered) - read if lowered[name].endswith("_cast_to_fp16")}  # as it was before
    for node in (*others, *kept):
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    del graph.node[:], graph.value_info[:]
    graph.node.extend([*others, *kept])


def _to(cast: onnx.NodeProto) -> int:
    return next(int(attribute.i) for attribute in cast.attribute if attribute.name == "to")


def _bf16(values: np.ndarray, name: str) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(ml_dtypes.bfloat16), name)
