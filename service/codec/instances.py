"""`{"instances": [...]}`, the friendly request: rows as JSON, one by one, to a model's input tensors."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Annotated, Any, NamedTuple

import msgspec
import numpy as np

from modelrepo.tensors import Array, Signature, Tensors, TensorSpec
from service.codec import tensor
from service.codec.kind import Kind
from service.errors import InvalidRequest, Unprocessable, too_many_rows


class Instances(NamedTuple):
    """A decoded request: the model's inputs, how many labels to list (None: all), and whether to explain the answer.

    `rows` and `length` (None without sequences) are those of inputs known to fit the signature; 0 rows where that is to be checked.
    """

    inputs: Tensors
    top_k: int | None = None
    explain: bool = False
    rows: int = 0
    length: int | None = None


@cache
def _decoder(instances: Any) -> msgspec.json.Decoder[Any]:
    """Of a whole request, with its instances as the given type."""
    fields: list[Any] = [("instances", instances), ("top_k", int | None, None), ("explain", bool | None, None)]
    return msgspec.json.Decoder(msgspec.defstruct("Request", fields, forbid_unknown_fields=True))


class Numbers:
    """Requests of nothing but numbers, for one signature: all rows at once.

    The signature becomes the type that JSON is decoded to, with its sizes and bounds, so that decoding is checking.
    """

    def __init__(self, signature: Signature) -> None:
        (self._spec, *more) = signature.value_inputs
        self._mask = signature.mask
        self._dtype = self._spec.numpy_dtype.newbyteorder("<")
        self._never = bool(more) or self._spec.length_axis not in (None, 1)
        self._decode = _decoder(_instances(self._spec)).decode

    def decode(self, body: bytes, max_rows: int) -> Instances | None:
        """The rows, sequences of different lengths padded and masked.

        None where all is not as it should be, and for signatures of several inputs: the function `decode` then finds out.
        """
        if self._never:
            return None
        try:
            request = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        instances = request.instances
        rows = len(instances)
        if rows > max_rows:
            return None
        explain = request.explain or False
        if self._mask is None:
            return Instances({self._spec.name: np.asarray(instances, self._dtype)}, request.top_k, explain, rows)
        lengths = [len(row) for row in instances]
        longest = max(lengths)
        if min(lengths) == longest:
            padded, real = np.asarray(instances, self._dtype), np.ones((rows, longest), np.bool_)
        else:
            real = np.arange(longest) < np.array(lengths)[:, None]
            padded = np.zeros((rows, longest, *self._spec.shape_at(1, 1)[2:]), self._dtype)
            padded[real] = np.asarray(
                [step for row in instances for step in row], self._dtype
            )  # both run through the rows in order
        return Instances({self._spec.name: padded, self._mask.name: real}, request.top_k, explain, rows, longest)


def _instances(spec: TensorSpec) -> Any:
    """Rows of an input as a type: lists in lists of its sizes, with numbers that its dtype and bounds hold."""
    found: Any = tensor.element_type(spec)
    for dim in reversed(spec.shape[1:]):
        shortest, longest = (dim, dim) if isinstance(dim, int) else (dim.min, dim.max)
        found = Annotated[list[found], msgspec.Meta(min_length=shortest, max_length=longest)]
    return Annotated[list[found], msgspec.Meta(min_length=1)]


def decode(body: bytes, signature: Signature, max_rows: int, kind: Kind | None = None) -> Instances:
    """A request, row by row. An instance is one row of the model's input, an object of rows by input name, or of the `kind`.

    Raises InvalidRequest, Unprocessable for lengths the model does not take, PayloadTooLarge beyond `max_rows` instances.
    """
    try:
        request = _decoder(list[msgspec.Raw]).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f'the request is not valid: {error}; send {{"instances": [...]}}') from None
    except RecursionError:
        raise InvalidRequest("the request is not valid: it is nested too deeply") from None
    if not request.instances:
        raise InvalidRequest("instances is empty; give at least one")
    if len(request.instances) > max_rows:
        raise too_many_rows(len(request.instances), max_rows)
    read = kind.rows(request.instances) if kind else [None] * len(request.instances)
    rows: dict[str, list[Array]] = {spec.name: [] for spec in signature.value_inputs}
    for position, (instance, row) in enumerate(zip(request.instances, read, strict=True)):
        if row is not None:
            rows[signature.value_inputs[0].name].append(row)
            continue
        for spec, data in _by_input(position, instance, signature.value_inputs):
            rows[spec.name].append(_row(position, spec, data))
    return Instances(_stack(signature, rows), request.top_k, bool(request.explain))


def stack(signature: Signature, rows: list[Array]) -> Tensors:
    """Rows of a model's only input as one padded batch, with its mask. Raises Unprocessable for lengths it does not take."""
    return _stack(signature, {signature.value_inputs[0].name: rows})


