from __future__ import annotations

import asyncio
import gzip
import json
import threading
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from service.api.inference import LONG_BODY, SHORT_ENCODED
from service.codec import encoding
from service.codec.instances import Numbers

X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
INFER = "/v2/models/double/infer"
PREDICT = "/models/double/predict"


def test_an_infer_request_is_answered(serve):
    async def scenario(client):
        for path in (INFER, "/v2/models/double/versions/1/infer"):
            response = await client.post(path, json={"id": "7", "inputs": [X]})
            assert response.status_code == 200
            assert response.headers["content-type"] == "application/json"
            assert response.json() == {
                "model_name": "double",
                "model_version": "1",
                "id": "7",
                "outputs": [{"name": "logits", "shape": [1, 2], "datatype": "FP32", "data": [2, 4]}],
            }

    serve(scenario)


def test_binary_goes_in_and_out(serve):
    async def scenario(client):
        header = json.dumps(
            {
                "inputs": [{"name": "x", "shape": [2, 2], "datatype": "FP32", "parameters": {"binary_data_size": 16}}],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        body = header + np.arange(4, dtype=np.float32).tobytes()
        response = await client.post(INFER, content=body, headers={"Inference-Header-Content-Length": str(len(header))})
        assert response.headers["content-type"] == "application/octet-stream"
        length = int(response.headers["Inference-Header-Content-Length"])
        assert json.loads(response.content[:length])["outputs"][0]["parameters"] == {"binary_data_size": 16}
        assert np.frombuffer(response.content[length:], np.float32).tolist() == [0, 2, 4, 6]

    serve(scenario)


def test_the_mask_may_be_left_out_or_given(serve):
    async def scenario(client):
        sequence = {"name": "sequence", "shape": [1, 3, 1], "datatype": "FP32", "data": [3, 6, 100]}
        mask = {"name": "mask", "shape": [1, 3], "datatype": "BOOL", "data": [True, True, False]}
        for inputs, mean in (([sequence], 109 / 3), ([sequence, mask], 4.5)):
            answer = (await client.post("/v2/models/mean/infer", json={"inputs": inputs})).json()
            assert answer["outputs"][0]["data"] == [pytest.approx(mean)]

    serve(scenario)


def test_instances_are_predicted_labels_limited_and_sequences_of_any_length_mixed(serve):
    async def scenario(client):
        answer = (await client.post(PREDICT, json={"instances": [[0, 1], [3, 0]], "top_k": 1})).json()
        assert [prediction["label"] for prediction in answer["predictions"]] == ["b", "a"]
        assert all(len(prediction["probabilities"]) == 1 for prediction in answer["predictions"])
        answer = (await client.post("/models/mean/predict", json={"instances": [[[1], [2], [6]], [[5]]]})).json()
        assert answer["predictions"] == [{"values": {"mean": 3}}, {"values": {"mean": 5}}]

    serve(scenario)


def test_concurrent_requests_share_batches_and_each_gets_its_own_answer(serve):
    async def scenario(client):
        async def ask(value):
            answer = (
                await client.post(PREDICT.replace("double", "mean"), json={"instances": [[[value]] * (value % 12 + 1)]})
            ).json()
            return answer["predictions"][0]["values"]["mean"]

        assert await asyncio.gather(*(ask(value) for value in range(200))) == [pytest.approx(value) for value in range(200)]
        metrics = (await client.get("/metrics")).text
        lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
        labels = '{backend="onnxruntime-cpu",model="mean",version="1"}'
        assert float(lines[f"quartet_batch_rows_sum{labels}"]) == 200
        assert float(lines[f"quartet_batch_rows_count{labels}"]) < 100, "rows of different callers ran together"

    serve(scenario)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        pytest.param(INFER, "{", 400, "the request is not valid", id="broken JSON"),
        pytest.param(INFER, "", 400, "the request is not valid", id="empty body"),
        pytest.param(INFER, {"inputs": [{**X, "datatype": "INT64"}]}, 400, "datatype INT64; the model takes FP32", id="datatype"),
        pytest.param(INFER, {"inputs": [{**X, "shape": [2]}]}, 400, "shape [2]; the model takes float32 [batch, 2]", id="rank"),
        pytest.param(INFER, {"inputs": []}, 400, "input 'x' is missing", id="no input"),
        pytest.param(INFER, {"inputs": [X, {**X, "name": "y"}]}, 400, "unknown input 'y'", id="one input too many"),
        pytest.param(INFER, {"inputs": [X], "outputs": [{"name": "z"}]}, 400, "unknown output 'z'", id="unknown output"),
        pytest.param(PREDICT, {"instances": [[1, 2, 3]]}, 400, "instance 0, 'x': found shape [3]", id="instance too long"),
        pytest.param("/v2/models/triple/infer", {}, 404, "no model 'triple'; served are double, mean", id="unknown model"),
        pytest.param("/models/triple/predict", {}, 404, "no model 'triple'", id="unknown model, predict"),
        pytest.param("/v2/models/double/versions/2/infer", {}, 404, "no version '2' here; it has 1", id="unknown version"),
        pytest.param("/v2/models/double/versions/latest/infer", {}, 404, "no version 'latest'", id="version in words"),
        pytest.param(
            INFER, {"inputs": [{**X, "shape": [0, 2], "data": []}]}, 422, "batch 0; the model takes at least 1", id="no rows"
        ),
        pytest.param("/models/mean/predict", {"instances": [[[1]] * 13]}, 422, "length 13; the model takes 1 to 12", id="too long"),
        pytest.param(INFER, {"inputs": [{**X, "data": [3e38, 0]}]}, 422, "'logits' is not a finite number in row 0", id="overflow"),
    ],
)
def test_a_bad_request_gets_its_status_and_a_message(serve, path, body, status, message):
    async def scenario(client):
        content = body if isinstance(body, str) else json.dumps(body)
        response = await client.post(path, content=content)
        assert response.status_code == status
        assert list(response.json()) == ["error"]
        assert message in response.json()["error"]

    serve(scenario)


