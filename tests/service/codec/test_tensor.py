from __future__ import annotations

import json
from contextlib import suppress

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from service.codec import tensor
from service.errors import InvalidRequest, Unprocessable

JSON_KINDS = [kind for kind in tensor.DTYPES if kind != "FP16"]


def arrays(kind: str, finite: bool = False) -> st.SearchStrategy[np.ndarray]:
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=4)
    if kind == "BYTES":
        text = st.text().map(str.encode)
        return hnp.arrays(np.object_, shapes, elements=text)
    dtype = tensor.DTYPES[kind]
    floats = {"allow_nan": not finite, "allow_infinity": not finite, "width": dtype.itemsize * 8} if dtype.kind == "f" else {}
    return hnp.arrays(dtype, shapes, elements=st.floats(**floats) if floats else None)


@pytest.mark.parametrize("kind", tensor.DTYPES)
def test_every_datatype_survives_binary(kind):
    @given(arrays(kind))
    def check(array):
        wire = memoryview(tensor.to_binary(array))
        back = tensor.from_binary("x", kind, list(array.shape), wire)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)

    check()


@pytest.mark.parametrize("kind", JSON_KINDS)
@pytest.mark.parametrize("form", ["flat", "nested"])
def test_every_datatype_survives_json(kind, form):
    @given(arrays(kind, finite=True))
    def check(array):
        flat = json.loads(tensor.to_json("x", array))
        if form == "nested":
            if 0 in array.shape:
                return  # JSON cannot tell [0, 3] from [0]: such tensors travel flat
            texts = np.array(flat, np.object_ if kind == "BYTES" else array.dtype).reshape(array.shape)
            flat = texts.tolist()
        back = tensor.from_json("x", kind, list(array.shape), memoryview(json.dumps(flat).encode()))
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)

    check()


def test_a_scalar_is_a_tensor_of_rank_0():
    assert tensor.from_json("x", "FP32", [], memoryview(b" 5")).shape == ()
    assert tensor.from_json("x", "BYTES", [], memoryview(b'"abc"')).tolist() == b"abc"


@given(hnp.arrays(np.uint16, hnp.array_shapes(max_dims=3, max_side=4)))
def test_every_bf16_number_arrives_as_the_float32_of_the_same_value(halves):
    found = tensor.from_binary("x", "BF16", list(halves.shape), memoryview(halves.tobytes()))
    expected = halves.view(ml_dtypes.bfloat16).astype(np.float32)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, expected)


def test_half_precision_has_no_json_form_in_either_direction():
    for kind in ("FP16", "BF16"):
        with pytest.raises(InvalidRequest, match=f"'x' is {kind}, which JSON does not carry: send it as binary data"):
            tensor.from_json("x", kind, [1], memoryview(b"[1]"))
    with pytest.raises(Unprocessable, match="'y' is FP16, which JSON does not carry: ask for binary data"):
        tensor.to_json("y", np.zeros(1, np.float16))


@pytest.mark.parametrize(
    ("kind", "shape", "data", "message"),
    [
        pytest.param("FP32", [2], '["1", 2]', "Expected `float`, got `str`", id="string among floats"),
        pytest.param("FP32", [1], "[true]", "Expected `float`, got `bool`", id="boolean among floats"),
        pytest.param("FP32", [1], "[null]", "Expected `float`, got `null`", id="null"),
        pytest.param("FP32", [1], "[1e39]", "too large for FP32", id="overflow to infinity"),
        pytest.param("FP32", [1], "[NaN]", "malformed", id="NaN, which is no JSON"),
        pytest.param("INT64", [1], "[1.5]", "Expected `int`, got `float`", id="fraction among integers"),
        pytest.param("INT64", [1], f"[{2**63}]", "a number does not fit INT64", id="beyond int64"),
        pytest.param("UINT8", [1], "[256]", "a number does not fit UINT8", id="beyond uint8"),
        pytest.param("UINT8", [1], "[-1]", "a number does not fit UINT8", id="negative unsigned"),
        pytest.param("BOOL", [1], "[1]", "Expected `bool`, got `int`", id="number among booleans"),
        pytest.param("BYTES", [1], "[1]", "Expected `str`, got `int`", id="number among strings"),
        pytest.param("BYTES", [2, 2], '[["a", "b"], ["c"]]', "uneven length", id="ragged strings"),
        pytest.param("FP32", [2, 2], "[[1, 2], [3]]", "inhomogeneous", id="ragged numbers"),
        pytest.param("FP32", [2, 2], "[1, 2, 3]", r"3 elements; shape \[2, 2\] needs 4", id="too few"),
        pytest.param(
            "FP32", [2, 3], "[[1, 2], [3, 4], [5, 6]]", r"data of shape \[3, 2\], but says shape \[2, 3\]", id="transposed"
        ),
        pytest.param("FP32", [2, 2], "[[[1]]]", "nested 3 deep", id="nested too deep"),
        pytest.param("FP32", [4], "7", "nested 0 deep", id="no list"),
        pytest.param("FP32", [-1], "[1]", r"has shape \[-1\]; sizes are 0 or more", id="negative size"),
        pytest.param("FP32", [2**40], "[1]", "sizes are 0 or more", id="absurd size"),
        pytest.param("FP31", [1], "[1]", "datatype 'FP31'; known are BOOL", id="unknown datatype"),
    ],
)
def test_json_data_is_never_coerced(kind, shape, data, message):
    with pytest.raises(InvalidRequest, match=message):
        tensor.from_json("x", kind, shape, memoryview(data.encode()))


@pytest.mark.parametrize(
    ("kind", "shape", "data", "message"),
    [
        pytest.param("FP32", [2], b"1234", r"4 bytes of binary data; FP32 of shape \[2\] needs 8", id="too short"),
        pytest.param("FP32", [1], b"12345678", "8 bytes of binary data", id="too long"),
        pytest.param("BOOL", [2], b"\x00\x02", "holds the byte 2", id="neither true nor false"),
        pytest.param("BYTES", [1], b"\x04\x00\x00", "ends inside the length of element 0", id="torn length"),
        pytest.param("BYTES", [1], b"\x04\x00\x00\x00abc", "ends inside element 0, which says 4 bytes", id="torn element"),
        pytest.param("BYTES", [2], b"\x01\x00\x00\x00a", "1 elements; its shape needs 2", id="too few elements"),
    ],
)
def test_binary_data_must_be_exactly_as_long_as_announced(kind, shape, data, message):
    with pytest.raises(InvalidRequest, match=message):
        tensor.from_binary("x", kind, shape, memoryview(data))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_number_json_cannot_carry_is_named_with_its_row(value):
    output = np.zeros((3, 2), np.float32)
    output[1, 1] = value
    with pytest.raises(Unprocessable, match="'y' is not a finite number in row 1"):
        tensor.to_json("y", output)


def test_binary_numbers_are_aligned_wherever_they_lie_in_the_body():
    body = b"x" * 3 + np.arange(4, dtype=np.float32).tobytes()
    array = tensor.from_binary("x", "FP32", [4], memoryview(body)[3:])
    assert array.flags.aligned
    assert array.tolist() == [0, 1, 2, 3]


@given(
    st.sampled_from(tensor.KNOWN),
    st.lists(st.integers(0, 4), max_size=3),
    st.binary(max_size=64),
    st.sampled_from([tensor.from_binary, tensor.from_json]),
)
def test_garbage_never_raises_anything_but_an_invalid_request(kind, shape, data, decode):
    with suppress(InvalidRequest):
        assert decode("x", kind, shape, memoryview(data)).shape == tuple(shape)
