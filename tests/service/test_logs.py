"""Log lines: their two forms, the ids of requests in them, the access log; and never what was sent."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import re
import sys

import pytest

from service import identity, logs
from service.__main__ import main
from service.app import create_app
from service.identity import Identity
from service.settings import Settings
from tests import micro
from tests.service.connections import Bench, request

TRACE = "0af7651916cd43dd8448eb211c80319c"
ROW = b'{"instances": [[1, 2]]}'
INFER = b'{"id": "order-7", "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}'


def record(message="it failed: %s", *arguments, **extra):
    made = logging.LogRecord("quartet.api", logging.WARNING, __file__, 1, message, arguments or ("so",), None)
    made.created = 1_800_000_000.25
    made.__dict__.update(extra)
    return made


def test_a_line_of_json_has_time_level_logger_message_and_what_it_is_about():
    line = json.loads(logs.Json(3).format(record(about={"request_id": "r", "model": "m"})))
    assert line == {
        "time": "2027-01-15T08:00:00.250Z",
        "level": "WARNING",
        "logger": "quartet.api",
        "message": "it failed: so",
        "worker": 3,
        "request_id": "r",
        "model": "m",
    }


def test_a_traceback_stays_on_the_line():
    try:
        raise ValueError("no\nway")
    except ValueError:
        made = record(exc_info=sys.exc_info())
    (line,) = logs.Json().format(made).splitlines()
    assert json.loads(line)["exception"].endswith("ValueError: no\nway")


def test_text_names_the_worker_and_the_request():
    assert logs.Text(1).format(record(about={"request_id": "r"})) == "WARNING [1] quartet.api: it failed: so [r]"
    assert logs.Text().format(record()) == "WARNING quartet.api: it failed: so"


def test_lines_within_a_request_are_about_it():
    async def answering():
        identity.current.set(Identity("mine", f"00-{TRACE}-b7ad6b7169203331-01"))
        return await asyncio.to_thread(logs.Json().format, record())

    line = json.loads(asyncio.run(answering()))
    assert (line["request_id"], line["trace_id"]) == ("mine", TRACE)
    assert "request_id" not in json.loads(logs.Json().format(record()))


@pytest.mark.parametrize("given", ["", "a b", "x" * 129, "é", "a\nERROR quartet: all is lost"])
def test_an_id_that_could_not_stand_in_a_line_is_none(given):
    assert Identity(given, None).about() == {}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    return root


@pytest.fixture
def run(models):
    """Runs a coroutine function with a bench; returns the lines that were logged meanwhile."""

    def run(scenario, form="json", **settings):
        written = io.StringIO()
        handler = logging.StreamHandler(written)
        handler.setFormatter(logs.Json() if form == "json" else logs.Text())
        logger = logging.getLogger("quartet")
        before = logger.level
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)

        async def main():
            app = create_app(Settings(repository=models, device="cpu", **settings))
            async with app.lifespan():
                written.truncate(written.seek(0))
                await asyncio.wait_for(scenario(Bench(app)), 20)
                return written.getvalue()

        try:
            text = asyncio.run(main())
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)
        return [json.loads(line) for line in text.splitlines()] if form == "json" else text

    return run


def header(answer, name):
    found = re.search(rf"^{name}: (.*)\r$", answer.decode("latin-1"), re.MULTILINE | re.IGNORECASE)
    return found and found[1]


WAYS = pytest.mark.parametrize("ours", [pytest.param(True, id="the quick way"), pytest.param(False, id="the long way")])


@WAYS
def test_the_id_a_caller_gave_comes_back_and_none_is_made_for_who_gave_none(run, ours):
    async def scenario(bench):
        for body in (ROW, b'{"instances": 1}'):
            given = await bench.answers([request("/models/double/predict", body, "X-Request-ID: order/7")], ours)
            assert header(given, "x-request-id") == "order/7"
            assert header(await bench.answers([request("/models/double/predict", body)], ours), "x-request-id") is None
            bad = await bench.answers([request("/models/double/predict", body, f"X-Request-ID: {'x' * 200}")], ours)
            assert header(bad, "x-request-id") is None

    assert run(scenario) == [], "no line for requests, unless it is asked for"


@WAYS
def test_a_failure_in_the_log_can_be_found_by_the_id_in_its_answer(run, monkeypatch, unwritable, ours):
    ids = []

    async def scenario(bench):
        unwritable()
        monkeypatch.setattr("service.codec.v2.encode", lambda *_: 1 / 0)
        for path, body, *given in (
            ("/models/double/predict", ROW),
            ("/models/double/predict", ROW, "X-Request-Id: mine", f"traceparent: 00-{TRACE}-b7ad6b7169203331-00"),
            ("/v2/models/double/infer", INFER),
        ):
            answer = await bench.answers([request(path, body, *given)], ours)
            assert answer.startswith(b"HTTP/1.1 500")
            ids.append(header(answer, "x-request-id"))

    made, given, v2 = run(scenario)
    assert [made["request_id"], given["request_id"]] == ids[:2]
    assert re.fullmatch("[0-9a-f]{16}", ids[0])
    assert (ids[1], given["trace_id"]) == ("mine", TRACE)
    assert ids[2] == v2["request_id"] == "order-7"
    assert all(line["exception"].endswith("ZeroDivisionError: division by zero") for line in (made, given, v2))
    assert all((line["model"], line["version"]) == ("double", "1") for line in (made, given, v2))


@WAYS
def test_the_access_log_has_a_line_for_each_request(run, ours):
    async def scenario(bench):
        for data in (
            request("/models/double/predict?top_k=1", ROW, "X-Request-Id: mine", f"traceparent: 00-{TRACE}-b7ad6b7169203331-00"),
            request("/v2/models/double/versions/1/infer", INFER),
            request("/models/double/predict", b'{"instances": 1}'),
            request("/models/none/predict", ROW),
            request("/v2/health/live%0d%0aX", None, method="GET"),
        ):
            await bench.answers([data], ours)

    first, v2, wrong, nobody, other = run(scenario, access_log=True)
    assert first.pop("ms") > 0
    assert first.pop("time")
    assert first == {
        "level": "INFO",
        "logger": "quartet.access",
        "message": first["message"],
        "method": "POST",
        "path": "/models/double/predict",
        "status": 200,
        "bytes": first["bytes"],
        "request_id": "mine",
        "trace_id": TRACE,
        "model": "double",
        "version": "1",
    }
    assert first["bytes"] > 90
    assert (v2["path"], v2["request_id"], v2["status"]) == ("/v2/models/double/versions/1/infer", "order-7", 200)
    assert (wrong["status"], nobody["status"], nobody["path"]) == (400, 404, "/models/none/predict")
    assert (other["method"], other["path"], other["status"]) == ("GET", "/v2/health/live%0d%0aX", 404)


@WAYS
def test_a_caller_that_leaves_has_its_line_too(run, ours):
    async def scenario(bench):
        bench.app.registry.find("double").batcher._idle.clear()  # as if something else ran
        protocol, _ = bench.connect(ours)
        protocol.data_received(request("/models/double/predict", ROW))
        while not bench.app.registry.find("double").batcher.waiting:
            await asyncio.sleep(0)
        protocol.connection_lost(None)
        await asyncio.sleep(0.01)

    (line,) = run(scenario, access_log=True)
    assert (line["status"], line["bytes"], line["path"]) == (499, 0, "/models/double/predict")


@WAYS
@pytest.mark.parametrize("form", ["json", "text"])
def test_what_was_sent_never_stands_in_the_log(run, unwritable, ours, form):
    bodies = (
        b'{"instances": [["sesame", 31415926]]}',
        b'{"instances": [[31415926, 31415926]]}',
        b'{"instances": [[31415926]], "sesame": 31415926',
    )

    async def scenario(bench):
        async def all_of_them():
            for body in bodies:
                for path in ("/models/double/predict", "/models/double/predict?sesame=31415926", "/v2/models/double/infer"):
                    answer = await bench.answers([request(path, body, "Authorization: sesame")], ours)
                    assert answer.startswith(b"HTTP/1.1 ")

        await all_of_them()
        unwritable()
        await all_of_them()

    text = str(run(scenario, form, access_log=True))
    assert text.count("/models/double/predict 500") == 1, "the one that failed is told of"
    assert not re.search("sesame|31415926|3.1415926", text)


def test_what_ends_the_process_is_a_line_of_json_too(tmp_path, monkeypatch, capsys):
    for name in ("signal.signal", "logs.to_stderr"):
        monkeypatch.setattr(f"service.__main__.{name}", lambda *_: None)
    assert main(["--repository", str(tmp_path / "none"), "--log-format", "json"]) == 1
    line = json.loads(capsys.readouterr().err)
    assert (line["level"], line["logger"]) == ("CRITICAL", "quartet")
    assert "model repository" in line["message"]
