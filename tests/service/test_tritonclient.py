"""The published tritonclient[http], both its kinds, against a real server: what its users rely on."""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import zlib

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio

from tests import micro
from tests.server import serving

ROW = np.array([[1.5, -2]], np.float32)
MANY = np.arange(1200, dtype=np.float32).reshape(600, 2)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    micro.publish_mean(root)
    micro.publish_text(root)
    with serving(root, "--max-body-bytes", "100000") as running:
        yield running


@pytest.fixture(scope="module", params=["sync", "asyncio"])
def client(request, server):
    """A client whose methods may be called, whichever kind it is."""
    if request.param == "sync":
        with triton.InferenceServerClient(server.address) as client:
            yield client
        return
    with asyncio.Runner() as runner:

        async def connect():
            return triton_aio.InferenceServerClient(server.address)

        client = runner.run(connect())
        yield Called(client, runner)
        runner.run(client.close())


class Called:
    """An asyncio client's methods, run to their end."""

    def __init__(self, client, runner):
        self._client, self._runner = client, runner

    def __getattr__(self, name):
        return lambda *arguments, **options: self._runner.run(getattr(self._client, name)(*arguments, **options))


def given(name, array, binary=True, kind="FP32"):
    tensor = triton.InferInput(name, list(array.shape), kind)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


def wanted(name="logits", **how):
    return triton.InferRequestedOutput(name, **how)


def test_the_server_is_live_and_ready_and_says_what_it_is(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    metadata = client.get_server_metadata()
    assert metadata["name"] == "quartet"
    assert {"binary_tensor_data", "statistics"} <= set(metadata["extensions"])


def test_a_models_metadata_and_readiness_with_and_without_its_version(client):
    for version in ("", "1"):
        assert client.is_model_ready("mean", version)
        metadata = client.get_model_metadata("mean", version)
        assert metadata["versions"] == ["1"]
        assert [(tensor["name"], tensor["datatype"], tensor["shape"]) for tensor in metadata["inputs"]] == [
            ("sequence", "FP32", [-1, -1, 1]),
            ("mask", "BOOL", [-1, -1]),
        ]
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready("mean", "9")


@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "json in"])
@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "json out"])
def test_every_form_in_gives_the_same_answer_in_every_form_out(client, binary_in, binary_out):
    result = client.infer("double", [given("x", ROW, binary_in)], outputs=[wanted(binary_data=binary_out)])
    np.testing.assert_array_equal(result.as_numpy("logits"), ROW * 2)
    assert ("data" in result.get_output("logits")) is not binary_out


def test_binary_and_json_inputs_are_mixed(client):
    sequence = np.array([[[3], [6], [100]]], np.float32)
    mask = np.array([[True, True, False]])
    for binary in (True, False):
        result = client.infer("mean", [given("sequence", sequence, binary), given("mask", mask, not binary, "BOOL")])
        assert result.as_numpy("values").tolist() == [[4.5]]


@pytest.mark.parametrize(("kind", "dtype"), [("FP16", np.float16), ("BF16", ml_dtypes.bfloat16)])
def test_half_precision_is_taken_for_fp32(client, kind, dtype):
    result = client.infer("double", [given("x", ROW.astype(dtype), kind=kind)])
    np.testing.assert_array_equal(result.as_numpy("logits"), ROW * 2)
    assert result.get_output("logits")["datatype"] == "FP32"


def test_without_requested_outputs_all_come_in_binary(client):
    output = client.infer("double", [given("x", ROW)]).get_output("logits")
    assert output["parameters"] == {"binary_data_size": 8}


@pytest.mark.parametrize("request_id", ["42", "a-b", "0", "ß"])
def test_the_id_comes_back(client, request_id):
    assert client.infer("double", [given("x", ROW)], request_id=request_id).get_response()["id"] == request_id
    assert "id" not in client.infer("double", [given("x", ROW)]).get_response()


def test_the_version_may_be_named(client):
    assert client.infer("double", [given("x", ROW)], model_version="1").get_response()["model_version"] == "1"


