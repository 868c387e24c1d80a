"""The commonest request of the Open Inference Protocol in one step: one tensor as a flat JSON list, for all outputs as JSON."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
import numpy as np

from modelrepo.tensors import Signature, Tensors
from service.codec import tensor
from service.codec.v2 import Request


class Plain(NamedTuple):
    """A decoded request, whose inputs are known to fit the signature, with its rows and, for sequences, its length."""

    request: Request
    rows: int
    length: int | None


class PlainRequests:
    """Such requests for one signature, which becomes the type that JSON is decoded to: decoding is checking."""

    def __init__(self, signature: Signature) -> None:
        (self._spec, *more) = signature.value_inputs
        self._never = bool(more)
        self._mask = signature.mask
        self._dtype = self._spec.numpy_dtype.newbyteorder("<")
        self._row = self._spec.shape[1:]
        rank = len(self._spec.shape)
        given: Any = msgspec.defstruct(
            "Input",
            [
                ("name", Literal[self._spec.name]),
                ("shape", Annotated[list[int], msgspec.Meta(min_length=rank, max_length=rank)]),
                ("datatype", Literal[tensor.datatype(self._spec.dtype)]),
                ("data", Annotated[list[tensor.element_type(self._spec)], msgspec.Meta(min_length=1)]),  # type: ignore[misc]  # made at run time
                ("parameters", dict[str, Any] | None, None),
            ],
        )
        whole = msgspec.defstruct(
            "Request",
            [
                ("inputs", Annotated[list[given], msgspec.Meta(min_length=1, max_length=1)]),
                ("id", str | None, None),
                ("parameters", dict[str, Any] | None, None),
                ("outputs", list[Any] | None, None),
            ],
        )
        self._decode = msgspec.json.Decoder(whole).decode

    def decode(self, body: bytes, max_rows: int) -> Plain | None:
        """The request; None where it is another, or at fault, for `v2.decode` to find out."""
        if self._never:
            return None
        try:
            request: Any = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        (given,) = request.inputs
        if request.parameters or request.outputs or given.parameters:
            return None
        rows, *row = given.shape
        if not 0 < rows <= max_rows or rows * math.prod(row) != len(given.data):
            return None
        length = None
        for size, dim in zip(row, self._row, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    return None
            elif size not in dim:
                return None
            else:
                length = size
        array = np.asarray(given.data, self._dtype).reshape(given.shape)
        inputs: Tensors = {self._spec.name: array}
        if self._mask is not None:
            inputs[self._mask.name] = np.ones((rows, length or 0), np.bool_)
        return Plain(Request(request.id, inputs, None, False), rows, length)
