from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.codec import v2
from service.errors import InvalidRequest, PayloadTooLarge

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
BINARY_X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
EIGHT = np.array([[1, 2]], np.float32).tobytes()


def body(*tail: bytes, **request) -> tuple[bytes, str]:
    header = json.dumps(request).encode()
    return b"".join((header, *tail)), str(len(header))


def decode(content: bytes, header: str | None, max_rows: int = 100) -> v2.Request:
    return v2.decode(content, header, max_rows)


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


@pytest.mark.parametrize("header", ["", "-1", "0", "1e3", "+5", "1_0", "٣", "99999", " 5", "9" * 40])
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


@given(st.binary(max_size=200), st.none() | st.text(max_size=5))
def test_garbage_never_raises_anything_but_an_invalid_request(content, header):
    with pytest.raises(InvalidRequest):
        decode(content, header)


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


def test_an_unknown_output_names_those_there_are():
    with pytest.raises(InvalidRequest, match="unknown output 'c'; this model has 'a', 'b'"):
        v2.encode(decoded(outputs=[{"name": "c"}]), "m", "1", OUTPUTS)
