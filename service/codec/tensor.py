"""One tensor of the Open Inference Protocol, as JSON or as raw bytes, to an array and back.

Datatypes and layouts: the protocol's "Tensor Data Types" and the binary tensor data extension (Triton Inference Server,
docs/protocol/extension_binary_data.md). BYTES tensors are arrays of Python bytes, dtype object. NumPy has no bfloat16: BF16
arrives as float32, which holds every value of it, and is never sent.
"""

from __future__ import annotations

import math
import re
import struct
from functools import cache
from typing import Annotated, Any

import msgspec
import numpy as np
import orjson

from modelrepo.tensors import Array, TensorSpec
from service.codec.packing import Packing
from service.errors import InvalidRequest, Unprocessable

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("O"),
}
PACKINGS = {name: Packing(dtype) for name, dtype in DTYPES.items() if name not in ("BOOL", "BYTES")}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
KNOWN = (*DTYPES, "BF16")
BINARY_ONLY = ("FP16", "BF16")
MAX_RANK = 16
OPENING = re.compile(rb"[\[ \t\r\n]*")


def datatype(dtype: np.dtype[Any] | str) -> str:
    """The protocol's name of a NumPy dtype."""
    return DATATYPES[np.dtype(dtype)]


def check_header(name: str, kind: str, shape: list[int]) -> int:
    """The number of elements a tensor's datatype and shape announce. Raises InvalidRequest."""
    if kind not in KNOWN:
        raise InvalidRequest(f"input {name!r} has datatype {kind!r}; known are {', '.join(KNOWN)}")
    if len(shape) > MAX_RANK or any(not 0 <= size < 2**31 for size in shape):
        raise InvalidRequest(f"input {name!r} has shape {shape[: MAX_RANK + 1]}; sizes are 0 or more, at most {MAX_RANK} of them")
    return math.prod(shape)


def from_json(name: str, kind: str, shape: list[int], data: memoryview) -> Array:
    """An array from the JSON text of a tensor's `data`, nested like the shape or flat. Raises InvalidRequest.

    Elements are never coerced: a string, a boolean or a fraction in an integer tensor is an error, as is a number the
    datatype cannot hold.
    """
    count = check_header(name, kind, shape)
    if kind in BINARY_ONLY:
        raise InvalidRequest(f"input {name!r} is {kind}, which JSON does not carry: send it as binary data, or as FP32")
    depth = _depth(data)
    if depth not in (1, len(shape)):
        raise InvalidRequest(f"input {name!r} has data nested {depth} deep; shape {shape} takes a flat list or {len(shape)} levels")
    try:
        array = nested(data, kind, depth)
    except InvalidRequest as error:
        raise InvalidRequest(f"input {name!r}: {error}; expected {kind} of shape {shape}") from None
    if depth > 1 and array.shape != tuple(shape):
        raise InvalidRequest(f"input {name!r} has data of shape {list(array.shape)}, but says shape {shape}")
    if array.size != count:
        raise InvalidRequest(f"input {name!r} has {array.size} elements; shape {shape} needs {count}")
    return array.reshape(shape)


def nested(data: memoryview, kind: str, depth: int) -> Array:
    """An array of rank `depth` from JSON lists nested as deep. Raises InvalidRequest, without the tensor's name."""
    if depth == 1 and kind in PACKINGS and (packed := PACKINGS[kind].decode(bytes(data))) is not None:
        return packed
    if kind != "BYTES":
        try:
            return np.asarray(_bounded(kind, depth).decode(data), DTYPES[kind])
        except (msgspec.DecodeError, ValueError):
            pass  # what is wrong comes out below
    array = as_array(lists(data, kind, depth), kind)
    if array.ndim != depth:
        raise InvalidRequest("lists of uneven length")
    return array


def lists(data: memoryview, kind: str, depth: int) -> Any:
    """JSON lists nested `depth` deep, with every element of the datatype's JSON type. Raises InvalidRequest."""
    try:
        return _decoder(kind, depth).decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(str(error)) from None


def as_array(values: Any, kind: str) -> Array:
    """Lists of JSON elements as an array of the datatype. Raises InvalidRequest for a number it cannot hold."""
    try:
        if kind == "BYTES":
            texts = np.array(values, np.object_)  # lists of uneven length stay lists here
            encoded = np.frompyfunc(lambda text: text.encode() if isinstance(text, str) else text, 1, 1)(texts)
            return np.asarray(encoded, np.object_)  # of rank 0, it came back as the bytes themselves
        with np.errstate(over="ignore"):  # an overflow shows as an infinity, which JSON cannot have meant
            array = np.asarray(values, DTYPES[kind])
    except OverflowError:
        raise InvalidRequest(f"a number does not fit {kind}") from None
    except ValueError as error:  # lists of uneven length
        raise InvalidRequest(str(error)) from None
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidRequest(f"a number is too large for {kind}")
    return array


