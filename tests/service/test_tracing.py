"""Traces, as a collector gets them from the whole application."""

from __future__ import annotations

import asyncio
import builtins
import logging
import re
import time

import pytest

from loadtests.server import free_port
from service import tracing
from service.app import create_app
from service.settings import Settings
from tests import micro
from tests.service.collector import attributes, collecting
from tests.service.connections import Bench, quiet, request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PREDICT = "POST /models/{model}/predict"
INFER = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}], "id": "7"}'


def traced(trace=TRACE, flags="01"):
    return f"traceparent: 00-{trace}-{PARENT}-{flags}"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in [name for name in tracing.os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def collector(monkeypatch):
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    return root


def run(models, scenario, **settings):
    """Run a coroutine function with a bench of connections; when this returns, all spans have been sent."""

    async def main():
        app = create_app(Settings(repository=models, device="cpu", **settings))
        async with app.lifespan():
            await asyncio.wait_for(scenario(Bench(app)), 20)

    asyncio.run(main())


def test_a_request_is_a_span_of_its_callers_trace_with_its_stages_and_a_link_to_its_batch(collector, models):
    headers = []

    async def scenario(bench):
        for data in (request("/models/double/predict", b'{"instances": [[1, 2], [3, 4]]}', traced()),):
            headers.append(await bench.answers([data], ours=True))

    run(models, scenario)
    whole = collector.one(PREDICT)
    assert (whole.trace_id.hex(), whole.parent_span_id.hex(), whole.kind) == (TRACE, PARENT, whole.SPAN_KIND_SERVER)
    facts = attributes(whole)
    assert (
        facts.items()
        >= {
            "http.request.method": "POST",
            "http.response.status_code": 200,
            "url.path": "/models/double/predict",
            "quartet.model": "double",
            "quartet.version": "1",
        }.items()
    )
    assert f"traceresponse: 00-{TRACE}-{whole.span_id.hex()}-01" in headers[0].decode()

    stages = collector.children(whole)
    assert sorted(stages) == ["compute", "decode", "encode", "queue"]
    in_order = [stages[name] for name in ("decode", "queue", "compute", "encode")]
    ends = [0, *(span.end_time_unix_nano for span in in_order)]
    for before, span in zip(ends, in_order, strict=False):
        assert before <= span.start_time_unix_nano + 1e6, "read from two clocks"
        assert whole.start_time_unix_nano <= span.start_time_unix_nano + 1e6
        assert span.end_time_unix_nano <= whole.end_time_unix_nano + 1e6

    batch = collector.one("batch")
    assert batch.parent_span_id == b""
    assert batch.trace_id != whole.trace_id
    assert [(link.trace_id, link.span_id) for link in batch.links] == [(whole.trace_id, whole.span_id)]
    assert [(link.trace_id, link.span_id) for link in stages["compute"].links] == [(batch.trace_id, batch.span_id)]
    ran = attributes(batch)
    assert (
        ran.items()
        >= {
            "quartet.model": "double",
            "quartet.version": "1",
            "quartet.backend": "onnxruntime-cpu",
            "quartet.requests": 1,
            "quartet.rows": 2,
            "quartet.bucket": 2,
            "quartet.padding_share": 0.0,
            "quartet.reason": "idle",
        }.items()
    )
    assert ran["quartet.compute_ms"] > 0
    assert attributes(stages["compute"]) == ran
    assert collector.resources[0].items() >= {"service.name": "quartet"}.items()


def test_requests_that_share_a_batch_are_linked_to_it_and_it_to_them(collector, models):
    async def scenario(bench):
        connections = [bench.connect()[0] for _ in range(3)]
        for number, protocol in enumerate(connections):
            protocol.data_received(request("/v2/models/double/infer", INFER, traced(f"{number + 1:032x}")))
        for protocol in connections:
            await quiet(protocol)

    run(models, scenario)
    batch = collector.one("batch")
    requests = collector.named("POST /v2/models/{model}/infer")
    assert len(requests) == 3
    assert attributes(batch)["quartet.requests"] == attributes(batch)["quartet.rows"] == 3
    assert {link.span_id for link in batch.links} == {span.span_id for span in requests}
    for span in requests:
        (link,) = collector.children(span)["compute"].links
        assert (link.trace_id, link.span_id) == (batch.trace_id, batch.span_id)


def test_a_request_of_several_batches_is_linked_to_each(collector, models):
    async def scenario(bench):
        await bench.answers([request("/models/double/predict", b'{"instances": [%s]}' % b",".join([b"[1, 2]"] * 20))], ours=True)

    run(models, scenario)
    batches = collector.named("batch")
    assert sorted(attributes(span)["quartet.rows"] for span in batches) == [4, 8, 8]
    computed = collector.named("compute")
    assert {link.span_id for span in computed for link in span.links} == {span.span_id for span in batches}


@pytest.mark.parametrize("unsampled", ["by the caller", "by the sampler"])
def test_what_is_not_sampled_goes_the_quick_way_without_a_span(collector, models, monkeypatch, unsampled):
    header = [traced(flags="00")] if unsampled == "by the caller" else []
    if not header:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0")

    async def scenario(bench):
        protocol, transport = bench.connect()
        for _ in range(3):  # its head is remembered in the end
            protocol.data_received(request("/models/double/predict", b'{"instances": [[1, 2]]}', *header))
            assert transport.written.startswith(b"HTTP/1.1 200"), "answered on the spot, as nobody else is connected"
            transport.written = b""

    run(models, scenario)
    assert collector.spans == []


@pytest.mark.parametrize("path", ["/models/double/predict", "/models/none/predict", "/models/double/versions/1/predict"])
def test_whether_a_request_is_sampled_is_decided_once_on_whichever_way(collector, models, monkeypatch, path):
    decided = []

    async def scenario(bench):
        begin = bench.app.telemetry.tracing.begin
        monkeypatch.setattr(bench.app.telemetry.tracing, "begin", lambda *given: decided.append(given[0]) or begin(*given))
        good, bad = request(path, b'{"instances": [[1, 2]]}'), request(path, b'{"instances": "x"}')
        for ours in (True, False):
            await bench.answers([good, good, good, bad], ours)

    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    run(models, scenario)
    assert decided == [path] * 8


def test_failures_are_marked_and_nothing_that_was_sent_is_repeated(collector, models, unwritable):
    async def scenario(bench):
        await bench.answers([request("/models/double/predict", b'{"instances": [["sesame"]]}')], ours=True)
        unwritable()
        await bench.answers([request("/models/double/predict", b'{"instances": [[1, 2]]}')], ours=True)

    run(models, scenario)
    refused, failed = sorted(collector.named(PREDICT), key=lambda span: span.start_time_unix_nano)
    assert attributes(refused)["http.response.status_code"] == 400
    assert refused.status.code == refused.status.STATUS_CODE_UNSET
    assert collector.children(refused)["decode"].status.code == failed.status.STATUS_CODE_ERROR
    assert (attributes(failed)["error.type"], failed.status.code) == ("500", failed.status.STATUS_CODE_ERROR)
    assert collector.children(failed)["encode"].status.message == "ZeroDivisionError"
    assert all(b"sesame" not in span.SerializeToString() for span in collector.spans)


def test_the_standard_variables_name_the_service_and_what_is_sampled(collector, models, monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "digits")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")

    async def scenario(bench):
        for header in ([], [traced()], ["traceparent: nonsense"]):
            await bench.answers([request("/models/double/predict", b'{"instances": [[1, 2]]}', *header)], ours=True)

    run(models, scenario)
    assert [span.trace_id.hex() for span in collector.named(PREDICT)] == [TRACE]
    assert collector.resources[0].items() >= {"service.name": "digits", "deployment.environment.name": "test"}.items()


def test_a_collector_that_is_not_there_costs_a_line_in_the_log_and_no_answer(models, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setattr("service.otel.FLUSH_SECONDS", 0.1)
    monkeypatch.setattr("service.otel.SELDOM._last", float("-inf"))

    async def scenario(bench):
        ask = request("/models/double/predict", b'{"instances": [[1, 2]]}')
        for _ in range(5):
            answer = await bench.answers([ask] * 20, ours=True)
            assert answer.count(b"HTTP/1.1 200") == 20
        while "encountered while exporting" not in caplog.text:
            await asyncio.sleep(0.001)

    started = time.monotonic()
    with caplog.at_level(logging.WARNING):
        run(models, scenario)
    assert len(re.findall("opentelemetry", "".join(record.name for record in caplog.records))) == 1
    assert "the last spans could not be sent within 0.1 s" in caplog.text
    assert time.monotonic() - started < 60, "it does not wait for who is not there"


def test_without_an_endpoint_or_where_it_is_switched_off_there_is_none(monkeypatch):
    assert tracing.from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")
    for name, value in (("OTEL_TRACES_EXPORTER", "none"), ("OTEL_SDK_DISABLED", "true")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert tracing.from_environment() is None


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "OTEL_EXPORTER_OTLP_PROTOCOL is 'grpc'; spans are sent by http/protobuf"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "OTEL_TRACES_EXPORTER is 'zipkin'; traces go out as otlp"),
    ],
)
def test_what_cannot_be_done_is_said_at_the_start(monkeypatch, name, value, message):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")
    monkeypatch.setenv(name, value)
    with pytest.raises(tracing.TracingError, match=message):
        tracing.from_environment()


def test_a_missing_package_is_named_with_the_fix(monkeypatch):
    whole = builtins.__import__

    def without(name, *arguments):
        if name == "service.otel":
            raise ModuleNotFoundError("No module named 'opentelemetry'", name="opentelemetry")
        return whole(name, *arguments)

    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(tracing.TracingError, match=r"asks for traces, and opentelemetry is not there: install quartet\[otel\]"):
        tracing.from_environment()
