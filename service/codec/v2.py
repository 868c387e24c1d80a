"""An inference request and its response in the Open Inference Protocol, JSON with or without binary tensor data.

A body is JSON, followed by the bytes of its binary tensors in the order in which the JSON names them; the header
`Inference-Header-Content-Length` says where the JSON ends.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from modelrepo.tensors import Array
from service.codec import tensor
from service.errors import InvalidRequest, too_many_rows

HEADER_LENGTH = "inference-header-content-length"
Parameters = dict[str, str | int | float | bool]


class _Input(msgspec.Struct):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None = None
    data: msgspec.Raw = msgspec.Raw()


class _RequestedOutput(msgspec.Struct):
    name: str
    parameters: Parameters | None = None


class _Request(msgspec.Struct):
    """Optional fields may also be null, as clients that serialise None send them."""

    inputs: list[_Input]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[_RequestedOutput] | None = None


class _Output(msgspec.Struct, omit_defaults=True):
    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters = {}
    data: list[Any] | msgspec.UnsetType = msgspec.UNSET


class _Response(msgspec.Struct, omit_defaults=True):
    model_name: str
    model_version: str
    outputs: list[_Output]
    id: str | None = None


_decoder = msgspec.json.Decoder(_Request)
_encoder = msgspec.json.Encoder()


@dataclass(frozen=True)
class Request:
    """A decoded request: arrays by input name, and which outputs to send how (None: all of them, as `binary` says)."""

    id: str | None
    inputs: dict[str, Array]
    outputs: dict[str, bool] | None
    binary: bool


def decode(body: bytes, header_length: str | None, max_rows: int) -> Request:
    """A request from its body and the value of the header `Inference-Header-Content-Length`.

    Raises InvalidRequest, or PayloadTooLarge for a tensor of more than `max_rows` rows.
    """
    split = _header_length(header_length, len(body))
    try:
        request = _decoder.decode(memoryview(body)[:split])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"the request is not valid: {error}") from None
    except RecursionError:
        raise InvalidRequest("the request is not valid: it is nested too deeply") from None
    rest = memoryview(body)[split:]
    inputs: dict[str, Array] = {}
    for given in request.inputs:
        if given.name in inputs:
            raise InvalidRequest(f"input {given.name!r} is given twice")
        if given.shape and given.shape[0] > max_rows:
            raise too_many_rows(given.shape[0], max_rows)
        size = (given.parameters or {}).get("binary_data_size")
        if size is None:
            if not given.data:
                raise InvalidRequest(f"input {given.name!r} has neither data nor the parameter binary_data_size")
            inputs[given.name] = tensor.from_json(given.name, given.datatype, given.shape, memoryview(given.data))
            continue
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
    binary = _flag(request.parameters, "binary_data_output", False)
    outputs = {output.name: _flag(output.parameters, "binary_data", binary) for output in request.outputs or ()} or None
    return Request(request.id, inputs, outputs, binary)


def encode(request: Request, model: str, version: str, outputs: Mapping[str, Array]) -> tuple[bytes, int | None]:
    """The response's body, and the value of `Inference-Header-Content-Length` where it holds binary data.

    Raises InvalidRequest for an output the model does not have, Unprocessable for values that JSON cannot carry.
    """
    wanted = request.outputs if request.outputs is not None else dict.fromkeys(outputs, request.binary)
    described: list[_Output] = []
    chunks: list[bytes] = []
    for name, binary in wanted.items():
        if name not in outputs:
            raise InvalidRequest(f"unknown output {name!r}; this model has {', '.join(map(repr, outputs))}")
        array = outputs[name]
        output = _Output(name, list(array.shape), tensor.datatype(array.dtype))
        if binary:
            chunks.append(tensor.to_binary(array))
            output.parameters = {"binary_data_size": len(chunks[-1])}
        else:
            output.data = tensor.to_json(name, array)
        described.append(output)
    header = _encoder.encode(_Response(model, version, described, request.id))
    if not chunks:
        return header, None
    return b"".join((header, *chunks)), len(header)


def _header_length(value: str | None, body: int) -> int:
    if value is None:
        return body
    # isdecimal takes other scripts' digits too, and int() underscores and signs: neither is a header's number.
    if not (value.isascii() and value.isdecimal()) or len(value) > 18 or not 0 < int(value) <= body:
        raise InvalidRequest(f"Inference-Header-Content-Length is {value!r}; it takes 1 to {body}, the length of the body")
    return int(value)


def _flag(parameters: Parameters | None, name: str, default: bool) -> bool:
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameter {name!r} is {value!r}; it takes true or false")
    return value
