"""The published tritonclient[grpc]: what its users rely on, its streams and its errors among it."""

from __future__ import annotations

import asyncio
import queue

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.service.rpc.conftest import given

ROW = np.array([[1.5, -2]], np.float32)
MANY = np.arange(90, dtype=np.float32).reshape(45, 2)


def test_what_is_served_and_ready(client):
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("double")
    assert not client.is_model_ready("double", "9")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata().name == "quartet"
    metadata = client.get_model_metadata("mean", as_json=True)
    assert (metadata["versions"], metadata["platform"]) == (["1"], "onnx_onnxv1")
    assert metadata["inputs"][0] == {"name": "sequence", "datatype": "FP32", "shape": ["-1", "-1", "1"]}
    config = client.get_model_config("mean").config
    assert (config.max_batch_size, list(config.input[0].dims), config.input[1].optional) == (8, [-1, 1], True)
    assert client.get_inference_statistics("double", "1").model_stats[0].name == "double"
    assert [model.name for model in client.get_inference_statistics().model_stats] == ["double", "mean", "text"]


@pytest.mark.parametrize("rows", [ROW, MANY], ids=["one row", "several batches"])
@pytest.mark.parametrize("sent", [None, "gzip", "deflate"])
def test_tensors_go_in_and_out(client, rows, sent):
    result = client.infer("double", [given("x", rows)], request_id="ß 7", compression_algorithm=sent)
    np.testing.assert_array_equal(result.as_numpy("logits"), rows * 2)
    answer = result.get_response()
    assert (answer.id, answer.model_name, answer.model_version) == ("ß 7", "double", "1")
    assert len(answer.raw_output_contents) == 1


def test_an_asyncio_client_is_answered_too(server):
    async def ask():
        async with triton_aio.InferenceServerClient(server.address) as client:
            results = await asyncio.gather(*(client.infer("double", [given("x", ROW * n)]) for n in range(50)))
            return [result.as_numpy("logits")[0, 0] for result in results]

    assert asyncio.run(ask()) == [3 * n for n in range(50)]


def test_half_precision_is_widened_texts_become_tokens_and_a_mask_may_be_given(client):
    for kind, dtype in (("FP16", np.float16), ("BF16", ml_dtypes.bfloat16)):
        tensor = triton.InferInput("x", [1, 2], kind)
        tensor._raw_content = ROW.astype(dtype).tobytes()
        np.testing.assert_array_equal(client.infer("double", [tensor]).as_numpy("logits"), ROW * 2)
    texts = np.array(["hé", "", "abcd"], np.object_)
    assert client.infer("text", [given("tokens", texts, "BYTES")]).as_numpy("logits")[:, 1].tolist() == [3, 1, 4]
    sequence, mask = np.array([[[3], [6], [100]]], np.float32), np.array([[True, True, False]])
    assert client.infer("mean", [given("sequence", sequence), given("mask", mask, "BOOL")]).as_numpy("values") == [[4.5]]


def test_priority_timeout_explanation_and_parameters_of_ones_own_are_taken(client):
    result = client.infer(
        "double", [given("x", ROW)], priority=1, timeout=5_000_000, parameters={"tenant": "me", "explain": True}, client_timeout=5
    )
    np.testing.assert_array_equal(result.as_numpy("logits"), ROW * 2)
    said = result.get_response().parameters
    assert (said["batch_rows"].int64_param, said["version"].string_param) == (1, "1")
    assert said["compute_ms"].double_param > 0


