"""JSON numbers to an array, by orjson and `struct`: NumPy takes twice as long, as it looks at the type of each anew."""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct, error
from typing import Any, Final, cast

import numpy as np
import orjson

from modelrepo.tensors import Array
from service.remembered import Remembered

CODES = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?"},
    **{"i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}
"""struct's codes of NumPy's types."""
MOST_LAYOUTS: Final = 1024  # counts of numbers whose layout is kept


class Packing:
    """Into arrays of one dtype, little-endian."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._dtype = dtype.newbyteorder("<")
        self._code = CODES[self._dtype.str[1:]]
        self._layouts: Remembered[int, Struct] = Remembered(MOST_LAYOUTS)
        self._whole = Packing(np.dtype(np.int64)) if dtype.kind == "f" else None

    def decode(self, text: bytes, shape: Sequence[int] | None = None) -> Array | None:
        """An array of that shape, flat without one, from a JSON list; None where it is not one of so many numbers of the dtype."""
        if b"e" in text and (b"t" in text or b"f" in text):  # true or false, which would be taken for numbers
            return None
        try:
            numbers = orjson.loads(text)
            if type(numbers) is not list or not numbers:
                return None
            return self.array(numbers, [len(numbers)] if shape is None else shape)
        except (orjson.JSONDecodeError, error, OverflowError):
            return None

    def array(self, numbers: list[Any], shape: Sequence[int]) -> Array:
        """An array of that shape from as many numbers. True and False are taken for 1 and 0.

        Raises struct.error for another count, for what is no number, for a fraction where there is to be none, and for a whole
        number that the dtype cannot hold; OverflowError for another that it cannot.
        """
        whole = self._whole
        if whole is not None and type(numbers[0]) is int:
            try:
                found = whole.array(numbers, shape)
            except error:
                pass  # there are others among them
            else:
                return found.astype(np.float64).astype(self._dtype)  # a double, as decoders have numbers that may be fractions
        array: Array = np.empty(shape, self._dtype)
        layout = self._layouts.get(array.size)
        if layout is None:
            layout = Struct(f"<{array.size}{self._code}")
            self._layouts.remember(array.size, layout)
        layout.pack_into(cast(Any, array), 0, *numbers)  # that it can be written to is not in its annotations
        return array