def test_a_row_that_overflows_is_sent_in_binary_where_asked(serve):
    async def scenario(client):
        request = {"inputs": [{**X, "data": [3e38, 0]}], "parameters": {"binary_data_output": True}}
        response = await client.post(INFER, json=request)
        assert response.status_code == 200
        assert np.frombuffer(response.content[-8:], np.float32).tolist() == [np.inf, 0]

    serve(scenario)


def test_a_body_over_the_limit_is_413_announced_or_not(serve):
    async def chunks():
        for _ in range(100):
            yield b"x" * 50

    async def scenario(client):
        for content in (b"x" * 2000, chunks()):
            response = await client.post(INFER, content=content)
            assert response.status_code == 413
            assert "1000" in response.json()["error"]

    serve(scenario, max_body_bytes=1000)


COMPRESSED = {"gzip": gzip.compress, "deflate": zlib.compress, "GZIP": gzip.compress, "identity": bytes}


@pytest.mark.parametrize("coding", COMPRESSED)
def test_both_interfaces_take_compressed_bodies(serve, coding):
    async def scenario(client):
        for path, request in ((INFER, {"inputs": [X]}), (PREDICT, {"instances": [[1, 2]]})):
            content = COMPRESSED[coding](json.dumps(request).encode())
            response = await client.post(path, content=content, headers={"Content-Encoding": coding})
            assert response.status_code == 200

    serve(scenario)