def _by_input(position: int, instance: msgspec.Raw, specs: tuple[TensorSpec, ...]) -> Iterator[tuple[TensorSpec, msgspec.Raw]]:
    """An instance's data for each input: the instance itself where there is one input, else the object's values."""
    if memoryview(instance).tobytes()[:1] != b"{":
        if len(specs) > 1:
            raise InvalidRequest(f"instance {position} must be an object with the keys {', '.join(spec.name for spec in specs)}")
        yield specs[0], instance
        return
    try:
        fields = msgspec.json.decode(instance, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"instance {position}: {error}") from None
    names = {spec.name for spec in specs}
    if set(fields) != names:
        raise InvalidRequest(f"instance {position} has the keys {sorted(fields)}; it needs {sorted(names)}")
    for spec in specs:
        yield spec, fields[spec.name]


def _row(position: int, spec: TensorSpec, data: msgspec.Raw) -> Array:
    """One row of one input, nested like its shape; the length of a sequence is what is there."""
    kind, depth = tensor.datatype(spec.dtype), len(spec.shape) - 1
    try:
        if spec.length_axis == 1 and tensor.lists(memoryview(data), kind, depth) == []:
            return np.zeros(spec.shape_at(1, 0)[1:], spec.dtype)  # a length that `_stack` will name
        array = tensor.nested(memoryview(data), kind, depth)
    except InvalidRequest as error:
        raise InvalidRequest(f"instance {position}, {spec.name!r}: {error}; expected {_describe(spec)}") from None
    fixed = [(size, dim) for size, dim in zip(array.shape, spec.shape[1:], strict=True) if isinstance(dim, int)]
    if any(size != dim for size, dim in fixed):
        raise InvalidRequest(f"instance {position}, {spec.name!r}: found shape {list(array.shape)}; expected {_describe(spec)}")
    return array


def _stack(signature: Signature, rows: dict[str, list[Array]]) -> Tensors:
    """Rows of possibly different lengths as one padded batch, with the mask that tells them apart."""
    if signature.length is None:
        return {name: np.stack(arrays) for name, arrays in rows.items()}
    axis = {spec.name: spec.length_axis for spec in signature.value_inputs}
    per_row = [{arrays[i].shape[a - 1] for name, arrays in rows.items() if (a := axis[name]) is not None} for i in _positions(rows)]
    for position, found in enumerate(per_row):
        if len(found) > 1:
            raise InvalidRequest(f"instance {position} has inputs of lengths {sorted(found)}; they must be the same")
    lengths = [found.pop() for found in per_row]
    for position, length in enumerate(lengths):
        if length not in signature.length:
            span = f"{signature.length.min} to {signature.length.max}"
            raise Unprocessable(f"instance {position} has length {length}; the model takes {span}")
    longest = max(lengths)
    batch = {
        spec.name: np.concatenate([spec.resized(row[None], longest) for row in rows[spec.name]]) for spec in signature.value_inputs
    }
    if signature.mask:
        batch[signature.mask.name] = np.arange(longest) < np.array(lengths)[:, None]
    return batch


def _positions(rows: dict[str, list[Array]]) -> range:
    return range(len(next(iter(rows.values()))))


def _describe(spec: TensorSpec) -> str:
    """The shape of one row: without the batch axis."""
    dims = ", ".join(str(dim) if isinstance(dim, int) else dim.axis for dim in spec.shape[1:])
    return f"{spec.dtype} [{dims}]"
