"""What counts as right, refused and lost: a drill that cannot fail proves nothing."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from loadtests.calls import Response, golden_calls
from loadtests.client import Load
from loadtests.mlperf.sweep import Point
from loadtests.report import Report
from modelrepo.repository import Repository
from tests import micro

REFUSED = b'{"error": "later"}'


@pytest.fixture
def call(tmp_path):
    micro.publish_double(tmp_path)
    return golden_calls(Repository(tmp_path), "double")[1]  # [2, 3], of which the double is [4, 6]


def answer(data, version="1", shape=(1, 2)):
    output = {"name": "logits", "shape": shape, "datatype": "FP32", "data": data}
    body = {"model_name": "double", "model_version": version, "outputs": [output]}
    return Response(200, {"content-type": "application/json"}, json.dumps(body).encode())


def test_a_call_is_a_golden_row_in_the_protocol(call):
    head, _, body = call.request.partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v2/models/double/infer HTTP/1.1\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [2, 3]}]}


def test_sequences_are_sent_at_their_own_length(tmp_path):
    micro.publish_mean(tmp_path)
    bodies = [json.loads(call.request.partition(b"\r\n\r\n")[2]) for call in golden_calls(Repository(tmp_path), "mean")]
    assert [[tensor["shape"] for tensor in body["inputs"]] for body in bodies] == [[[1, 1, 1]], [[1, 3, 1]], [[1, 4, 1]]]


def test_the_right_answer_is_right_in_json_and_in_binary(call):
    assert call.judge(answer([4, 6])) == ("right", "1")
    described = {"name": "logits", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    header = json.dumps({"model_name": "double", "model_version": "1", "outputs": [described]}).encode()
    body = header + np.array([4, 6], np.float32).tobytes()
    assert call.judge(Response(200, {"inference-header-content-length": str(len(header))}, body)) == ("right", "1")


@pytest.mark.parametrize(
    "response",
    [
        pytest.param(answer([4, 7]), id="another row's numbers"),
        pytest.param(answer([4, float("nan")]), id="not a number"),
        pytest.param(answer([4, 6], shape=(2, 1)), id="another shape"),
        pytest.param(answer([4, 6], version="2"), id="a version that should not answer"),
        pytest.param(Response(200, {}, b"<html>"), id="200 with no answer in it"),
        pytest.param(Response(500, {}, REFUSED), id="500"),
        pytest.param(Response(400, {}, REFUSED), id="400 for a right request"),
        pytest.param(Response(429, {}, REFUSED), id="429 without Retry-After"),
        pytest.param(Response(503, {}, b"<html>no server</html>"), id="a balancer's 503"),
    ],
)
def test_anything_else_is_lost(call, response):
    assert call.judge(response)[0] == "lost"


def test_clean_refusals_are_refused(call):
    assert call.judge(Response(429, {"retry-after": "1"}, REFUSED)) == ("refused", "429")
    assert call.judge(Response(503, {}, REFUSED)) == ("refused", "503")
    assert call.judge(Response(504, {}, REFUSED)) == ("refused", "504")


def test_a_connection_that_breaks_under_a_request_is_lost_and_never_tried_again(call):
    arrived = 0

    async def hang_up(reader, writer):
        nonlocal arrived
        await reader.readuntil(b"\r\n\r\n")
        arrived += 1
        writer.close()

    async def main():
        async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
            async with Load(server.sockets[0].getsockname(), [call], rate=500) as load:
                while load.report.lost.total() < 5:
                    await asyncio.sleep(0.01)
            return load.report

    report = asyncio.run(asyncio.wait_for(main(), 20))
    assert report.lost.total() == report.sent == arrived
    assert not report.right


def test_a_client_that_falls_behind_sends_no_more_and_says_how_much_it_did_not(call):
    behind = asyncio.Event()

    async def answer_late(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        await behind.wait()
        writer.close()

    async def main():
        async with await asyncio.start_server(answer_late, "127.0.0.1", 0) as server:
            async with Load(server.sockets[0].getsockname(), [call], rate=2000, most=3) as load:
                while load.report.unsent < 5:
                    await asyncio.sleep(0.01)
                sent = load.report.sent
                behind.set()
            return load.report, sent

    report, sent = asyncio.run(asyncio.wait_for(main(), 20))
    assert sent == 3
    assert report.sent == report.lost.total()
    assert (report + report).unsent == 2 * report.unsent
    assert report.late > 0
    point = Point.of(1.0, 2000, report + Report(late=7.0, seconds=1.0))
    assert point.unsent == report.unsent / (report.sent + report.unsent)
    assert point.late_ms == 7000