@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
@pytest.mark.parametrize("asked", [None, "gzip", "deflate"])
@pytest.mark.parametrize("binary", [True, False], ids=["binary", "json"])
def test_compression_changes_no_answer(client, sent, asked, binary):
    result = client.infer(
        "double",
        [given("x", MANY, binary)],
        outputs=[wanted(binary_data=binary)],
        request_compression_algorithm=sent,
        response_compression_algorithm=asked,
    )
    np.testing.assert_array_equal(result.as_numpy("logits"), MANY * 2)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_an_error_can_be_read_by_a_client_that_asked_for_compression(client, coding):
    with pytest.raises(triton.InferenceServerException, match="no model 'o{2000}'"):
        client.infer("o" * 2000, [given("x", ROW)], response_compression_algorithm=coding)


@pytest.mark.parametrize(
    ("model", "version", "inputs", "options", "status", "message"),
    [
        ("nobody", "", [("x", ROW)], {}, "404", "no model 'nobody'"),
        ("double", "9", [("x", ROW)], {}, "404", "has no version '9'"),
        ("double", "", [("y", ROW)], {}, "400", "unknown input 'y'"),
        ("double", "", [("x", ROW[0])], {}, "400", r"shape \[2\]; the model takes float32 \[batch, 2\]"),
        ("double", "", [("x", ROW)], {"outputs": [wanted("z")]}, "400", "unknown output 'z'"),
        ("double", "", [("x", ROW)], {"outputs": [wanted(class_count=2)]}, "400", "labels under /models/{model}/predict"),
        ("double", "", [("x", ROW)], {"sequence_id": 5}, "400", "no stateful sequences"),
        ("double", "", [("x", ROW)], {"timeout": -1}, "400", "'timeout' is -1"),
        ("double", "", [("x", np.zeros((20_000, 2), np.float32))], {}, "413", "the body has 160"),
        (
            "double",
            "",
            [("x", np.zeros((20_000, 2), np.float32))],
            {"request_compression_algorithm": "gzip"},
            "413",
            "inflates to more than 100000 bytes",
        ),
        ("mean", "", [("sequence", np.zeros((1, 13, 1), np.float32))], {}, "422", "length 13; the model takes 1 to 12"),
    ],
)
def test_what_is_wrong_is_what_the_client_raises(client, model, version, inputs, options, status, message):
    with pytest.raises(triton.InferenceServerException, match=message) as raised:
        client.infer(model, [given(*tensor) for tensor in inputs], model_version=version, **options)
    assert raised.value.status() == status


def test_a_wrong_datatype_is_named_with_the_right_one(client):
    with pytest.raises(triton.InferenceServerException, match="'x' has datatype FP64; the model takes FP32"):
        client.infer("double", [given("x", ROW.astype(np.float64), kind="FP64")])


def test_priority_timeout_and_parameters_of_ones_own_are_taken(client):
    result = client.infer("double", [given("x", ROW)], priority=1, timeout=5_000_000, parameters={"tenant": "me", "explain": False})
    np.testing.assert_array_equal(result.as_numpy("logits"), ROW * 2)


def test_statistics_count_what_was_done(client):
    def read(version=""):
        (model,) = client.get_inference_statistics("mean", version)["model_stats"]
        return model

    before = read()
    for rows in (1, 3):
        client.infer("mean", [given("sequence", np.ones((rows, 2, 1), np.float32))])
    with pytest.raises(triton.InferenceServerException):
        client.infer("mean", [])
    after = read("1")
    assert (after["name"], after["version"]) == ("mean", "1")
    assert after["inference_count"] - before["inference_count"] == 4
    assert after["execution_count"] - before["execution_count"] == 2
    for name, more in {"success": 2, "fail": 1, "queue": 2, "compute_input": 2, "compute_infer": 2, "compute_output": 2}.items():
        assert after["inference_stats"][name]["count"] - before["inference_stats"][name]["count"] == more, name
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert {batch["batch_size"] for batch in after["batch_stats"]} >= {1, 3}
    assert [model["name"] for model in client.get_inference_statistics()["model_stats"]] == ["double", "mean", "text"]
    with pytest.raises(triton.InferenceServerException, match="no model 'nobody'"):
        client.get_inference_statistics("nobody")


