from __future__ import annotations

import json
import re
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from modelrepo.tensors import ShapeRange, Signature, TensorSpec
from service.codec import v2
from service.errors import InvalidRequest, PayloadTooLarge
from tests import micro

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
BINARY_X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
EIGHT = np.array([[1, 2]], np.float32).tobytes()


def body(*tail: bytes, **request) -> tuple[bytes, str]:
    header = json.dumps(request).encode()
    return b"".join((header, *tail)), str(len(header))


BATCH = ShapeRange(axis="batch", min=1, opt=4, max=8)
SIGNATURE = Signature(
    inputs=(
        TensorSpec(name="x", dtype="float32", shape=(BATCH, 2)),
        TensorSpec(name="y", dtype="float32", shape=(BATCH, 2)),
        TensorSpec(name="z", dtype="bool", shape=(BATCH,)),
        TensorSpec(name="h", dtype="float16", shape=(BATCH, 2)),
        TensorSpec(name="n", dtype="int64", shape=(BATCH, 2)),
    ),
    outputs=(TensorSpec(name="a", dtype="float32", shape=(BATCH, 1)), TensorSpec(name="b", dtype="int64", shape=(BATCH, 1))),
)


def decode(content: bytes, header: str | None, max_rows: int = 100, signature: Signature = SIGNATURE) -> v2.Request:
    return v2.decode(content, header, signature, max_rows)


def test_json_and_binary_inputs_may_be_mixed_in_any_order():
    content, header = body(
        EIGHT,
        b"\x01\x00",
        inputs=[
            BINARY_X,
            {**X, "name": "y"},
            {"name": "z", "shape": [2], "datatype": "BOOL", "parameters": {"binary_data_size": 2}},
        ],
    )
    inputs = decode(content, header).inputs
    assert {name: array.tolist() for name, array in inputs.items()} == {"x": [[1, 2]], "y": [[1, 2]], "z": [True, False]}


@pytest.mark.parametrize(
    ("request_", "tail", "message"),
    [
        pytest.param({}, b"", "missing required field `inputs`", id="no inputs"),
        pytest.param({"inputs": {}}, b"", "Expected `array`, got `object`", id="inputs not a list"),
        pytest.param({"inputs": [{"name": "x"}]}, b"", "missing required field `shape`", id="no shape"),
        pytest.param({"inputs": [X, X]}, b"", "'x' is given twice", id="one name twice"),
        pytest.param({"inputs": [{**X, "data": None, "shape": [1]}]}, b"", "nested 0 deep", id="null data"),
        pytest.param({"inputs": [{k: v for k, v in X.items() if k != "data"}]}, b"", "neither data nor", id="no data"),
        pytest.param({"inputs": [{**BINARY_X, "data": [1]}]}, EIGHT, "both data and", id="data twice"),
        pytest.param({"inputs": [BINARY_X]}, EIGHT[:4], "binary_data_size 8; 4 bytes of the body are left", id="torn"),
        pytest.param({"inputs": [BINARY_X]}, EIGHT + b"!", "1 bytes follow the last tensor", id="left over"),
        pytest.param(
            {"inputs": [{**X, "parameters": {"binary_data_size": "8"}, "data": []}]}, EIGHT, "both|'8'", id="size as text"
        ),
        pytest.param(
            {"inputs": [{**BINARY_X, "parameters": {"binary_data_size": -8}}]}, EIGHT, "binary_data_size -8", id="negative"
        ),
        pytest.param({"inputs": [{**BINARY_X, "parameters": {"binary_data_size": True}}]}, EIGHT, "size True", id="boolean size"),
        pytest.param({"inputs": [X], "parameters": {"binary_data_output": 1}}, b"", "takes true or false", id="flag as number"),
        pytest.param({"inputs": [X], "parameters": {"a": []}}, b"", "got `array`", id="parameter as list"),
        pytest.param({"inputs": [X], "id": 7}, b"", r"Expected `str \| null`", id="id as number"),
    ],
)
def test_a_request_outside_the_protocol_says_what_is_wrong(request_, tail, message):
    content, header = body(tail, **request_)
    with pytest.raises(InvalidRequest, match=message):
        decode(content, header)


