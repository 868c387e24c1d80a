from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec.packing import MOST_LAYOUTS, Packing

WHOLE = [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]


@given(
    dtype=st.sampled_from([np.float16, np.float32, np.float64]),
    numbers=st.lists(st.floats(-60000, 60000) | st.integers(-60000, 60000) | st.integers(2**53, 2**70), min_size=1, max_size=12),
)
def test_fractions_and_whole_numbers_become_what_numpy_makes_of_them(dtype, numbers):
    with np.errstate(over="ignore"):
        expected = np.asarray([float(number) for number in numbers], dtype)
    packing = Packing(np.dtype(dtype))
    if np.isinf(expected).any():
        return
    array = packing.array(numbers, [len(numbers), 1])
    assert array.dtype == dtype
    np.testing.assert_array_equal(array, expected[:, None])


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers_are_kept_to_the_last_that_fits(dtype):
    limits = np.iinfo(dtype)
    packing = Packing(np.dtype(dtype))
    assert packing.array([int(limits.min), int(limits.max)], [2]).tolist() == [limits.min, limits.max]
    for number in (int(limits.max) + 1, int(limits.min) - 1, 1.0, "1", None):
        with pytest.raises(struct.error):
            packing.array([number], [1])


def test_booleans_are_packed_for_inputs_that_take_them():
    array = Packing(np.dtype(np.bool_)).array([True, False], [2, 1])
    assert array.dtype == np.bool_
    assert array.tolist() == [[True], [False]]


@pytest.mark.parametrize("number", ["1", None, [1.0]])
def test_what_is_no_number_does_not_become_one(number):
    for first in (1, 1.0):
        with pytest.raises(struct.error):
            Packing(np.dtype(np.float32)).array([first, number], [2])


@pytest.mark.parametrize("number", [1e39, -1e39, 10**39])
def test_a_number_too_large_for_the_dtype_is_no_infinity(number):
    with pytest.raises((OverflowError, struct.error)):
        Packing(np.dtype(np.float32)).array([0.5, number], [2])


def test_any_number_of_counts_takes_little_memory():
    packing = Packing(np.dtype(np.float32))
    for count in range(1, MOST_LAYOUTS + 10):
        assert packing.array([0.5] * count, [count]).shape == (count,)
    assert len(packing._layouts) < MOST_LAYOUTS
