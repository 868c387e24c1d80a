"""An inference request and its response in the Open Inference Protocol, JSON with or without binary tensor data.

A body is JSON, followed by the bytes of its binary tensors in the order in which the JSON names them; the header
`Inference-Header-Content-Length` says where the JSON ends. Where it says 0 there is no JSON: the body is the model's one input.
Both lengths are those of the body before any content encoding.

Request parameters: `binary_data_output`; `timeout`, in microseconds, and `priority`, 1 the highest, both 0 for the default;
`explain`, ours. Others are a client's own and mean nothing here, but those of extensions that would change the answer are
refused rather than ignored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from modelrepo.tensors import Array, Signature, Tensors
from service.codec import tensor
from service.errors import InvalidRequest, too_many_rows

HEADER_LENGTH = "inference-header-content-length"
Parameters = dict[str, str | int | float | bool]
Texts = Callable[[str, Array], Tensors | None]
"""Turns BYTES into tokens, for an input that takes them so."""
# Output parameters that ask for what no output here can be.
REFUSED = {
    "classification": "this server answers tensors here, and labels under /models/{model}/predict",
    "shared_memory_region": "this server shares no memory with its clients",
    "datatype": "an output comes in the datatype that the model's metadata names",
}


class _Given(Protocol):
    """An input as it came, over HTTP or gRPC."""

    name: str
    datatype: str


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class RequestedOutput(msgspec.Struct):
    """An output that a request names."""

    name: str
    parameters: Parameters | None = None


class _Request(msgspec.Struct):
    """Optional fields may also be null, as clients that serialise None send them."""

    inputs: list[_Input]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[RequestedOutput] | None = None


class _Output(msgspec.Struct, omit_defaults=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters = {}
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str | None = None
    parameters: Parameters = {}


_decoder = msgspec.json.Decoder(_Request)
_encoder = msgspec.json.Encoder()


class Request(msgspec.Struct, frozen=True):
    """A decoded request: arrays by input name, and which outputs to send how (None: all of them, as `binary` says).

    `timeout` is in seconds, None for none; `priority` is 1 for the highest, 0 for the default.
    """

    id: str | None
    inputs: dict[str, Array]
    outputs: dict[str, bool] | None
    binary: bool
    timeout: float | None = None
    priority: int = 0
    explain: bool = False


def decode(
    body: bytes,
    header_length: str | None,
    signature: Signature,
    max_rows: int,
    texts: Texts = lambda name, array: None,
) -> Request:
    """A request to a model from its body and the value of the header `Inference-Header-Content-Length`.

    The inputs have the model's datatypes; names, shapes and values are left to `signature.check`. `texts` turns BYTES into tokens,
    for an input that takes them so. Raises InvalidRequest, or PayloadTooLarge for a tensor of more than `max_rows` rows.
    """
    split = _header_length(header_length, len(body))
    if split == 0 and header_length is not None:
        return Request(None, _raw(body, signature), None, True)
    try:
        request = _decoder.decode(memoryview(body)[:split])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the request is not valid: {error}") from None
    except RecursionError:
        raise InvalidRequest("the request is not valid: it is nested too deeply") from None
    rest = memoryview(body)[split:]
    inputs: dict[str, Array] = {}
    for given in request.inputs:
        check_input(given.name, given.shape, inputs, max_rows)
        size = (given.parameters or {}).get("binary_data_size")
        if size is None:
            if not given.data:
                raise InvalidRequest(f"input {given.name!r} has neither data nor the parameter binary_data_size")
            inputs[given.name] = tensor.from_json(given.name, given.datatype, given.shape, memoryview(given.data))
        else:
            if header_length is None:
                raise InvalidRequest(f"input {given.name!r} is binary, which needs the header Inference-Header-Content-Length")
            if given.data:
                raise InvalidRequest(f"input {given.name!r} has both data and the parameter binary_data_size: send one of them")
            if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(rest):
                raise InvalidRequest(f"input {given.name!r} has binary_data_size {size!r}; {len(rest)} bytes of the body are left")
            inputs[given.name] = tensor.from_binary(given.name, given.datatype, given.shape, rest[:size])
            rest = rest[size:]
    if rest:
        raise InvalidRequest(f"{len(rest)} bytes follow the last tensor: check every binary_data_size")
    inputs = fitted(inputs, request.inputs, signature, texts)
    if not request.parameters:
        return Request(request.id, inputs, _outputs(request.outputs, False, signature), False)
    return parametrised(request.id, inputs, request.outputs, request.parameters, signature)


def check_input(name: str, shape: Sequence[int], inputs: Mapping[str, Array], max_rows: int) -> None:
    """Refuse what is not worth decoding: an input that is among `inputs` already, more rows than are taken at once.

    Raises InvalidRequest or PayloadTooLarge.
    """
    if name in inputs:
        raise InvalidRequest(f"input {name!r} is given twice")
    if shape and shape[0] > max_rows:
        raise too_many_rows(shape[0], max_rows)


def fitted(inputs: dict[str, Array], given: Iterable[_Given], signature: Signature, texts: Texts) -> dict[str, Array]:
    """Inputs as they were `given`, in the model's datatypes. Raises InvalidRequest for one that cannot be."""
    for spec in signature.inputs:
        array = inputs.get(spec.name)
        if array is not None and array.dtype != spec.numpy_dtype:
            kind = next(each.datatype for each in given if each.name == spec.name)
            tokens = texts(spec.name, array) if kind == "BYTES" else None
            if tokens is None:
                inputs[spec.name] = tensor.widened(spec.name, kind, array, spec.numpy_dtype)
                continue
            if signature.mask is not None and signature.mask.name in inputs:
                raise InvalidRequest(f"input {signature.mask.name!r} goes with tokens, not with texts: leave it out")
            return inputs | tokens
    return inputs


