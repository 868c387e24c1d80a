"""Requests and answers of the Open Inference Protocol as protobuf messages, over the codec of single tensors that HTTP has too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

import numpy as np
from google.protobuf.message import DecodeError, Message

from modelrepo.tensors import Array, Signature
from service.codec import tensor, v2
from service.codec.v2 import Parameters
from service.errors import InvalidRequest, Unprocessable
from service.rpc.messages import InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse

M = TypeVar("M", bound=Message)

# The field that holds the elements of each datatype; FP16 and BF16 have none.
FIELDS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def parse(kind: type[M], message: bytes) -> M:
    """A message from its bytes. Raises InvalidRequest."""
    try:
        return kind.FromString(message)
    except DecodeError as error:
        raise InvalidRequest(f"the message is no {kind.DESCRIPTOR.full_name}: {error}") from None


def decode(request: ModelInferRequest, signature: Signature, max_rows: int, texts: v2.Texts) -> v2.Request:
    """What a request to a model asks for, as `v2.decode` has it. Outputs are to be raw unless it says otherwise.

    Raises InvalidRequest, and PayloadTooLarge for a tensor of more than `max_rows` rows.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequest(
            f"raw_input_contents has {len(raw)} tensors and there are {len(request.inputs)} inputs: send one for each"
        )
    inputs: dict[str, Array] = {}
    for number, given in enumerate(request.inputs):
        name, kind, shape = given.name, given.datatype, list(given.shape)
        v2.check_input(name, shape, inputs, max_rows)
        for parameter in given.parameters:
            if parameter.startswith("shared_memory_"):
                raise InvalidRequest(f"input {name!r} has the parameter {parameter!r}; {v2.REFUSED['shared_memory_region']}")
        if not raw:
            inputs[name] = _from_contents(name, kind, shape, given.contents)
        elif given.HasField("contents"):
            raise InvalidRequest(f"input {name!r} has both contents and raw_input_contents: send one of them")
        else:
            inputs[name] = tensor.from_binary(name, kind, shape, memoryview(raw[number]))
    inputs = v2.fitted(inputs, request.inputs, signature, texts)
    outputs = [v2.RequestedOutput(output.name, parameters(output.parameters)) for output in request.outputs]
    read = v2.parametrised(request.id or None, inputs, outputs, parameters(request.parameters), signature, binary=True)
    if len(set((read.outputs or {}).values())) > 1:
        raise InvalidRequest("some outputs are asked for with binary_data and some without, which no answer can have: ask twice")
    return read


def parameters(given: Mapping[str, InferParameter]) -> Parameters:
    """Parameters as plain values. Raises InvalidRequest for one without a value."""
    found: Parameters = {}
    for name, parameter in given.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest(f"parameter {name!r} has no value: set one of its fields")
        found[name] = getattr(parameter, choice)
    return found


def encode(
    request: v2.Request, model: str, version: str, outputs: Mapping[str, Array], more: Parameters | None = None
) -> ModelInferResponse:
    """The answer, with `more` as its parameters. Raises Unprocessable for an output that only raw bytes can hold."""
    wanted = request.outputs if request.outputs is not None else dict.fromkeys(outputs, request.binary)
    response = ModelInferResponse(model_name=model, model_version=version, id=request.id or "")
    for name, binary in wanted.items():
        array = outputs[name]
        kind = tensor.datatype(array.dtype)
        output = response.outputs.add(name=name, datatype=kind, shape=array.shape)
        if binary:
            response.raw_output_contents.append(tensor.to_binary(array))
        elif kind in FIELDS:
            getattr(output.contents, FIELDS[kind]).extend(array.ravel().tolist())
        else:
            raise Unprocessable(f"output {name!r} is {kind}, for which contents have no field: ask for it raw")
    for name, value in (more or {}).items():
        add_parameter(response, name, value)
    return response


def add_parameter(response: ModelInferResponse, name: str, value: str | int | float | bool) -> None:
    """Say more in an answer."""
    match value:
        case bool():
            response.parameters[name].bool_param = value
        case int():
            response.parameters[name].int64_param = value
        case float():
            response.parameters[name].double_param = value
        case str():
            response.parameters[name].string_param = value


def _from_contents(name: str, kind: str, shape: list[int], contents: InferTensorContents) -> Array:
    """An array from typed elements. Raises InvalidRequest."""
    count = tensor.check_header(name, kind, shape)
    field = FIELDS.get(kind)
    if field is None:
        raise InvalidRequest(f"input {name!r} is {kind}, for which contents have no field: send raw_input_contents, or FP32")
    filled = [found.name for found, _ in contents.ListFields()]
    if filled not in ([], [field]):
        raise InvalidRequest(f"input {name!r} has {' and '.join(filled)}; the elements of {kind} belong in {field}")
    elements = getattr(contents, field)
    if len(elements) != count:
        raise InvalidRequest(f"input {name!r} has {len(elements)} elements in {field}; shape {shape} needs {count}")
    return _array(name, kind, elements, count).reshape(shape)


def _array(name: str, kind: str, elements: Iterable[object], count: int) -> Array:
    dtype = tensor.DTYPES[kind]
    try:
        return np.fromiter(elements, dtype, count)
    except OverflowError:  # of int_contents and uint_contents, which are wider than some of their datatypes
        raise InvalidRequest(f"input {name!r}: a number does not fit {kind}") from None