def post(server, path, body, headers):
    """Status, headers and body as they travel."""
    connection = http.client.HTTPConnection(server.address, timeout=30)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        return response.status, response.headers, response.read()
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("model", "array", "output"),
    [
        ("double", ROW, ROW * 2),
        ("mean", np.array([1, 2, 6], np.float32), np.array([[3]], np.float32)),
    ],
)
@pytest.mark.parametrize("coding", [None, "gzip"])
def test_a_raw_binary_body_is_answered_in_binary(server, model, array, output, coding):
    headers = {"Inference-Header-Content-Length": "0"}
    body = array.tobytes()
    if coding:
        headers["Content-Encoding"], body = coding, gzip.compress(body)
    status, answered, content = post(server, f"/v2/models/{model}/infer", body, headers)
    assert status == 200
    length = int(answered["Inference-Header-Content-Length"])
    assert json.loads(content[:length])["outputs"][0]["shape"] == list(output.shape)
    np.testing.assert_array_equal(np.frombuffer(content[length:], np.float32), output.ravel())


@pytest.mark.parametrize(("coding", "decompress"), [("gzip", gzip.decompress), ("deflate", zlib.decompress)])
def test_an_answer_really_travels_compressed_and_its_header_length_is_that_of_the_inflated_one(server, coding, decompress):
    request = {
        "inputs": [{"name": "x", "shape": list(MANY.shape), "datatype": "FP32", "data": MANY.tolist()}],
        "parameters": {"binary_data_output": True},
    }
    status, headers, content = post(server, "/v2/models/double/infer", json.dumps(request), {"Accept-Encoding": coding})
    assert (status, headers["Content-Encoding"], headers["Vary"]) == (200, coding, "accept-encoding")
    assert int(headers["Content-Length"]) == len(content) < MANY.nbytes
    inflated, length = decompress(content), int(headers["Inference-Header-Content-Length"])
    np.testing.assert_array_equal(np.frombuffer(inflated[length:], np.float32), MANY.ravel() * 2)


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("shape", [(3,), (3, 1)])
def test_texts_travel_as_bytes_and_become_tokens(client, binary, shape):
    texts = np.array(["hé", "", "abcd"], np.object_).reshape(shape)
    answer = client.infer("text", [given("tokens", texts, binary, "BYTES")])
    assert answer.as_numpy("logits")[:, 1].tolist() == [3, 1, 4], "bytes of each text; an empty one has the unknown token"
    (tokens, _) = client.get_model_metadata("text")["inputs"]
    assert tokens["parameters"]["also"].startswith("BYTES: a text a row")


def test_texts_that_cannot_be_read_are_named(client):
    with pytest.raises(triton_aio.InferenceServerException, match=r"row 1 is no UTF-8 text"):
        client.infer("text", [given("tokens", np.array([b"a", b"\xff"], np.object_), True, "BYTES")])
    with pytest.raises(triton_aio.InferenceServerException, match=r"send one a row: \[rows\] or \[rows, 1\]"):
        client.infer("text", [given("tokens", np.array([[b"a", b"b"]], np.object_), True, "BYTES")])
    with pytest.raises(triton_aio.InferenceServerException, match="'mask' goes with tokens"):
        mask = given("mask", np.ones((1, 1), np.bool_), True, "BOOL")
        client.infer("text", [given("tokens", np.array([b"a"], np.object_), True, "BYTES"), mask])
    with pytest.raises(triton_aio.InferenceServerException, match="has datatype BYTES; the model takes FP32"):
        client.infer("double", [given("x", np.array([[b"a", b"b"]], np.object_), True, "BYTES")])


def test_models_are_listed_unloaded_and_loaded_again(client):
    listed = {(entry["name"], entry["state"]) for entry in client.get_model_repository_index()}
    assert ("mean", "READY") in listed
    client.unload_model("mean")
    assert not client.is_model_ready("mean")
    client.load_model("mean")
    assert client.is_model_ready("mean")
    with pytest.raises(triton_aio.InferenceServerException, match="model 'other' is not in"):
        client.load_model("other")
