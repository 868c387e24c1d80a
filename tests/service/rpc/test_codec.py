"""Tensors as protobuf messages: what NumPy had comes out again, whichever way it travelled, and what does not fit is named."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelrepo.tensors import ShapeRange, Signature, TensorSpec
from service.codec import tensor
from service.errors import InvalidRequest, PayloadTooLarge, Unprocessable
from service.rpc import codec
from service.rpc.messages import InferParameter, ModelInferRequest

BATCH = ShapeRange(axis="batch", min=1, opt=4, max=8)
OUTPUT = TensorSpec(name="y", dtype="float32", shape=(BATCH, 2))
TYPED = sorted(set(codec.FIELDS) - {"BYTES"})


def signature(kind, *sizes):
    x = TensorSpec(name="x", dtype=np.dtype(tensor.DTYPES[kind]).name, shape=(BATCH, *sizes))
    return Signature(inputs=(x,), outputs=(OUTPUT,))


def decode(request, known, max_rows=100):
    return codec.decode(ModelInferRequest.FromString(request.SerializeToString()), known, max_rows, lambda name, array: None)


def message(kind, shape, contents=None, raw=None):
    request = ModelInferRequest(model_name="m")
    given_ = request.inputs.add(name="x", datatype=kind, shape=shape)
    if contents is not None:
        getattr(given_.contents, codec.FIELDS[kind]).extend(contents)
    if raw is not None:
        request.raw_input_contents.append(raw)
    return request


shapes = arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
tensors = st.sampled_from(TYPED).flatmap(lambda kind: arrays.arrays(tensor.DTYPES[kind], shapes))


@settings(max_examples=60, deadline=None)
@given(tensors, st.booleans())
def test_an_array_is_the_same_after_both_ways(array, raw):
    kind = tensor.datatype(array.dtype)
    if raw:
        request = message(kind, array.shape, raw=tensor.to_binary(array))
    else:
        request = message(kind, array.shape, contents=array.ravel().tolist())
    read = decode(request, signature(kind, *array.shape[1:]))
    assert read.inputs["x"].dtype == array.dtype
    np.testing.assert_array_equal(read.inputs["x"], array)
    answer = codec.encode(read, "m", "1", {"y": array})
    assert np.frombuffer(answer.raw_output_contents[0], array.dtype).tobytes() == array.tobytes()
    request.parameters["binary_data_output"].bool_param = False
    answer = codec.encode(decode(request, signature(kind, *array.shape[1:])), "m", "1", {"y": array})
    assert not answer.raw_output_contents
    (output,) = answer.outputs
    np.testing.assert_array_equal(np.array(getattr(output.contents, codec.FIELDS[kind]), array.dtype), array.ravel())


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([*tensor.KNOWN, "FP99", ""]),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 5), max_size=18),
    st.binary(max_size=40) | st.none(),
    st.sampled_from(sorted(set(codec.FIELDS.values()))),
    st.integers(0, 5),
)
def test_shapes_and_data_that_do_not_belong_together_are_refused_and_nothing_else(kind, shape, raw, field, count):
    request = ModelInferRequest()
    given_ = request.inputs.add(name="x", datatype=kind, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    else:
        getattr(given_.contents, field).extend([b"" if field == "bytes_contents" else 1] * count)
    try:
        read = decode(request, signature("FP32", 2))
    except (InvalidRequest, PayloadTooLarge):
        return
    assert (kind in ("FP32", "FP16", "BF16")) or read.inputs["x"].dtype == np.float32
    assert read.inputs["x"].size == math.prod(shape)


@pytest.mark.parametrize(
    ("request_", "message_"),
    [
        pytest.param(message("FP32", [1, 2], [1.0]), "1 elements in fp32_contents; shape [1, 2] needs 2", id="too few"),
        pytest.param(message("FP32", [1, 2], raw=bytes(4)), "4 bytes of binary data; FP32 of shape [1, 2] needs 8", id="short"),
        pytest.param(message("INT8", [1, 1], [300]), "a number does not fit INT8", id="too large"),
        pytest.param(message("UINT16", [1, 1], [2**16]), "a number does not fit UINT16", id="too large, unsigned"),
        pytest.param(message("FP16", [1, 2]), "is FP16, for which contents have no field", id="typed half precision"),
        pytest.param(message("FP32", [1, 2], [1, 2], raw=bytes(8)), "both contents and raw_input_contents", id="twice"),
        pytest.param(message("FP32", [-1, 2], [1, 2]), "sizes are 0 or more", id="negative"),
        pytest.param(message("FP32", [2**62, 4], [1, 2]), "at most 100 are taken at once", id="more rows than memory"),
        pytest.param(message("FP32", [1, 2**30, 2**30], [1, 2]), f"needs {2**60}", id="more elements than memory"),
        pytest.param(message("BYTES", [1, 2], [b"a", b"b"]), "datatype BYTES; the model takes FP32", id="texts for numbers"),
        pytest.param(message("BOOL", [1, 1], raw=b"\2"), "bytes are 0 or 1", id="no boolean"),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(request_, message_):
    with pytest.raises((InvalidRequest, PayloadTooLarge)) as raised:
        decode(request_, signature("FP32", 2))
    assert message_ in str(raised.value)


def test_the_wrong_field_is_named_with_the_right_one():
    request = message("INT64", [1, 1], [1])
    request.inputs[0].contents.fp32_contents.append(1)
    with pytest.raises(InvalidRequest, match="int64_contents and fp32_contents; the elements of INT64 belong in int64_contents"):
        decode(request, signature("INT64", 1))


def test_raw_contents_are_one_for_each_input():
    request = message("FP32", [1, 2], raw=bytes(8))
    request.raw_input_contents.append(b"")
    with pytest.raises(InvalidRequest, match="2 tensors and there are 1 inputs"):
        decode(request, signature("FP32", 2))


def test_a_parameter_without_a_value_and_shared_memory_are_refused():
    request = message("FP32", [1, 2], [1, 2])
    request.parameters["priority"].CopyFrom(InferParameter())
    with pytest.raises(InvalidRequest, match="'priority' has no value"):
        decode(request, signature("FP32", 2))
    request = message("FP32", [1, 2], [1, 2])
    request.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(InvalidRequest, match="shares no memory"):
        decode(request, signature("FP32", 2))


def test_outputs_may_be_asked_for_typed_but_not_some_of_them():
    known = Signature(inputs=signature("FP32", 2).inputs, outputs=(OUTPUT, OUTPUT.model_copy(update={"name": "z"})))
    request = message("FP32", [1, 2], [1, 2])
    request.outputs.add(name="y").parameters["binary_data"].bool_param = False
    outputs = {name: np.ones((1, 2), np.float32) for name in "yz"}
    answer = codec.encode(decode(request, known), "m", "1", outputs)
    assert [output.contents.fp32_contents for output in answer.outputs] == [[1, 1]]
    request.outputs.add(name="z")
    with pytest.raises(InvalidRequest, match="ask twice"):
        decode(request, known)
    request = message("FP32", [1, 2], [1, 2])
    request.parameters["binary_data_output"].bool_param = False
    with pytest.raises(Unprocessable, match="'y' is FP16, for which contents have no field"):
        codec.encode(decode(request, known), "m", "1", {"y": np.ones((1, 2), np.float16)})


def test_a_message_that_is_none_is_refused():
    with pytest.raises(InvalidRequest, match=r"is no inference\.ModelInferRequest"):
        codec.parse(ModelInferRequest, b"\xff\xff")