@pytest.mark.parametrize(
    ("coding", "content", "status", "message"),
    [
        pytest.param("gzip", gzip.compress(b" " * 2001), 413, "inflates to more than 2000 bytes", id="bomb"),
        pytest.param("deflate", zlib.compress(b" " * 10**7), 413, "the body has 9", id="long even when compressed"),
        pytest.param("gzip", gzip.compress(b"{}")[:-1], 400, "gzip stream ends too early", id="torn"),
        pytest.param("gzip", b"{}", 400, "not gzip, as its content-encoding says", id="not compressed at all"),
        pytest.param("gzip", b"", 400, "gzip stream ends too early", id="empty"),
        pytest.param("br", b"", 415, "'br' is not decoded here", id="unknown"),
        pytest.param("gzip, deflate", b"", 415, "encoded 2 times", id="twice"),
    ],
)
def test_a_body_that_cannot_be_inflated_is_refused(serve, coding, content, status, message):
    async def scenario(client):
        response = await client.post(INFER, content=content, headers={"Content-Encoding": coding})
        assert response.status_code == status
        assert message in response.json()["error"]
        assert response.headers.get("accept-encoding") == ("gzip, deflate" if status == 415 else None)

    serve(scenario, max_body_bytes=2000)


def test_a_long_compressed_body_is_inflated_aside_while_others_are_answered(serve, monkeypatch):
    others_answered = threading.Event()
    decode = encoding.decode

    def held(*arguments):
        assert others_answered.wait(20)
        return decode(*arguments)

    monkeypatch.setattr(encoding, "decode", held)

    async def scenario(client):
        body = gzip.compress(json.dumps({"instances": [[n * 0.1, n * 0.7] for n in range(1_000)]}).encode())
        assert len(body) > SHORT_ENCODED
        long = asyncio.ensure_future(client.post(PREDICT, content=body, headers={"Content-Encoding": "gzip"}))
        assert (await client.post(PREDICT, json={"instances": [[1, 2]]})).status_code == 200
        assert not long.done()
        others_answered.set()
        assert len((await long).json()["predictions"]) == 1_000

    serve(scenario)


def rows(count):
    return {"inputs": [{**X, "shape": [count, 2], "data": [0.5] * (2 * count)}]}


@pytest.mark.parametrize(
    ("accepted", "count", "coding"),
    [
        ("gzip, deflate, br", 300, "gzip"),
        ("deflate, gzip;q=0.5", 300, "deflate"),
        ("gzip;q=0", 300, None),
        ("identity", 300, None),
        ("gzip", 3, None),
    ],
)
def test_an_answer_is_compressed_where_the_client_likes_that_and_it_is_long(serve, accepted, count, coding):
    async def scenario(client):
        response = await client.post(INFER, json=rows(count), headers={"Accept-Encoding": accepted})
        assert response.json()["outputs"][0]["data"] == [1.0] * (2 * count)
        assert response.headers.get("content-encoding") == coding
        assert response.headers.get("vary") == ("accept-encoding" if count > 3 else None)

    serve(scenario)


def test_an_answer_that_compression_would_make_longer_is_sent_as_it_is(serve):
    async def scenario(client):
        noise = np.random.default_rng(0).integers(1, 2**30, 1000, np.uint32).view(np.float32)
        request = {
            "inputs": [{"name": "x", "shape": [500, 2], "datatype": "FP32", "parameters": {"binary_data_size": noise.nbytes}}],
            "parameters": {"binary_data_output": True},
        }
        header = json.dumps(request).encode()
        headers = {"Inference-Header-Content-Length": str(len(header)), "Accept-Encoding": "gzip"}
        response = await client.post(INFER, content=header + noise.tobytes(), headers=headers)
        assert response.status_code == 200
        assert "content-encoding" not in response.headers

    serve(scenario)


@pytest.mark.parametrize("path", [INFER, PREDICT])
def test_another_method_is_405_and_says_which(serve, path):
    async def scenario(client):
        response = await client.get(path)
        assert (response.status_code, response.headers["allow"]) == (405, "POST")

    serve(scenario)


def test_more_rows_than_a_queue_ever_holds_is_413_because_no_retry_would_help(serve):
    async def scenario(client):
        for path, request in (
            (INFER, {"inputs": [{**X, "shape": [5, 2], "data": list(range(10))}]}),
            (PREDICT, {"instances": [[1, 2]] * 5}),
        ):
            response = await client.post(path, json=request)
            assert response.status_code == 413
            assert "5 rows; at most 4 are taken at once" in response.json()["error"]

    serve(scenario, max_queue_rows=4)


