"""What becomes of calls whose time ends, whose caller leaves, that find no room, or whose server has to end."""

from __future__ import annotations

import asyncio
import json
import queue
import signal
import subprocess
import sys
import threading
import time

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from service.rpc import codec
from service.rpc.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from tests.server import ROOT
from tests.service.rpc.conftest import SERVICE, Running

WATCHED = health_pb2.HealthCheckRequest()


def request(rows=1, model="double", **more):
    made = ModelInferRequest(model_name=model, raw_input_contents=[np.ones((rows, 2), np.float32).tobytes()], **more)
    made.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    return made.SerializeToString()


def infer(channel):
    return channel.unary_unary(SERVICE + "ModelInfer")


def until(condition):
    """Wait for what the server does by itself."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


class Queued:
    """A block in which the session is busy with one call and another one waits behind it."""

    def __init__(self, server, channel, **options):
        self.batcher = server.app.registry.get("double").batcher
        self._server, self._channel, self._options = server, channel, options

    def __enter__(self):
        self._held = self._server.held()
        started = self._held.__enter__()
        self.first = infer(self._channel).future(request())
        assert started.acquire(timeout=10)
        self.waiting = infer(self._channel).future(request(3), **self._options)
        until(lambda: self.batcher.waiting_rows == 3)
        return self

    def __exit__(self, *error):
        self._held.__exit__(*error)
        assert self.first.result(10)


def test_when_the_deadline_of_a_call_passes_its_rows_are_taken_back(server, channel):
    with Queued(server, channel, timeout=0.05) as queued:
        with pytest.raises(grpc.RpcError) as raised:
            queued.waiting.result(10)
        assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: queued.batcher.waiting_rows == 0)


def test_the_timeout_of_a_request_counts_where_it_is_sooner_than_the_deadline(server, channel):
    made = ModelInferRequest.FromString(request())
    made.parameters["timeout"].int64_param = 20_000
    with server.held(), pytest.raises(grpc.RpcError) as raised:
        infer(channel)(made.SerializeToString(), timeout=10)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert raised.value.details() == "no answer within the timeout of 20 ms; it ended while it ran"


def test_the_rows_of_a_call_that_is_cancelled_are_taken_back(server, channel):
    cancelled = server.metric("quartet_cancelled_requests_total")
    abandoned = server.metric("quartet_dropped_rows_total", reason="abandoned")
    with Queued(server, channel) as queued:
        queued.waiting.cancel()
        until(lambda: queued.batcher.waiting_rows == 0)
    assert server.metric("quartet_cancelled_requests_total") == cancelled + 1
    assert server.metric("quartet_dropped_rows_total", reason="abandoned") == abandoned + 3


def test_the_rows_of_a_client_that_is_killed_are_taken_back(server, channel):
    code = "import grpc, sys; grpc.insecure_channel(sys.argv[1]).unary_unary(sys.argv[2])(bytes.fromhex(sys.argv[3]))"
    batcher = server.app.registry.get("double").batcher
    with server.held() as started:
        first = infer(channel).future(request())
        assert started.acquire(timeout=10)
        command = [sys.executable, "-c", code, server.address, SERVICE + "ModelInfer", request(3).hex()]
        with subprocess.Popen(command, cwd=ROOT) as client:
            until(lambda: batcher.waiting_rows == 3)
            client.send_signal(signal.SIGKILL)
        until(lambda: batcher.waiting_rows == 0)
    assert first.result(10)


def test_what_finds_no_room_is_told_when_to_come_back(server, channel):
    with Queued(server, channel), pytest.raises(grpc.RpcError, match="64 rows|rows are waiting") as raised:
        infer(channel)(request(62))
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    trailing = dict(raised.value.trailing_metadata())
    assert trailing["retry-after"] == "1"
    assert trailing["grpc-retry-pushback-ms"] == "1000"


def test_a_standard_client_with_a_retry_policy_waits_as_it_is_told(server):
    policy = {"maxAttempts": 3, "initialBackoff": "9s", "maxBackoff": "9s", "backoffMultiplier": 1}
    config = {"methodConfig": [{"name": [{}], "retryPolicy": {**policy, "retryableStatusCodes": ["RESOURCE_EXHAUSTED"]}}]}
    with grpc.insecure_channel(server.address, [("grpc.service_config", json.dumps(config))]) as channel:
        refused = server.metric("quartet_requests_total", interface="grpc", status=429)
        with Queued(server, channel):
            again = infer(channel).future(request(62))
            until(lambda: server.metric("quartet_requests_total", interface="grpc", status=429) > refused)
        started = time.monotonic()
        assert again.result(8)
        assert time.monotonic() - started < 3, "not the nine seconds of its own policy"


def test_calls_are_counted_under_an_interface_of_their_own(server, channel):
    def counted(status):
        return server.metric("quartet_requests_total", interface="grpc", status=status)

    before = counted(200), counted(400)
    infer(channel)(request())
    with pytest.raises(grpc.RpcError):
        infer(channel)(ModelInferRequest(model_name="double").SerializeToString())
    assert (counted(200), counted(400)) == (before[0] + 1, before[1] + 1)
    assert server.metric("quartet_request_seconds_count", interface="grpc") > 0


def test_a_fault_of_the_servers_own_is_opaque_and_logged(server, channel, monkeypatch, caplog):
    monkeypatch.setattr(codec, "encode", lambda *arguments: 1 / 0)
    with pytest.raises(grpc.RpcError) as raised:
        infer(channel)(request())
    assert raised.value.code() == grpc.StatusCode.INTERNAL
    assert raised.value.details() == "internal error; the server's log has the details"
    assert "ZeroDivisionError" in caplog.text


def test_a_long_request_is_decoded_beside_the_event_loop(server, channel, monkeypatch):
    monkeypatch.setattr("service.rpc.inference.LONG_BINARY", 100)
    monkeypatch.setattr("service.rpc.inference.LONG_BODY", 100)
    threads = []
    decode = codec.decode
    monkeypatch.setattr(codec, "decode", lambda *arguments: threads.append(threading.current_thread()) or decode(*arguments))
    infer(channel)(request(1))
    infer(channel)(request(30))
    assert (threads[0] is server._thread, threads[1] is server._thread) == (True, False)


class Stream:
    """A stream over plain grpc, which shows how it ends."""

    def __init__(self, channel):
        self._requests = queue.Queue()
        self.call = channel.stream_stream(SERVICE + "ModelStreamInfer")(iter(self._requests.get, None))

    def send(self, message):
        self._requests.put(message)

    def answer(self):
        return ModelStreamInferResponse.FromString(next(self.call))


def test_the_rows_of_a_stream_that_is_cancelled_are_taken_back(server, channel):
    batcher = server.app.registry.get("double").batcher
    with server.held() as started:
        stream = Stream(channel)
        stream.send(request())
        assert started.acquire(timeout=10)
        for _ in range(3):
            stream.send(request())
        until(lambda: batcher.waiting_rows == 3)
        stream.call.cancel()
        until(lambda: batcher.waiting_rows == 0)
    stream.send(None)


def test_a_stream_survives_messages_that_are_none_and_names_the_request_that_failed(channel):
    stream = Stream(channel)
    stream.send(b"\xff\xff")
    stream.send(request(model="nobody", id="7"))
    stream.send(request(id="8"))
    stream.send(None)
    assert "is no inference.ModelInferRequest" in stream.answer().error_message
    failed, right = stream.answer(), stream.answer()
    assert (failed.infer_response.id, failed.error_message[:17]) == ("7", "no model 'nobody'")
    assert (right.infer_response.id, right.error_message) == ("8", "")
    assert list(stream.call) == []
    assert stream.call.code() == grpc.StatusCode.OK


def test_health_is_told_at_once_to_those_who_ask_and_to_those_who_watch(server, channel):
    health = health_pb2_grpc.HealthStub(channel)
    changes = health.Watch(WATCHED)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    registry = server.app.registry

    def tell():
        server.loop.call_soon_threadsafe(server.app.rpc.tick)

    tell()
    until(lambda: next(changes).status == serving)
    assert health.Check(health_pb2.HealthCheckRequest(service=SERVICE.strip("/"))).status == serving
    registry.stopping = True
    try:
        assert health.Check(WATCHED).status == not_serving
        tell()
        assert next(changes).status == not_serving
        infer(channel)(request())  # routers are told late: it still answers
    finally:
        registry.stopping = False
        tell()
    changes.cancel()
    with pytest.raises(grpc.RpcError, match="no service 'nobody'") as raised:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert raised.value.code() == grpc.StatusCode.NOT_FOUND
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="nobody"))
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    unknown.cancel()


def test_a_server_that_ends_answers_what_it_accepted_and_lets_streams_and_watchers_go(models):
    server = Running(models)
    with grpc.insecure_channel(server.address) as channel:
        watched = health_pb2_grpc.HealthStub(channel).Watch(WATCHED)
        next(watched)
        idle = Stream(channel)
        idle.send(request())
        idle.answer()
        with server.held() as started:
            accepted = infer(channel).future(request())
            assert started.acquire(timeout=10)
            closing = asyncio.run_coroutine_threadsafe(server.app.rpc.close(20), server.loop)
            with pytest.raises(grpc.RpcError, match="shut down before it could answer") as raised:
                idle.answer()
            assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
            assert list(watched) == []
            with pytest.raises(grpc.RpcError) as raised:
                infer(channel)(request(), timeout=10)
            assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
            assert not accepted.done()
        assert ModelInferResponse.FromString(accepted.result(10)).model_name == "double"
        closing.result(10)
        idle.send(None)
    server.run(server._lifespan.__aexit__(None, None, None))
    server.stop()


def test_what_is_not_answered_in_time_is_told_to_go_elsewhere(models):
    server = Running(models)
    with grpc.insecure_channel(server.address) as channel, server.held() as started:
        accepted = infer(channel).future(request())
        assert started.acquire(timeout=10)
        server.run(server.app.rpc.close(0.05))
        with pytest.raises(grpc.RpcError, match="send the request to another instance") as raised:
            accepted.result(10)
        assert raised.value.code() == grpc.StatusCode.UNAVAILABLE
    server.run(server._lifespan.__aexit__(None, None, None))
    server.stop()