@pytest.mark.parametrize("header", ["", "-1", "1e3", "+5", "1_0", "٣", "99999", " 5", "9" * 40])
def test_a_header_length_that_is_no_length_of_this_body_is_refused(header):
    with pytest.raises(InvalidRequest, match="Inference-Header-Content-Length is"):
        decode(body(inputs=[X])[0], header)


def test_binary_inputs_need_the_header():
    with pytest.raises(InvalidRequest, match="needs the header Inference-Header-Content-Length"):
        decode(body(inputs=[BINARY_X])[0], None)


@pytest.mark.parametrize("opening", [b"[", b'{"inputs":[', b'{"inputs":[{"data":' + b"["])
def test_deep_nesting_is_refused_not_fatal(opening):
    with pytest.raises(InvalidRequest):
        decode(opening * 100_000, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["x", "z", "h", "n", "w"])
kinds = st.sampled_from(["FP32", "BOOL", "BYTES", "FP16", "BF16", "INT64", "UINT8", "FP99"])
parameters = st.dictionaries(
    st.sampled_from(
        ["binary_data_size", "binary_data", "binary_data_output", "timeout", "priority", "explain", "sequence_id", "classification"]
    ),
    st.integers() | json_values,
    max_size=3,
)
almost_requests = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {"name": names, "shape": st.lists(st.integers(-1, 3), max_size=3), "datatype": kinds},
                optional={"parameters": parameters, "data": json_values},
            ),
            max_size=3,
        )
        | json_values
    },
    optional={
        "id": json_values,
        "parameters": parameters,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["a", "b", "c"])}, optional={"parameters": parameters})),
    },
)
contents = st.binary(max_size=200) | st.tuples(
    almost_requests.map(lambda value: json.dumps(value).encode()), st.binary(max_size=20)
).map(b"".join)


@settings(deadline=None)
@given(
    contents, st.none() | st.text(max_size=5) | st.integers(0, 300).map(str), st.sampled_from([SIGNATURE, micro.DOUBLE, micro.MEAN])
)
def test_garbage_never_raises_anything_but_a_refusal(content, header, signature):
    outputs = {spec.name: np.ones((1, 1), spec.numpy_dtype) for spec in signature.outputs}
    with suppress(InvalidRequest, PayloadTooLarge):
        assert v2.encode(v2.decode(content, header, signature, 100), "m", "1", outputs)[0]


def test_more_rows_than_are_taken_at_once_are_refused_before_they_are_decoded():
    with pytest.raises(PayloadTooLarge, match="the request has 101 rows; at most 100 are taken at once"):
        decode(body(inputs=[{**X, "shape": [101, 2], "data": ["never", "read"]}])[0], None)


def decoded(**request) -> v2.Request:
    return decode(body(inputs=[X], **request)[0], None)


OUTPUTS = {"a": np.array([[1.5]], np.float32), "b": np.array([[2]], np.int64)}


def test_without_requested_outputs_all_come_as_json():
    content, length = v2.encode(decoded(id="42"), "m", "3", OUTPUTS)
    assert length is None
    assert json.loads(content) == {
        "model_name": "m",
        "model_version": "3",
        "id": "42",
        "outputs": [
            {"name": "a", "shape": [1, 1], "datatype": "FP32", "data": [1.5]},
            {"name": "b", "shape": [1, 1], "datatype": "INT64", "data": [2]},
        ],
    }


def test_optional_fields_may_be_null():
    request = decoded(id=None, parameters=None, outputs=None)
    assert (request.id, request.outputs, request.binary) == (None, None, False)
    content, _ = body(inputs=[{**X, "parameters": None}], outputs=[{"name": "a", "parameters": None}])
    assert decode(content, None).outputs == {"a": False}


