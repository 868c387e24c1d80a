"""Graphs of a few nodes, small enough to know every number in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from modelrepo.tensors import Array


def write_chain(path: Path, *steps: tuple[str, Array | None], width: int = 4) -> Path:
    """x [batch, width] through one operator after another, each with a constant as its second input or none; returns `path`."""
    nodes, constants, name = [], [], "x"
    for index, (operator, constant) in enumerate(steps):
        inputs = [name]
        if constant is not None:
            constants.append(numpy_helper.from_array(np.asarray(constant, np.float32), f"c{index}"))
            inputs.append(f"c{index}")
        name = "y" if index == len(steps) - 1 else f"t{index}"
        nodes.append(helper.make_node(operator, inputs, [name], name=f"node{index}"))
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", None])],
        constants,
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return path
