"""What flows between the nodes of a graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from modelrepo.tensors import Array, Tensors

INFINITE = 1e38  # what masks add stands for infinity, and is larger


class Intermediates:
    """A graph on the CPU with nothing fused, which answers with the output of every node."""

    def __init__(self, path: Path) -> None:
        self.graph = onnx.load(path)
        open_graph = onnx.ModelProto()
        open_graph.CopyFrom(self.graph)
        declared = {value.name for value in open_graph.graph.output}
        self._names = [name for node in open_graph.graph.node if not _to_bf16(node) for name in node.output if name]
        open_graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._names if name not in declared)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 3
        self._session = ort.InferenceSession(open_graph.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, rows: Tensors) -> dict[str, Array]:
        """Every node's outputs by the name of their tensor."""
        return {name: np.asarray(value) for name, value in zip(self._names, self._session.run(self._names, rows), strict=True)}


def _to_bf16(node: onnx.NodeProto) -> bool:
    """Whether it answers in bf16, which NumPy has no name for."""
    return node.op_type == "Cast" and any(a.name == "to" and a.i == onnx.TensorProto.BFLOAT16 for a in node.attribute)
