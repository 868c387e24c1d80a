"""PyTorch to ONNX, fp32, with the batch and length axes left dynamic."""

from __future__ import annotations

import ast
import logging
import re
import traceback
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch.export import Dim

from export import attention, rnn
from export.errors import ConversionError
from modelrepo.tensors import ShapeRange, Signature, Tensors, TensorSpec
from training.models import Model

OPSET = 20  # from 23 on, attention becomes one node that ONNX Runtime's CPU and TensorRT's fp32 do not take
SCOPES = "pkg.torch.onnx.name_scopes"  # where the exporter notes, of each node, the modules it came from
SORTING = {"Concat", "Slice", "Unsqueeze"}  # how weights are brought into the order that ONNX wants


def to_onnx(model: Model, signature: Signature, example: Tensors, path: Path) -> dict[str, str]:
    """Write `model` to `path` as one self-contained file whose dynamic axes are named `batch` and `length`.

    `example` holds a few rows of every input; their sizes do not matter to the result. Returns the module that each node came
    from, by the node's name, as `model.get_submodule` takes it. Raises ConversionError where the
    model cannot be expressed, or where an axis that must stay dynamic came out fixed.
    """
    # Named dims freeze the time axis of every LSTM after the first in a process (torch 2.13); automatic ones do not, but
    # come with invented names, which `_name_axes` replaces.
    dynamic = {
        spec.name: {axis: Dim.AUTO for axis, dim in enumerate(spec.shape) if isinstance(dim, ShapeRange)}
        for spec in signature.inputs
    }
    arguments = {name: torch.from_numpy(array) for name, array in example.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about torch's own internals
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                model,
                kwargs=arguments,
                input_names=[spec.name for spec in signature.inputs],
                output_names=[spec.name for spec in signature.outputs],
                opset_version=OPSET,
                dynamic_shapes=dynamic,
                custom_translation_table=attention.TRANSLATIONS | rnn.TRANSLATIONS,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        except torch.onnx.errors.OnnxExporterError as error:
            raise ConversionError(f"torch.onnx cannot express this {model.family}: {_fault(error)}") from error
    assert program is not None  # None only where a file name was given
    proto = program.model_proto
    _fold_weights(proto.graph)
    _name_axes(proto, signature)
    modules = _modules(proto.graph)
    _strip(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ConversionError(f"the exported graph is not valid ONNX: {error}") from error
    onnx.save(proto, path)
    return modules


def _fold_weights(graph: onnx.GraphProto) -> None:
    """Sort the gates of recurrent weights now: the exporter folds small constants only, and leaves it to every load.

    Quantizers need the weights to be constants.
    """
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        if node.op_type not in SORTING or not all(name in constants for name in node.input if name):
            continue
        inputs = {name: numpy_helper.to_array(constants[name]) for name in node.input if name}
        (value,) = ReferenceEvaluator(node).run(None, inputs)
        constants[node.output[0]] = numpy_helper.from_array(np.ascontiguousarray(value), node.output[0])
        graph.node.remove(node)
    read = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in constants.items() if name in read)


def _fault(error: BaseException) -> str:
    """What could not be translated, and the layer it came from, as far as the exporter's own error tells."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(chain[-1]))
    if operator is None:
        return str(chain[-1]) or str(error)
    return f"it has no operator for {operator[1]}, {_layer(chain)}: build the layer from other operations"


def _layer(chain: list[BaseException]) -> str:
    """Which module called it; the exporter's errors name only its own node, which lies in the frames they passed."""
    for error in chain:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            node = frame.f_locals.get("node")
            if isinstance(node, torch.fx.Node) and node.meta.get("nn_module_stack"):
                path, kind = list(node.meta["nn_module_stack"].values())[-1]
                return f"called by {path or 'the model'} ({getattr(kind, '__name__', kind)})"
    return "called somewhere in forward()"


def _name_axes(proto: onnx.ModelProto, signature: Signature) -> None:
    """Call the dynamic axes of inputs and outputs by their names. Raises ConversionError where one is not dynamic."""
    for values, specs in ((proto.graph.input, signature.inputs), (proto.graph.output, signature.outputs)):
        found = {value.name: value.type.tensor_type.shape.dim for value in values}
        for spec in specs:
            for axis, (dim, given) in enumerate(zip(spec.shape, _dims(found, spec), strict=True)):
                if not isinstance(dim, ShapeRange):
                    continue
                if not given.dim_param:
                    raise ConversionError(
                        f"axis {axis} ({dim.axis}) of {spec.name!r} came out fixed at {given.dim_value}: "
                        "some operation in forward() turned it into a number"
                    )
                given.dim_param = dim.axis


def _dims(
    found: Mapping[str, Sequence[onnx.TensorShapeProto.Dimension]], spec: TensorSpec
) -> Sequence[onnx.TensorShapeProto.Dimension]:
    if spec.name not in found or len(found[spec.name]) != len(spec.shape):
        raise ConversionError(
            f"the exported graph has tensors {sorted(found)}, the signature needs {spec.name!r}: {spec.describe()}"
        )
    return found[spec.name]


def _modules(graph: onnx.GraphProto) -> dict[str, str]:
    """The path of the module that made each node; nodes that the exporter put together from several may have none."""
    found = {}
    for node in graph.node:
        scopes = next((prop.value for prop in node.metadata_props if prop.key == SCOPES), None)
        if scopes is not None:
            found[node.name] = ast.literal_eval(scopes)[-2]  # the last is the operation itself
    return found


def _strip(proto: onnx.ModelProto) -> None:
    """Remove what describes this machine rather than the model, and shapes in the exporter's invented names."""
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