def encode(
    request: Request,
    model: str,
    version: str,
    outputs: Mapping[str, Array],
    parameters: Parameters | None = None,
    finite: Callable[[str], bool] = lambda name: False,
) -> tuple[bytes, int | None]:
    """The response's body, and the value of `Inference-Header-Content-Length` where it holds binary data.

    `parameters` become those of the response; `finite` says of an output whether it is known to hold numbers only. Raises
    Unprocessable for values that JSON cannot carry.
    """
    wanted = request.outputs if request.outputs is not None else dict.fromkeys(outputs, request.binary)
    described: list[_Output] = []
    chunks: list[bytes] = []
    for name, binary in wanted.items():
        array = outputs[name]
        output = _Output(name, list(array.shape), tensor.datatype(array.dtype))
        if binary:
            chunks.append(tensor.to_binary(array))
            output.parameters = {"binary_data_size": len(chunks[-1])}
        else:
            output.data = msgspec.Raw(tensor.to_json(name, array, finite(name)))
        described.append(output)
    header = _encoder.encode(_Response(model, version, described, request.id, parameters or {}))
    if not chunks:
        return header, None
    return b"".join((header, *chunks)), len(header)


def _raw(body: bytes, signature: Signature) -> dict[str, Array]:
    """The one row of the one input that a raw binary request holds; its length is as many steps as there are bytes for."""
    if len(signature.value_inputs) > 1:
        names = ", ".join(repr(spec.name) for spec in signature.value_inputs)
        raise InvalidRequest(
            f"Inference-Header-Content-Length is 0, for models of one input; this one takes {names}: send JSON first"
        )
    (spec,) = signature.value_inputs
    length = None
    if spec.length_axis is not None:
        step = math.prod(spec.shape_at(1, 1)) * spec.numpy_dtype.itemsize
        length, rest = divmod(len(body), step)
        if rest:
            raise InvalidRequest(f"input {spec.name!r} has {len(body)} bytes; one step of {spec.describe()} has {step}")
    shape = list(spec.shape_at(1, length))
    return {spec.name: tensor.from_binary(spec.name, tensor.datatype(spec.numpy_dtype), shape, memoryview(body))}


def parametrised(
    id_: str | None,
    inputs: dict[str, Array],
    outputs: Sequence[RequestedOutput] | None,
    parameters: Parameters,
    signature: Signature,
    binary: bool = False,
) -> Request:
    """A request with what its parameters say; `binary` is how outputs are sent where they say nothing. Raises InvalidRequest."""
    for name, value in parameters.items():
        if name.startswith("sequence_") and value:  # a client may say in three parameters that it has no sequence
            raise InvalidRequest(f"parameter {name!r} is {value!r}; this server has no stateful sequences: leave it out")
    binary = _flag(parameters, "binary_data_output", binary)
    microseconds = _count(parameters, "timeout", "microseconds, 0 for no limit")
    return Request(
        id_,
        inputs,
        _outputs(outputs, binary, signature),
        binary,
        timeout=microseconds / 1e6 if microseconds else None,
        priority=_count(parameters, "priority", "1 for the highest, 0 for the default"),
        explain=_flag(parameters, "explain", False),
    )


def _outputs(requested: Sequence[RequestedOutput] | None, binary: bool, signature: Signature) -> dict[str, bool] | None:
    """The outputs asked for, and whether each is to be binary; None for all."""
    if not requested:
        return None
    names = [spec.name for spec in signature.outputs]
    for output in requested:
        if output.name not in names:
            raise InvalidRequest(f"unknown output {output.name!r}; this model has {', '.join(map(repr, names))}")
        for parameter in output.parameters or ():
            if parameter in REFUSED:
                raise InvalidRequest(f"output {output.name!r} has the parameter {parameter!r}; {REFUSED[parameter]}: leave it out")
    return {output.name: _flag(output.parameters, "binary_data", binary) for output in requested}


def _header_length(value: str | None, body: int) -> int:
    if value is None:
        return body
    # isdecimal takes other scripts' digits too, and int() underscores and signs: neither is a header's number.
    if not (value.isascii() and value.isdecimal()) or len(value) > 18 or int(value) > body:
        raise InvalidRequest(f"Inference-Header-Content-Length is {value!r}; it takes 0 to {body}, the length of the body")
    return int(value)


def _flag(parameters: Parameters | None, name: str, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameter {name!r} is {value!r}; it takes true or false")
    return value


def _count(parameters: Parameters, name: str, meaning: str) -> int:
    value = parameters.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise InvalidRequest(f"parameter {name!r} is {value!r}; it takes a whole number: {meaning}")
    return value