def test_an_id_is_echoed_only_if_given():
    assert b'"id"' not in v2.encode(decoded(), "m", "1", OUTPUTS)[0]


def test_only_requested_outputs_come_in_the_order_asked_each_in_its_form():
    asked = [{"name": "b"}, {"name": "a", "parameters": {"binary_data": True}}]
    content, length = v2.encode(decoded(outputs=asked), "m", "1", OUTPUTS)
    assert length is not None
    header = json.loads(content[:length])
    assert [output["name"] for output in header["outputs"]] == ["b", "a"]
    assert header["outputs"][0]["data"] == [2]
    assert header["outputs"][1]["parameters"] == {"binary_data_size": 4}
    assert "data" not in header["outputs"][1]
    assert content[length:] == np.float32(1.5).tobytes()


def test_an_outputs_own_flag_beats_the_requests():
    asked = {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "a", "parameters": {"binary_data": False}}, {"name": "b"}],
    }
    content, length = v2.encode(decoded(**asked), "m", "1", OUTPUTS)
    assert [("data" in output) for output in json.loads(content[:length])["outputs"]] == [True, False]


def test_an_unknown_output_names_those_there_are_before_anything_runs():
    with pytest.raises(InvalidRequest, match="unknown output 'c'; this model has 'a', 'b'"):
        decoded(outputs=[{"name": "c"}])


@pytest.mark.parametrize(
    ("parameter", "value", "reason"),
    [
        ("classification", 3, "labels under /models/{model}/predict"),
        ("shared_memory_region", "region", "shares no memory"),
        ("datatype", "FP16", "the datatype that the model's metadata names"),
    ],
)
def test_an_output_is_never_other_than_asked_for(parameter, value, reason):
    with pytest.raises(InvalidRequest, match=f"output 'a' has the parameter '{parameter}'; .*{re.escape(reason)}"):
        decoded(outputs=[{"name": "a", "parameters": {parameter: value}}])


def test_timeout_priority_and_explain_are_read_and_have_defaults():
    request = decoded(parameters={"timeout": 2_500_000, "priority": 1, "explain": True, "mine": "anything"})
    assert (request.timeout, request.priority, request.explain) == (2.5, 1, True)
    for none in ({}, {"timeout": 0, "priority": 0, "explain": False}):
        request = decoded(parameters=none)
        assert (request.timeout, request.priority, request.explain) == (None, 0, False)


@pytest.mark.parametrize("name", ["timeout", "priority"])
@pytest.mark.parametrize("value", [-1, 1.5, "1", True, 2**63, 1e300])
def test_a_timeout_or_priority_that_is_no_count_is_refused(name, value):
    with pytest.raises(InvalidRequest, match=f"parameter '{name}' is .*; it takes a whole number"):
        decoded(parameters={name: value})


@pytest.mark.parametrize("parameters", [{"sequence_id": 7}, {"sequence_id": "a"}, {"sequence_start": True}, {"sequence_end": True}])
def test_sequences_are_refused_and_not_taken_for_single_requests(parameters):
    with pytest.raises(InvalidRequest, match="this server has no stateful sequences: leave it out"):
        decoded(parameters=parameters)


def test_saying_that_there_is_no_sequence_is_fine():
    assert decoded(parameters={"sequence_id": 0, "sequence_start": False, "sequence_end": False}).inputs


def test_the_responses_parameters_are_those_given():
    content, _ = v2.encode(decoded(), "m", "1", OUTPUTS, {"queue_ms": 0.5, "why": "full"})
    assert json.loads(content)["parameters"] == {"queue_ms": 0.5, "why": "full"}
    assert b"parameters" not in v2.encode(decoded(), "m", "1", OUTPUTS)[0]


def half(kind: str, values: list[float]) -> bytes:
    """The bytes of FP16 or BF16; the values must be such that both hold them."""
    array = np.array([values], np.float32)
    return array.astype(np.float16).tobytes() if kind == "FP16" else (array.view(np.uint32) >> 16).astype(np.uint16).tobytes()


