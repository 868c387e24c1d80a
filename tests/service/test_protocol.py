"""The connection: whatever a client sends, in whatever pieces, the answers are those that uvicorn's own protocol gives."""

from __future__ import annotations

import asyncio
import json
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.admission import Limits
from service.app import create_app
from service.settings import Settings
from tests import micro
from tests.service.connections import ROW, Bench, quiet, request

INFER = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "id": "7"}'


@pytest.fixture(scope="module")
def application(tmp_path_factory):
    """One that serves a tiny model, and the event loop it lives in."""
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    app = create_app(Settings(repository=root, device="cpu"))
    with asyncio.Runner() as runner:
        lifespan = app.lifespan()
        runner.run(lifespan.__aenter__())
        yield app, runner
        runner.run(lifespan.__aexit__(None, None, None))


@pytest.fixture
def bench_in(application):
    """Runs a coroutine function with a bench."""
    app, runner = application

    def run(scenario):
        runner.run(asyncio.wait_for(scenario(Bench(app)), 10))

    yield run
    app.registry.stopping = False


PREDICT = request("/models/double/predict", ROW, "Content-Type: application/json")
REQUESTS = {
    "predict": PREDICT,
    "infer": request("/v2/models/double/infer", INFER),
    "a version": request("/v2/models/double/versions/1/infer", INFER, "Accept-Encoding: gzip"),
    "options": request("/models/double/predict?top_k=1", ROW),
    "broken": request("/models/double/predict", b'{"instances": [[1, 2]'),
    "wrong": request("/v2/models/double/infer", INFER.replace(b"FP32", b"FP64")),
    "no model": request("/models/none/predict"),
    "several batches": request("/models/double/predict", json.dumps({"instances": [[1, 2]] * 40}).encode()),
    "chunked": request("/models/double/predict", None, "Transfer-Encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(ROW), ROW),
    "a bad priority": request("/models/double/predict", ROW, "Quartet-Priority: x"),
    "health": request("/v2/health/live", None, method="GET"),
    "not for POST": request("/models/double/predict", None, method="GET"),
    "empty": request("/models/double/predict", b""),
}
LAST = {
    "close": request("/models/double/predict", ROW, "Connection: close"),
    "HTTP/1.0": request("/models/double/predict", ROW, version="1.0"),
    "cut off": PREDICT[:-5],
}


@given(data=st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_answers_are_those_of_uvicorns_own_protocol(bench_in, data):
    names = data.draw(st.lists(st.sampled_from(sorted(REQUESTS)), min_size=1, max_size=4), label="requests")
    names = names * data.draw(st.integers(1, 3), label="times")  # heads are remembered when they come again
    last = data.draw(st.sampled_from(["", *sorted(LAST)]), label="last")
    stream = b"".join(REQUESTS[name] for name in names) + LAST.get(last, b"")
    at_heads = data.draw(st.booleans(), label="a piece for each request")
    if at_heads:
        pieces = [REQUESTS[name] for name in names] + ([LAST[last]] if last else [])
    else:
        cuts = sorted(data.draw(st.lists(st.integers(1, len(stream) - 1), max_size=6), label="cuts"))
        pieces = [stream[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True) if start < stop]

    async def scenario(bench):
        for _ in range(2):  # with heads forgotten, and remembered
            ours, theirs = [await bench.answers(pieces, ours) for ours in (True, False)]
            assert ours == theirs

    bench_in(scenario)


def test_a_head_that_comes_again_is_recognised_and_its_body_may_come_in_pieces(bench_in):
    async def scenario(bench):
        protocol, transport = bench.connect()
        parsed = []
        parser = protocol.parser

        class Parser:
            def feed_data(self, data):
                parsed.append(data)
                parser.feed_data(data)

            def __getattr__(self, name):
                return getattr(parser, name)

        protocol.parser = Parser()
        for _ in range(3):
            protocol.data_received(PREDICT)
            await quiet(protocol)
        assert parsed == [PREDICT, PREDICT], "twice, then it is known"
        for cut in range(len(PREDICT) - len(ROW), len(PREDICT)):
            protocol.data_received(PREDICT[:cut])
            protocol.data_received(PREDICT[cut:])
            await quiet(protocol)
        assert len(parsed) == 2
        answers = transport.written.split(b"HTTP/1.1 200 OK")[1:]
        assert len(answers) == 3 + len(ROW)
        assert len(set(answers)) == 1

    bench_in(scenario)


def test_a_head_that_somebody_could_end_elsewhere_is_never_remembered(bench_in):
    async def scenario(bench):
        sly = PREDICT.replace(b"Host: quartet\r\n", b"Host: quartet\nX: y\r\n")
        for _ in range(3):
            await bench.answers([sly], ours=True)
        assert not bench.shared.heads

    bench_in(scenario)


def test_memory_for_heads_is_bounded(bench_in):
    async def scenario(bench):
        for number in range(1100):
            again = request("/models/double/predict", ROW, f"X-Number: {number}")
            await bench.answers([again, again], ours=True)
        assert len(bench.shared.heads) <= 1024

    bench_in(scenario)


def test_who_hangs_up_before_the_answer_takes_its_rows_along(bench_in):
    async def scenario(bench):
        (model,) = bench.app.registry.models()
        protocol, _ = bench.connect()
        protocol.connections.add("another")  # who is alone is answered on the spot
        protocol.data_received(PREDICT)
        assert model.batcher.waiting_rows == 1
        protocol.connection_lost(ConnectionResetError())
        assert model.batcher.waiting_rows == 0
        text = bench.app.registry._metrics.render().decode()
        assert 'quartet_cancelled_requests_total{model="double",version="1"} 1.0' in text
        assert model._callers == 0, "nobody is waited for when the model is closed"

    bench_in(scenario)


def test_only_who_is_alone_keeps_the_loop_awake_after_an_answer(bench_in, monkeypatch):
    async def scenario(bench):
        rests = []
        monkeypatch.setattr(bench.shared.poll, "rest", lambda _loop, now: rests.append(now))
        protocol, _ = bench.connect()
        protocol.data_received(PREDICT)
        await quiet(protocol)
        assert len(rests) == 1
        protocol.connections.add("another")
        protocol.data_received(PREDICT)
        await quiet(protocol)
        assert len(rests) == 1

    bench_in(scenario)


def test_a_client_that_does_not_read_its_answers_gets_no_more_until_it_does(bench_in):
    async def scenario(bench):
        protocol, transport = bench.connect()
        for _ in range(3):
            protocol.data_received(PREDICT)
            await quiet(protocol)
        before = transport.written
        protocol.pause_writing()  # what the transport calls when too much is unread
        protocol.data_received(PREDICT)
        protocol.data_received(PREDICT)
        for _ in range(20):
            await asyncio.sleep(0)
        assert transport.written == before
        protocol.resume_writing()
        await quiet(protocol)
        assert transport.written.count(b"HTTP/1.1 200 OK") == 5

    bench_in(scenario)


@pytest.mark.parametrize("pieces", [[], [PREDICT], [PREDICT] * 3])
def test_a_connection_that_rests_too_long_is_closed_and_one_that_dribbles_is_told_so(bench_in, pieces):
    async def scenario(bench):
        protocol, transport = bench.connect(read_timeout=7)
        for piece in pieces:
            protocol.data_received(piece)
            await quiet(protocol)
        limit = protocol.timeout_keep_alive if pieces else 7
        protocol.tick(time.monotonic() + limit - 1)
        assert not transport.closed
        written = transport.written
        protocol.tick(time.monotonic() + limit + 1)
        assert transport.closed
        assert transport.written == written, "without a word"

        protocol, transport = bench.connect(read_timeout=7)
        for piece in [*pieces, PREDICT[:-3]]:
            protocol.data_received(piece)
            await quiet(protocol)
        protocol.tick(time.monotonic() + 6)
        assert not transport.closed
        protocol.tick(time.monotonic() + 8)
        assert transport.closed
        assert b"HTTP/1.1 408" in transport.written

    bench_in(scenario)


def test_an_answer_tells_to_close_the_connection_once_the_server_is_on_its_way_out(bench_in):
    async def scenario(bench):
        protocol, transport = bench.connect()
        protocol.data_received(PREDICT[:-3])
        bench.app.registry.stopping = True
        protocol.shutdown()
        assert not transport.closed, "what has begun to arrive is answered"
        protocol.data_received(PREDICT[-3:])
        await quiet(protocol)
        assert transport.written.startswith(b"HTTP/1.1 200 OK")
        assert b"connection: close\r\n" in transport.written
        assert transport.closed

    bench_in(scenario)


def test_who_is_refused_is_told_so_before_the_next_request_is_even_looked_at(bench_in, monkeypatch):
    async def scenario(bench):
        (model,) = bench.app.registry.models()
        protocol, transport = bench.connect()
        protocol.data_received(PREDICT)
        await quiet(protocol)
        monkeypatch.setattr(model.batcher._admission, "_limits", Limits(queue_rows=0))
        protocol.data_received(PREDICT)
        assert transport.written.count(b"HTTP/1.1 429 Too Many Requests") == 1
        assert b"retry-after: 1\r\n" in transport.written
        assert not transport.closed

    bench_in(scenario)