def from_binary(name: str, kind: str, shape: list[int], data: memoryview) -> Array:
    """An array from a tensor's raw bytes, little-endian and row-major; float32 for BF16. Raises InvalidRequest.

    The array may share the memory of `data` and then is read-only.
    """
    count = check_header(name, kind, shape)
    if kind == "BYTES":
        return _bytes_elements(name, count, data).reshape(shape)
    dtype = DTYPES["UINT16" if kind == "BF16" else kind]
    if len(data) != count * dtype.itemsize:
        raise InvalidRequest(
            f"input {name!r} has {len(data)} bytes of binary data; {kind} of shape {shape} needs {count * dtype.itemsize}"
        )
    if kind == "BOOL":
        flags = np.frombuffer(data, np.uint8)
        if flags.max(initial=0) > 1:
            raise InvalidRequest(f"input {name!r} is BOOL and holds the byte {flags.max()}; bytes are 0 or 1")
        return flags.view(np.bool_).reshape(shape)
    if kind == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, dtype).astype("<u4") << 16).view("<f4").reshape(shape)
    # The bytes follow a JSON header of any length; sessions want numbers at addresses that fit them.
    return np.require(np.frombuffer(data, dtype), requirements="A").reshape(shape)


def widened(name: str, kind: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """A tensor of another datatype than the model's, as the model's. Raises InvalidRequest naming both: nothing is coerced.

    Except that FP16 becomes FP32, as BF16 has already: that changes no value, both travel in half the bytes, and a client
    need not know in which precision the model computes.
    """
    if kind == "FP16" and dtype == np.float32:
        return array.astype(np.float32)
    raise InvalidRequest(f"input {name!r} has datatype {kind}; the model takes {datatype(dtype)}")


def to_json(name: str, array: Array, finite: bool = False) -> bytes:
    """A tensor's elements as a flat JSON list, numbers with as many digits as tell those of their datatype apart.

    `finite` says that they are known to be. Raises Unprocessable for what JSON cannot carry.
    """
    if array.dtype == np.float16:
        raise Unprocessable(f"output {name!r} is FP16, which JSON does not carry: ask for binary data")
    if not finite:
        require_finite(name, array)
    if array.dtype == np.object_:
        try:
            return orjson.dumps([element.decode() for element in array.ravel().tolist()])
        except UnicodeDecodeError:
            raise Unprocessable(f"output {name!r} is not UTF-8 text, which JSON cannot carry: ask for binary data") from None
    return orjson.dumps(array.ravel(), option=orjson.OPT_SERIALIZE_NUMPY)


def require_finite(name: str, array: Array) -> None:
    """Raise Unprocessable, naming the row, where an output holds a NaN or an infinity."""
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row = int(np.flatnonzero(~np.isfinite(array.reshape(len(array), -1)).all(axis=1))[0])
        raise Unprocessable(f"output {name!r} is not a finite number in row {row}, which JSON cannot carry: check that row's input")


def to_binary(array: Array) -> bytes:
    """A tensor's raw bytes, little-endian and row-major."""
    if array.dtype == np.object_:
        return b"".join(struct.pack("<I", len(element)) + element for element in array.ravel().tolist())
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def _bytes_elements(name: str, count: int, data: memoryview) -> Array:
    """BYTES elements, each a 4-byte length and that many bytes."""
    elements: list[bytes] = []
    at = 0
    while at < len(data):
        if at + 4 > len(data):
            raise InvalidRequest(f"input {name!r} ends inside the length of element {len(elements)}")
        (length,) = struct.unpack_from("<I", data, at)
        at += 4
        if at + length > len(data):
            raise InvalidRequest(f"input {name!r} ends inside element {len(elements)}, which says {length} bytes")
        elements.append(bytes(data[at : at + length]))
        at += length
    if len(elements) != count:
        raise InvalidRequest(f"input {name!r} has {len(elements)} elements; its shape needs {count}")
    array = np.empty(count, np.object_)
    array[:] = elements
    return array


def _depth(data: memoryview) -> int:
    """How many lists the data opens with."""
    opening = OPENING.match(data)
    assert opening is not None  # it matches nothing, too
    return opening[0].count(b"[")


@cache
def list_type(kind: str, depth: int) -> Any:
    """Lists nested `depth` deep, with elements of the datatype's JSON type."""
    return list[list_type(kind, depth - 1)] if depth else _element(kind)  # type: ignore[misc]  # made at run time


@cache
def _bounded(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    """Of lists nested `depth` deep, with numbers that the datatype can hold."""
    found = _within(DTYPES[kind])
    for _ in range(depth):
        found = list[found]  # type: ignore[valid-type]  # made at run time
    return msgspec.json.Decoder(found)


@cache
def _decoder(kind: str, depth: int) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(list_type(kind, depth))


def element_type(spec: TensorSpec) -> Any:
    """The JSON type of a number that an input takes: one that its dtype can hold, within its bounds."""
    if spec.bounds is not None:
        return Annotated[int, msgspec.Meta(ge=spec.bounds.min, le=spec.bounds.max)]
    return _within(spec.numpy_dtype)


def _within(dtype: np.dtype[Any]) -> Any:
    """The JSON type of a number that a dtype can hold."""
    if dtype.kind == "b":
        return bool
    if dtype.kind == "f":
        largest = float(np.finfo(dtype).max)
        return Annotated[float, msgspec.Meta(ge=-largest, le=largest)]
    limits = np.iinfo(dtype)
    most = None if limits.max >= 2**63 else int(limits.max)  # beyond it msgspec compares no more, and NumPy says so
    return Annotated[int, msgspec.Meta(ge=int(limits.min), le=most)]


def _element(kind: str) -> type:
    """The JSON type of one element."""
    if kind == "BOOL":
        return bool
    if kind == "BYTES":
        return str
    return float if kind.startswith("FP") else int