def given_as(name: str, kind: str, tail: bytes) -> v2.Request:
    return decode(
        *body(tail, inputs=[{"name": name, "shape": [1, 2], "datatype": kind, "parameters": {"binary_data_size": len(tail)}}])
    )


@pytest.mark.parametrize("kind", ["FP16", "BF16"])
def test_half_precision_is_widened_for_an_fp32_input(kind):
    array = given_as("x", kind, half(kind, [1.5, -0.25])).inputs["x"]
    assert array.dtype == np.float32
    assert array.tolist() == [[1.5, -0.25]]


def test_fp16_stays_what_it_is_where_the_model_takes_it():
    assert given_as("h", "FP16", half("FP16", [1.5, -0.25])).inputs["h"].dtype == np.float16


@pytest.mark.parametrize(
    ("name", "found", "expected", "size"),
    [
        ("x", "FP64", "FP32", 16),
        ("x", "INT64", "FP32", 16),
        ("h", "FP32", "FP16", 8),
        ("h", "BF16", "FP16", 4),
        ("n", "INT32", "INT64", 8),
        ("n", "FP16", "INT64", 4),
        ("n", "BF16", "INT64", 4),
    ],
)
def test_any_other_datatype_is_refused_with_both_named(name, found, expected, size):
    with pytest.raises(InvalidRequest, match=f"input '{name}' has datatype {found}; the model takes {expected}"):
        given_as(name, found, bytes(size))


def raw(content: bytes, signature: Signature) -> v2.Request:
    return v2.decode(content, "0", signature, 100)


def test_a_raw_body_is_the_one_input_as_one_row_and_the_answer_comes_in_binary():
    request = raw(EIGHT, micro.DOUBLE)
    assert request.inputs["x"].tolist() == [[1, 2]]
    assert (request.id, request.outputs, request.binary) == (None, None, True)


def test_a_raw_sequence_is_as_long_as_its_bytes_and_its_mask_is_left_out():
    inputs = raw(np.arange(5, dtype=np.float32).tobytes(), micro.MEAN).inputs
    assert list(inputs) == ["sequence"]
    assert inputs["sequence"].shape == (1, 5, 1)


@pytest.mark.parametrize(
    ("content", "signature", "message"),
    [
        (EIGHT[:7], micro.DOUBLE, r"'x' has 7 bytes of binary data; FP32 of shape \[1, 2\] needs 8"),
        (EIGHT + EIGHT, micro.DOUBLE, r"'x' has 16 bytes of binary data"),
        (EIGHT[:7], micro.MEAN, r"'sequence' has 7 bytes; one step of float32 \[batch, length, 1\] has 4"),
        (EIGHT, SIGNATURE, "for models of one input; this one takes 'x', 'y', 'z', 'h', 'n'"),
    ],
)
def test_a_raw_body_that_does_not_fit_says_why(content, signature, message):
    with pytest.raises(InvalidRequest, match=message):
        raw(content, signature)


@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(1, 5), st.just(1)), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    ),
    hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.just(1))),
    st.none() | st.text(),
    st.booleans(),
    st.booleans(),
)
def test_what_is_encoded_can_be_read_back_exactly(a, b, id_, binary_a, binary_b):
    request = v2.Request(id_, {}, {"a": binary_a, "b": binary_b}, False)
    content, length = v2.encode(request, "m", "1", {"a": a, "b": b})
    header, tail = json.loads(content[:length]), content[length or len(content) :]
    assert header.get("id") == id_
    for output, array in zip(header["outputs"], (a, b), strict=True):
        if size := output.get("parameters", {}).get("binary_data_size"):
            values, tail = np.frombuffer(tail[:size], array.dtype), tail[size:]
        else:
            values = np.array(output["data"], array.dtype)
        np.testing.assert_array_equal(values.reshape(output["shape"]), array)
    assert tail == b""