def test_a_full_queue_is_429_with_retry_after(serve):
    async def scenario(client):
        # All arrive in one turn of the loop, before the first batch is formed.
        responses = await asyncio.gather(*(client.post(PREDICT, json={"instances": [[1, 2]] * 3}) for _ in range(20)))
        statuses = {response.status_code for response in responses}
        assert statuses == {200, 429}
        refused = next(response for response in responses if response.status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert "rows are waiting" in refused.json()["error"]

    serve(scenario, max_queue_rows=4)


def test_a_long_body_is_decoded_aside_while_others_are_answered(serve, monkeypatch):
    others_answered = threading.Event()
    decode = Numbers.decode

    def held(self, body, *arguments):
        assert len(body) <= LONG_BODY or others_answered.wait(20)
        return decode(self, body, *arguments)

    monkeypatch.setattr(Numbers, "decode", held)

    async def scenario(client):
        body = json.dumps({"instances": [[float(n), 0.25] for n in range(9_000)]}).encode()
        assert len(body) > LONG_BODY
        long = asyncio.ensure_future(client.post(PREDICT, content=body))
        assert (await client.post(PREDICT, json={"instances": [[1, 2]]})).status_code == 200
        assert not long.done()
        others_answered.set()
        assert len((await long).json()["predictions"]) == 9_000

    serve(scenario, max_queue_rows=10_000)


def test_on_its_way_out_the_server_is_not_ready_and_answers_and_sends_callers_elsewhere(serve):
    async def scenario(client):
        client.app.registry.stopping = True
        for response in (await client.post(INFER, json={"inputs": [X]}), await client.post(PREDICT, json={"instances": [[1, 2]]})):
            assert response.status_code == 200
            assert response.headers["connection"] == "close"
        ready = await client.get("/v2/health/ready")
        assert ready.status_code == 503
        assert "shutting down" in ready.json()["error"]
        assert (await client.get("/v2/health/live")).status_code == 200

    serve(scenario)


def test_the_unforeseen_is_an_opaque_500_with_the_traceback_in_the_log_only(serve, caplog, monkeypatch):
    async def scenario(client):
        async def broken(*arguments, **options):
            raise RuntimeError("secret internals")

        monkeypatch.setattr("service.model.ServedModel.infer", broken)
        response = await client.post(INFER, json={"inputs": [X]})
        assert response.status_code == 500
        assert response.json() == {"error": "internal error; the server's log has the details"}

    serve(scenario)
    assert "secret internals" in caplog.text


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
numbers = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
almost_requests = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {},
                optional={
                    "name": st.sampled_from(["x", "sequence", "mask", ""]),
                    "shape": st.lists(st.integers(-1, 14), max_size=4) | json_values,
                    "datatype": st.sampled_from(["FP32", "BOOL", "BYTES", "FP16", "INT64", "FP99"]),
                    "parameters": st.dictionaries(st.sampled_from(["binary_data_size", "a"]), json_values, max_size=2),
                    "data": st.lists(numbers | st.lists(numbers, max_size=3), max_size=6) | json_values,
                },
            ),
            max_size=3,
        )
        | json_values
    },
    optional={"id": json_values, "parameters": json_values, "outputs": json_values, "instances": json_values},
)
spliced = st.tuples(
    st.sampled_from(
        [b'{"instances":[', b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[', b'{"instances":[{"x":']
    ),
    st.binary(max_size=6) | st.sampled_from([b'{"\xff":1}', b'"\xed\xa0\x80"', b"1e400", b"-0", b"9" * 400, b"[[[["]),
    st.sampled_from([b"]}", b"]}]}", b"}]}", b""]),
)
bodies = (
    st.binary(max_size=100)
    | spliced.map(b"".join)
    | almost_requests.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries({"instances": json_values}, optional={"top_k": json_values}).map(
        lambda value: json.dumps(value).encode()
    )
)


def test_garbage_never_gives_a_5xx(serve):
    async def scenario(client):
        loop = asyncio.get_running_loop()

        @hypothesis_settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
        @example(PREDICT, b'{"instances":[{"\xff":1}]}', None, {})
        @example(INFER, b'{"inputs":[{"name":"x","shape":[],"datatype":"BYTES","data":"abc"}]}', None, {})
        @given(
            st.sampled_from([INFER, PREDICT, "/v2/models/mean/infer", "/models/mean/predict"]),
            bodies,
            st.none() | st.integers(-1, 120).map(str) | st.text("0123456789-+_ e", max_size=4),
            st.sampled_from([{}, {}, {}, {"Content-Encoding": "gzip"}, {"Content-Encoding": "deflate"}]),
        )
        def check(path, body, header, coding):
            headers = {**coding, **({} if header is None else {"Inference-Header-Content-Length": header})}
            response = asyncio.run_coroutine_threadsafe(client.post(path, content=body, headers=headers), loop).result(20)
            assert response.status_code < 500, (path, body, header, response.text)
            assert response.status_code == 200 or list(response.json()) == ["error"]

        await asyncio.to_thread(check)

    serve(scenario)


def test_who_asks_is_told_what_happened_to_the_request(serve):
    async def scenario(client):
        told = {
            "predict": (await client.post(PREDICT, json={"instances": [[1, 2]] * 3, "explain": True}), "explanation"),
            "infer": (await client.post(INFER, json={"inputs": [X], "parameters": {"explain": True}}), "parameters"),
        }
        for interface, (response, key) in told.items():
            found = response.json()[key]
            assert found["backend"] == "onnxruntime-cpu", interface
            assert (found["artifact"], found["version"], found["left_because"]) == ("model.onnx", "1", "idle")
            assert found["batch_rows"] <= found["batch_bucket"]
            assert min(found["queue_ms"], found["pad_ms"], found["compute_ms"]) >= 0
            timing = response.headers["server-timing"]
            assert timing == f"queue;dur={found['queue_ms']}, pad;dur={found['pad_ms']}, compute;dur={found['compute_ms']}"
        plain = await client.post(PREDICT, json={"instances": [[1, 2]]})
        assert "explanation" not in plain.json()
        assert "server-timing" not in plain.headers

    serve(scenario)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("Quartet-Timeout-Ms", "soon", "'soon'; it takes a number of milliseconds"),
        ("Quartet-Timeout-Ms", "-1", "'-1'; it takes a number of milliseconds"),
        ("Quartet-Timeout-Ms", "1e9", "'1e9'; it takes a number of milliseconds"),
        ("Quartet-Priority", "high", "'high'; it takes 1 (first) to 4"),
    ],
)
def test_a_header_that_cannot_be_read_is_named(serve, name, value, message):
    async def scenario(client):
        response = await client.post(PREDICT, json={"instances": [[1, 2]]}, headers={name: value})
        assert response.status_code == 400
        assert message in response.json()["error"]

    serve(scenario)


@pytest.mark.parametrize("interface", ["predict", "infer"])
def test_a_request_that_is_not_answered_in_time_is_a_504(serve, monkeypatch, interface):
    async def scenario(client):
        (worker,) = client.app.registry.get("double").batcher.workers
        hold = threading.Event()
        run = worker.session.run
        monkeypatch.setattr(worker.session, "run", lambda inputs: hold.wait(10) and run(inputs))
        monkeypatch.setattr("service.batching.INLINE_SECONDS", 0)  # nothing is quick: it runs in the thread
        if interface == "predict":
            sent = client.post(PREDICT, json={"instances": [[1, 2]]}, headers={"Quartet-Timeout-Ms": "20", "Quartet-Priority": "1"})
        else:
            sent = client.post(INFER, json={"inputs": [X], "parameters": {"timeout": 20_000, "priority": 1}})
        response = await sent
        hold.set()
        assert response.status_code == 504
        assert response.json()["error"] == "no answer within the timeout of 20 ms; it ended while it ran"

    serve(scenario)
