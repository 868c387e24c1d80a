"""The commonest request of the Open Inference Protocol in one step: one tensor as a flat JSON list, for all outputs as JSON."""

from __future__ import annotations

import math
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
import orjson

from modelrepo.tensors import Array, Signature, Tensors
from service.batch import Ran
from service.codec import tensor
from service.codec.packing import Packing
from service.codec.v2 import Request
from service.remembered import Remembered

DATA: Final = (b'"data":[', b'"data": [')
MOST_KNOWN: Final = 64  # beginnings and ends of requests of one model
LONGEST: Final = 1024  # bytes of one


class Plain:
    """A decoded request, whose inputs are known to fit the signature, with its rows and, for sequences, its length."""

    __slots__ = ("id", "inputs", "length", "rows")

    def __init__(self, inputs: Tensors, rows: int, length: int | None, id_: str | None) -> None:
        self.inputs = inputs
        self.rows = rows
        self.length = length
        self.id = id_

    def request(self) -> Request:
        """The same as any other."""
        return Request(self.id, self.inputs, None, False)


class PlainRequests:
    """Such requests for one signature, which becomes the type that JSON is decoded to: decoding is checking.

    A client repeats what is around the numbers with every request: once it was decoded, its very bytes are recognised.
    """

    def __init__(self, signature: Signature) -> None:
        (self._spec, *more) = signature.value_inputs
        self._never = bool(more)
        self._mask = signature.mask
        self._packing = Packing(self._spec.numpy_dtype)
        self._row = [*self._spec.shape[1:]]
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
        self._repeats = self._spec.numpy_dtype.kind == "f" and self._mask is None
        self._known: Remembered[bytes, list[int]] = Remembered(MOST_KNOWN)  # shapes, by what is around the data

    def decode(self, body: bytes, max_rows: int) -> Plain | None:
        """The request; None where it is another, or at fault, for `v2.decode` to find out."""
        if self._never:
            return None
        around = b""
        if self._repeats and (start := _beginning(body)) > 0:
            stop = body.find(b"]", start) + 1
            around = body[:start] + body[stop:]
            shape = self._known.get(around)
            if shape is not None and (found := self._packing.decode(body[start:stop], shape)) is not None:
                return Plain({self._spec.name: found}, shape[0], None, None)
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
        if row != self._row:  # which holds for rows of fixed sizes, if they are right
            length = self._length(row)
            if length is None:
                return None
        try:
            array = self._packing.array(given.data, given.shape)
        except OverflowError:  # the next number beyond the dtype's largest, which JSON decoders round
            return None
        inputs: Tensors = {self._spec.name: array}
        if self._mask is not None:
            inputs[self._mask.name] = np.ones((rows, length or 0), np.bool_)
        if around and request.id is None and _plainly_found(around):
            self._known.remember(around, given.shape)
        return Plain(inputs, rows, length, request.id)

    def _length(self, row: list[int]) -> int | None:
        """How long sequences of this shape are; None where the model does not take it."""
        length = None
        for size, dim in zip(row, self._row, strict=True):
            if isinstance(dim, int):
                if size != dim:
                    return None
            elif size not in dim:
                return None
            else:
                length = size
        return length


class PlainAnswers:
    """The responses of one version to such requests, as `v2.encode` would write them. What never changes is written beforehand."""

    def __init__(self, model: str, version: str, signature: Signature) -> None:
        self._specs = signature.outputs
        self._writable = all(spec.dtype != "float16" for spec in signature.outputs)
        self._head = b'{"model_name":%s,"model_version":%s,"outputs":[' % (orjson.dumps(model), orjson.dumps(version))
        self._described: dict[int, list[bytes]] = {}

    def encode(self, ran: Ran, start: int, stop: int, id_: str | None) -> bytes | None:
        """The body of the response with the rows of what ran from `start` to `stop`; None where `v2.encode` has to look closer."""
        texts: list[list[bytes]] | None = ran.made.get(self)
        if texts is None:  # what the rows of other callers need too is done once for all
            texts = ran.made[self] = self._texts(ran)
        if not texts:
            return None
        described = self._described.get(stop - start) or self._describe(stop - start)
        outputs = b"]},".join([head + b",".join(rows[start:stop]) for head, rows in zip(described, texts, strict=True)])
        return outputs + b"]}]}" if id_ is None else b'%s]}],"id":%s}' % (outputs, orjson.dumps(id_))

    def _texts(self, ran: Ran) -> list[list[bytes]]:
        """Of each output, the elements of each row as JSON without its brackets; nothing where JSON cannot hold them."""
        if not self._writable or not all(ran.finite(spec.name) for spec in self._specs):
            return []
        return [_rows(ran.outputs[spec.name]) for spec in self._specs]

    def _describe(self, rows: int) -> list[bytes]:
        """What comes before the elements of each output."""
        found = [
            b'{"name":%s,"shape":%s,"datatype":"%s","data":['
            % (orjson.dumps(spec.name), orjson.dumps(list(spec.shape_at(rows))), tensor.datatype(spec.dtype).encode())
            for spec in self._specs
        ]
        found[0] = self._head + found[0]
        self._described[rows] = found
        return found


def _beginning(body: bytes) -> int:
    """Where the list of the data begins, as clients write it; 0 where it is not found."""
    for name in DATA:
        at = body.find(name)
        if at > 0:
            return at + len(name) - 1
    return 0


def _plainly_found(around: bytes) -> bool:
    """Whether "data" can be found nowhere else in what is around it than the decoder did."""
    return len(around) <= LONGEST and around.count(b'"data"') == 1 and b"\\" not in around


def _rows(array: Array) -> list[bytes]:
    """The elements of each row, as JSON without its brackets."""
    flat = np.ascontiguousarray(array.reshape(len(array), -1))
    return orjson.dumps(flat, option=orjson.OPT_SERIALIZE_NUMPY)[2:-2].split(b"],[")
