"""What the client writes the server reads, and the other way round; nobody's copy of a datatype is another's."""

from __future__ import annotations

import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelrepo.tensors import ShapeRange, Signature, TensorSpec
from quartet_client import wire
from quartet_client.answers import Prediction
from service.codec import tensor, v2
from service.errors import InvalidRequest

BATCH = ShapeRange(axis="batch", min=1, opt=4, max=8)
NUMBERS = [kind for kind in tensor.DTYPES if kind != "BYTES"]


def signature(array):
    specs = [TensorSpec(name=name, dtype=array.dtype.name, shape=(BATCH, *array.shape[1:])) for name in ("x", "y")]
    return Signature(inputs=(specs[0],), outputs=(specs[1],))


def decode(headers, body, known):
    return v2.decode(body, headers.get(wire.HEADER_LENGTH), known, 100)


def test_datatypes_are_the_servers():
    assert wire.DTYPES == tensor.DTYPES


shapes = arrays.array_shapes(min_dims=1, max_dims=3, min_side=1, max_side=4)
FINITE = {"allow_nan": False, "allow_infinity": False}  # which JSON has no number for
tensors = st.sampled_from(NUMBERS).flatmap(
    lambda kind: arrays.arrays(tensor.DTYPES[kind], shapes, elements=FINITE if kind.startswith("FP") else None)
)
TEXTS = (np.array([["hé", ""]]), np.array([["hé", ""]], np.object_), np.array([["hé".encode(), b""]], np.object_))


@settings(max_examples=60, deadline=None)
@given(tensors, st.booleans())
def test_an_array_is_the_same_on_the_server_and_when_it_comes_back(array, binary):
    binary = binary or array.dtype == np.float16  # which JSON does not carry
    request = decode(*wire.infer_body({"x": array}, binary=binary), signature(array))
    np.testing.assert_array_equal(request.inputs["x"], array)
    assert request.inputs["x"].dtype == array.dtype
    content, length = v2.encode(request, "m", "3", {"y": array})
    headers = {} if length is None else {wire.HEADER_LENGTH.lower(): str(length)}
    answer = wire.read_infer(headers, content)
    np.testing.assert_array_equal(answer["y"], array)
    assert (answer["y"].dtype, answer.model, answer.version) == (array.dtype, "m", "3")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("texts", TEXTS, ids=["str", "str objects", "bytes objects"])
def test_texts_are_bytes_on_the_server_and_when_they_come_back(texts, binary):
    headers, body = wire.infer_body({"x": texts}, binary=binary)
    seen = []
    known = signature(np.zeros((1, 2), np.float32))
    with pytest.raises(InvalidRequest, match="datatype BYTES"):
        v2.decode(body, headers.get(wire.HEADER_LENGTH), known, 100, lambda name, array: seen.append(array))
    assert seen[0].tolist() == [["hé".encode(), b""]]
    if binary:
        output = {"name": "y", "datatype": "BYTES", "shape": [1, 2], "parameters": {"binary_data_size": 11}}
        answer = wire.outputs_of({"model_name": "m", "model_version": "1", "outputs": [output]}, tensor.to_binary(seen[0]))
        assert answer["y"].tolist() == [["hé".encode(), b""]]


def test_what_is_not_laid_out_as_it_travels_is_brought_into_order():
    array = np.arange(6, dtype=">f4").reshape(2, 3).T
    request = decode(*wire.infer_body({"x": array}), signature(np.zeros((3, 2), np.float32)))
    np.testing.assert_array_equal(request.inputs["x"], array)
    half = np.array([[1.5, -2]], ml_dtypes.bfloat16)
    request = decode(*wire.infer_body({"x": half}), signature(np.zeros((1, 2), np.float32)))
    np.testing.assert_array_equal(request.inputs["x"], half.astype(np.float32))


@pytest.mark.parametrize("array", [np.zeros(1, np.complex64), np.array([object()])])
def test_what_the_protocol_does_not_carry_is_refused_before_it_is_sent(array):
    with pytest.raises(ValueError, match="no datatype in the protocol|takes str and bytes"):
        wire.infer_body({"x": array})


def test_instances_may_hold_arrays_numbers_of_numpy_and_files():
    _, body = wire.predict_body([np.arange(2), {"x": np.float32(1.5)}, "text", b"\x89PNG"], top_k=2)
    assert json.loads(body) == {"instances": [[0, 1], {"x": 1.5}, "text", {"b64": "iVBORw=="}], "top_k": 2}
    with pytest.raises(TypeError, match="holds set"):
        wire.predict_body([{1, 2}])


def test_a_prediction_has_what_its_task_gives():
    chances = [{"label": "b", "probability": 0.75}, {"label": "a", "probability": 0.25}]
    rows = [{"label": "b", "probabilities": chances}, {"labels": ["b"], "probabilities": chances}, {"values": {"y": 1.0}}]
    found = wire.predictions_of({"model_name": "m", "model_version": "2", "predictions": rows})
    assert list(found) == [
        Prediction(label="b", probabilities={"b": 0.75, "a": 0.25}),
        Prediction(labels=("b",), probabilities={"b": 0.75, "a": 0.25}),
        Prediction(values={"y": 1.0}),
    ]
    assert (found.model, found.version) == ("m", "2")