@pytest.mark.parametrize(
    ("model", "inputs", "options", "code", "message"),
    [
        ("nobody", [("x", ROW)], {}, "NOT_FOUND", "no model 'nobody'"),
        ("double", [("x", ROW)], {"model_version": "9"}, "NOT_FOUND", "has no version '9'"),
        ("double", [("y", ROW)], {}, "INVALID_ARGUMENT", "unknown input 'y'"),
        ("double", [], {}, "INVALID_ARGUMENT", "input 'x' is missing"),
        ("double", [("x", ROW[0])], {}, "INVALID_ARGUMENT", r"shape \[2\]; the model takes float32 \[batch, 2\]"),
        ("double", [("x", ROW)], {"outputs": [triton.InferRequestedOutput("z")]}, "INVALID_ARGUMENT", "unknown output 'z'"),
        (
            "double",
            [("x", ROW)],
            {"outputs": [triton.InferRequestedOutput("logits", class_count=2)]},
            "INVALID_ARGUMENT",
            "labels under /models/{model}/predict",
        ),
        ("double", [("x", ROW)], {"sequence_id": 5}, "INVALID_ARGUMENT", "no stateful sequences"),
        ("double", [("x", ROW)], {"timeout": -1}, "INVALID_ARGUMENT", "'timeout' is -1"),
        ("double", [("x", np.zeros((65, 2), np.float32))], {}, "INVALID_ARGUMENT", "65 rows; at most 64 are taken"),
        ("double", [("x", np.zeros((20_000, 2), np.float32))], {}, "RESOURCE_EXHAUSTED", "larger than max"),
        ("double", [("x", np.zeros((20_000, 2), np.float32))], {"compression_algorithm": "gzip"}, "RESOURCE_EXHAUSTED", "larger"),
        ("mean", [("sequence", np.zeros((1, 13, 1), np.float32))], {}, "INVALID_ARGUMENT", "length 13; the model takes 1 to 12"),
        ("o" * 5000, [("x", ROW)], {}, "NOT_FOUND", "no model 'o{900}"),
    ],
)
def test_what_is_wrong_is_what_the_client_raises(client, model, inputs, options, code, message):
    with pytest.raises(InferenceServerException, match=message) as raised:
        client.infer(model, [given(*tensor) for tensor in inputs], **options)
    assert raised.value.status() == f"StatusCode.{code}"


def test_models_are_listed_unloaded_and_loaded_again(client):
    assert ("mean", "READY") in {(model.name, model.state) for model in client.get_model_repository_index().models}
    client.unload_model("mean")
    assert not client.is_model_ready("mean")
    client.load_model("mean")
    assert client.is_model_ready("mean")
    with pytest.raises(InferenceServerException, match="model 'other' is not in") as raised:
        client.load_model("other")
    assert raised.value.status() == "StatusCode.NOT_FOUND"
    with pytest.raises(InferenceServerException, match="parameter 'config' is not taken"):
        client.load_model("mean", config="{}")


def test_orders_are_refused_where_others_can_call(server, client, monkeypatch):
    monkeypatch.setattr(server.app.rpc._operations, "_controlled", False)
    with pytest.raises(InferenceServerException, match="takes no orders") as raised:
        client.unload_model("double")
    assert raised.value.status() == "StatusCode.PERMISSION_DENIED"


def test_statistics_count_requests_of_both_ports_alike(client):
    def read():
        (model,) = client.get_inference_statistics("mean").model_stats
        return model

    before = read()
    for rows in (1, 3):
        client.infer("mean", [given("sequence", np.ones((rows, 2, 1), np.float32))])
    with pytest.raises(InferenceServerException):
        client.infer("mean", [])
    after = read()
    assert after.inference_count - before.inference_count == 4
    assert after.inference_stats.success.count - before.inference_stats.success.count == 2
    assert after.inference_stats.fail.count - before.inference_stats.fail.count == 1
    assert {batch.batch_size for batch in after.batch_stats} >= {1, 3}


class Stream:
    """A stream of the client, with its answers in a queue."""

    def __init__(self, server, **options):
        self._client = triton.InferenceServerClient(server.address)
        self._answers = queue.Queue()
        self._client.start_stream(lambda result, error: self._answers.put((result, error)), **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._client.stop_stream()
        self._client.close()

    def send(self, row, model="double", **options):
        self._client.async_stream_infer(model, [given("x", row)], **options)

    def answer(self):
        return self._answers.get(timeout=10)


def test_a_stream_answers_each_request_in_their_order_and_says_that_it_was_the_last_answer(server):
    with Stream(server) as stream:
        for n in range(300):
            stream.send(ROW * n, request_id=str(n), enable_empty_final_response=True)
        for n in range(300):
            result, error = stream.answer()
            assert error is None
            answer = result.get_response()
            assert (answer.id, answer.parameters["triton_final_response"].bool_param) == (str(n), True)
            assert result.as_numpy("logits")[0, 0] == 3 * n


def test_an_error_is_one_answer_of_a_stream_which_goes_on(server):
    with Stream(server) as stream:
        stream.send(ROW, model="nobody")
        stream.send(ROW)
        result, error = stream.answer()
        assert (result, error.status()) == (None, None)
        assert "no model 'nobody'" in error.message()
        result, error = stream.answer()
        assert error is None
        np.testing.assert_array_equal(result.as_numpy("logits"), ROW * 2)


def test_an_error_ends_a_stream_with_its_code_where_the_client_asks_for_that(server):
    with Stream(server, headers={"triton_grpc_error": "true"}) as stream:
        stream.send(ROW)
        assert stream.answer()[1] is None
        stream.send(ROW, model="nobody")
        result, error = stream.answer()
        assert (result, error.status()) == (None, "StatusCode.NOT_FOUND")
