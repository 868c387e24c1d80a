"""Shapes and dtypes of a model's inputs and outputs, written once and read by everyone.

A family's `signature()` makes these objects; ONNX axes, TensorRT profiles, request validation, padding, the OpenAPI
examples and the load test's payloads are all derived from them.

Axes: dimension 0 of every tensor is the batch. A sequence model's tensors mark one more axis as its length; sequences of
different lengths share a batch by zero-padding that axis, and a boolean mask input says which positions are real.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

from modelrepo.errors import OutOfRange, WrongTensor

Array = npt.NDArray[Any]
Tensors = dict[str, Array]
DType = Literal["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"]


class Strict(BaseModel):
    """Base of everything stored: immutable, no coercion, unknown keys refused, no NaN or infinity."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class ShapeRange(Strict):
    """The sizes a dynamic axis takes: at least `min`, at most `max`, tuned for `opt`."""

    axis: Literal["batch", "length"]
    min: PositiveInt
    opt: PositiveInt
    max: PositiveInt

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.min <= self.opt <= self.max:
            raise ValueError(f"{self.axis} range needs min <= opt <= max, not {self.min}, {self.opt}, {self.max}")
        return self

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max

    @cached_property
    def buckets(self) -> tuple[int, ...]:
        """The sizes promised to run well, ascending, from `min` to `max`.

        Batches double (1, 2, 4, …). Lengths also take the step between two doublings (…, 16, 24, 32, 48, …), because a
        sequence is really padded up to its bucket, which then never adds more than half its length.
        """
        sizes = {self.min, self.max}
        step = 1
        while step < self.max:
            candidates = (step, step + step // 2) if self.axis == "length" else (step,)
            sizes.update(size for size in candidates if size in self)
            step *= 2
        return tuple(sorted(sizes))

    def bucket(self, size: int) -> int:
        """The smallest bucket that holds `size`. Raises OutOfRange beyond `max`."""
        for bucket in self.buckets:
            if bucket >= size:
                return bucket
        raise OutOfRange(f"{self.axis} {size} is more than the model's maximum, {self.max}")


Dim = PositiveInt | ShapeRange

DEFAULT_BATCH = ShapeRange(axis="batch", min=1, opt=8, max=64)


class Bounds(Strict):
    """Smallest and largest value, both allowed, of an integer tensor such as token ids."""

    min: int
    max: int


class TensorSpec(Strict):
    """One input or output: name, dtype, and a shape in which fixed sizes are integers and dynamic axes are ranges."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
    dtype: DType
    shape: tuple[Dim, ...]
    role: Literal["value", "mask"] = "value"
    bounds: Bounds | None = None
    description: str = ""

    @model_validator(mode="after")
    def _axes(self) -> Self:
        axes = [dim.axis for dim in self.shape if isinstance(dim, ShapeRange)]
        if axes[:1] != ["batch"] or not isinstance(self.shape[0], ShapeRange) or len(set(axes)) != len(axes):
            raise ValueError(f"tensor {self.name!r} needs the batch as its first axis and at most one length axis, not {axes}")
        if self.role == "mask" and (self.dtype != "bool" or axes != ["batch", "length"] or len(self.shape) != 2):
            raise ValueError(f"mask {self.name!r} must be a bool tensor of shape [batch, length]")
        if self.bounds and not self.dtype.startswith(("int", "uint")):
            raise ValueError(f"tensor {self.name!r} has bounds, which only integer tensors take, not {self.dtype}")
        return self

    @cached_property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype as NumPy's object, which compares faster than its name."""
        return np.dtype(self.dtype)

    @cached_property
    def length_axis(self) -> int | None:
        """Index of the length axis, None where the shape has none."""
        return next((i for i, dim in enumerate(self.shape) if isinstance(dim, ShapeRange) and dim.axis == "length"), None)

    @cached_property
    def wire_shape(self) -> list[int]:
        """The shape as the Open Inference Protocol writes it: -1 for a dynamic axis."""
        return [-1 if isinstance(dim, ShapeRange) else dim for dim in self.shape]

    def shape_at(self, batch: int, length: int | None = None) -> tuple[int, ...]:
        """The concrete shape for one batch size and, for sequences, one length."""
        sizes = {"batch": batch, "length": length}
        resolved = [sizes[dim.axis] if isinstance(dim, ShapeRange) else dim for dim in self.shape]
        if None in resolved:
            raise ValueError(f"tensor {self.name!r} has a length axis: give the length")
        return tuple(size for size in resolved if size is not None)

    def resized(self, array: Array, length: int) -> Array:
        """`array` with its length axis cut or zero-padded to `length`; unchanged where the spec has no such axis."""
        axis = self.length_axis
        if axis is None or array.shape[axis] == length:
            return array
        if array.shape[axis] > length:
            return array[(slice(None),) * axis + (slice(length),)]
        resized = np.zeros((*array.shape[:axis], length, *array.shape[axis + 1 :]), array.dtype)
        resized[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
        return resized

    def describe(self) -> str:
        """Shape and dtype for error messages: `float32 [batch, length, 2]`."""
        dims = ", ".join(dim.axis if isinstance(dim, ShapeRange) else str(dim) for dim in self.shape)
        return f"{self.dtype} [{dims}]"


class Signature(Strict):
    """All inputs and outputs of one model."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        specs = [*self.inputs, *self.outputs]
        names = [spec.name for spec in specs]
        if not self.inputs or not self.outputs:
            raise ValueError("a signature needs at least one input and one output")
        if len(set(names)) != len(names):
            raise ValueError(f"tensor names must differ, not {names}")
        if not self.value_inputs:
            raise ValueError("a signature needs an input that is not a mask")
        if len(self.inputs) - len(self.value_inputs) > 1 or any(spec.role == "mask" for spec in self.outputs):
            raise ValueError("a signature has at most one mask, and it is an input")
        if any(spec.length_axis is not None for spec in self.outputs):
            raise ValueError("outputs have no length axis: a sequence is answered by numbers of a fixed count")
        for axis in ("batch", "length"):
            ranges = {dim for spec in specs for dim in spec.shape if isinstance(dim, ShapeRange) and dim.axis == axis}
            if len(ranges) > 1:
                raise ValueError(f"all tensors share one {axis} range, not {len(ranges)} different ones")
        return self

    @cached_property
    def batch(self) -> ShapeRange:
        """The batch range shared by all tensors."""
        return next(self._ranges("batch"))

    @cached_property
    def length(self) -> ShapeRange | None:
        """The length range shared by all sequence tensors, None for a model without sequences."""
        return next(self._ranges("length"), None)

    @cached_property
    def mask(self) -> TensorSpec | None:
        """The mask input of a sequence model, if it has one."""
        return next((spec for spec in self.inputs if spec.role == "mask"), None)

    @cached_property
    def value_inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs a caller must give: all but the mask."""
        return tuple(spec for spec in self.inputs if spec.role == "value")

    def _ranges(self, axis: str) -> Iterator[ShapeRange]:
        for spec in (*self.inputs, *self.outputs):
            for dim in spec.shape:
                if isinstance(dim, ShapeRange) and dim.axis == axis:
                    yield dim

    def complete(self, inputs: Mapping[str, Array]) -> Tensors:
        """`inputs` plus, where the caller left out the mask, one that calls every position real.

        The mask of a malformed input is left out; `check` then says what is wrong with that input.
        """
        complete = dict(inputs)
        if self.mask and self.mask.name not in complete:
            for spec in self.value_inputs:
                array = inputs.get(spec.name)
                if spec.length_axis is not None and array is not None and array.ndim == len(spec.shape):
                    complete[self.mask.name] = np.ones((array.shape[0], array.shape[spec.length_axis]), np.bool_)
        return complete

    def check(self, inputs: Mapping[str, Array]) -> tuple[int, int | None]:
        """Names, dtypes, ranks, sizes. Returns (rows, length); length is None for a model without sequences.

        The batch's maximum is not looked at: a caller may bring more rows than one batch holds, a session may not.
        Raises WrongTensor or OutOfRange with a message for whoever made the tensors.
        """
        if (right := self._plainly_right(inputs)) is not None:
            return right
        expected = [spec.name for spec in self.inputs]
        if unknown := sorted(set(inputs) - set(expected)):
            raise WrongTensor(f"unknown input {unknown[0]!r}; this model takes {_listed(expected)}")
        sizes: dict[str, tuple[int, str]] = {}
        for spec in self.inputs:
            array = inputs.get(spec.name)
            if array is None:
                raise WrongTensor(f"input {spec.name!r} is missing; this model takes {_listed(expected)}")
            if array.dtype != spec.numpy_dtype:
                raise WrongTensor(f"input {spec.name!r} is {array.dtype.name}; send it as {spec.dtype}")
            if array.ndim != len(spec.shape):
                raise WrongTensor(f"input {spec.name!r} has shape {list(array.shape)}; the model takes {spec.describe()}")
            for dim, size in zip(spec.shape, array.shape, strict=True):
                if isinstance(dim, int):
                    if size != dim:
                        raise WrongTensor(f"input {spec.name!r} has shape {list(array.shape)}; the model takes {spec.describe()}")
                    continue
                first = sizes.setdefault(dim.axis, (size, spec.name))
                if first[0] != size:
                    raise WrongTensor(
                        f"input {spec.name!r} has {dim.axis} {size} and input {first[1]!r} has {first[0]}; they must be the same"
                    )
                if size < dim.min or (dim.axis == "length" and size > dim.max):
                    limits = f"at least {dim.min}" if dim.axis == "batch" else f"{dim.min} to {dim.max}"
                    raise OutOfRange(f"input {spec.name!r} has {dim.axis} {size}; the model takes {limits}")
        return sizes["batch"][0], sizes["length"][0] if "length" in sizes else None

    def _plainly_right(self, inputs: Mapping[str, Array]) -> tuple[int, int | None] | None:
        """The rows and length of inputs that are what they should be; None where one is not, for `check` to say which."""
        rows, length = 0, None
        if len(inputs) != len(self._expected):
            return None
        for name, dtype, before, dim, after in self._expected:
            array = inputs.get(name)
            if array is None or array.dtype != dtype:
                return None
            shape = array.shape
            if dim is None:
                if shape[1:] != before:
                    return None
            else:
                at = 1 + len(before)
                if len(shape) <= at or shape[1:at] != before or shape[at + 1 :] != after or shape[at] not in dim:
                    return None
                if length is not None and shape[at] != length:
                    return None
                length = shape[at]
            if rows and shape[0] != rows:
                return None
            rows = shape[0]
        return (rows, length) if rows >= self.batch.min else None

    @cached_property
    def _expected(self) -> list[tuple[str, np.dtype[Any], tuple[Dim, ...], ShapeRange | None, tuple[Dim, ...]]]:
        """Of each input its name, its dtype, and a row's sizes: those before the length, the length if it has one, those after."""
        found = []
        for spec in self.inputs:
            at = spec.length_axis
            dim = None if at is None else spec.shape[at]
            assert not isinstance(dim, int)
            found.append((spec.name, spec.numpy_dtype, spec.shape[1:at], dim, () if at is None else spec.shape[at + 1 :]))
        return found

    def check_values(self, inputs: Mapping[str, Array]) -> None:
        """Values a graph would misread rather than refuse: ids outside the vocabulary, masks with holes.

        Raises OutOfRange naming row, position and value.
        """
        for spec in self.inputs:
            array = inputs[spec.name]
            if spec.bounds and array.size:
                wrong = (array < spec.bounds.min) | (array > spec.bounds.max)
                if wrong.any():
                    at = np.unravel_index(int(wrong.argmax()), array.shape)
                    raise OutOfRange(
                        f"input {spec.name!r} holds {array[at]} at {[int(i) for i in at]}; "
                        f"values go from {spec.bounds.min} to {spec.bounds.max}"
                    )
            if spec.role == "mask":
                self._check_mask(spec, array)

    def _check_mask(self, spec: TensorSpec, mask: Array) -> None:
        assert self.length is not None  # a mask has a length axis: checked when the spec was made
        lengths = mask.sum(axis=1)
        if (short := lengths < self.length.min).any():
            row = int(short.argmax())
            raise OutOfRange(
                f"{spec.name!r} marks {lengths[row]} positions of row {row} as real; the model takes at least {self.length.min}"
            )
        holes = (mask != (np.arange(mask.shape[1]) < lengths[:, None])).any(axis=1)
        if holes.any():
            raise OutOfRange(f"{spec.name!r} row {int(holes.argmax())} has a hole: real positions come first, padding after them")


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name) for name in names)
