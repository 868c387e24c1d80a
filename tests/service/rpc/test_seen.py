"""What traces and logs say of requests over gRPC."""

from __future__ import annotations

import logging
import os

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton

from tests.service.collector import attributes, collecting
from tests.service.rpc.conftest import SERVICE, Running, given

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACED = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
INFER, STREAM = (SERVICE[1:] + method for method in ("ModelInfer", "ModelStreamInfer"))
ROWS = [given("x", np.ones((2, 2), np.float32))]


@pytest.fixture
def collector(monkeypatch):
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    with collecting() as running:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", running.url)
        yield running


def spans(collector, models, ask):
    """Ask a server of its own; when this returns, all spans have been sent."""
    running = Running(models)
    try:
        with triton.InferenceServerClient(running.address) as client:
            ask(client, running)
    finally:
        running.close()
    return collector


def test_a_request_is_a_span_of_its_callers_trace_with_its_stages_and_a_link_to_its_batch(collector, models):
    spans(collector, models, lambda client, _: client.infer("double", ROWS, headers=TRACED))
    whole = collector.one(INFER)
    assert (whole.trace_id.hex(), whole.parent_span_id.hex(), whole.kind) == (TRACE, PARENT, whole.SPAN_KIND_SERVER)
    assert attributes(whole) == {
        "rpc.system.name": "grpc",
        "rpc.method": INFER,
        "rpc.response.status_code": "OK",
        "quartet.model": "double",
        "quartet.version": "1",
    }
    stages = collector.children(whole)
    assert sorted(stages) == ["compute", "decode", "encode", "queue"]
    batch = collector.one("batch")
    assert [link.span_id for link in batch.links] == [whole.span_id]
    assert [link.span_id for link in stages["compute"].links] == [batch.span_id]


def test_each_request_of_a_stream_is_a_span(collector, models):
    def ask(client, _):
        answers = []
        client.start_stream(lambda result, error: answers.append((result, error)), headers=TRACED)
        for _ in range(3):
            client.async_stream_infer("double", ROWS)
        client.stop_stream()
        assert [error for _, error in answers] == [None] * 3

    spans(collector, models, ask)
    assert [span.trace_id.hex() for span in collector.named(STREAM)] == [TRACE] * 3


def test_what_the_caller_did_wrong_is_a_code_and_what_the_server_did_an_error(collector, models):
    def ask(client, _):
        with pytest.raises(triton.InferenceServerException, match="nobody"):
            client.infer("nobody", ROWS)

        def fail(*arguments):
            raise ZeroDivisionError("a secret")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("service.rpc.codec.encode", fail)
            with pytest.raises(triton.InferenceServerException):
                client.infer("double", ROWS)

    spans(collector, models, ask)
    wrong, lost = collector.named(INFER)
    assert attributes(wrong)["rpc.response.status_code"] == "NOT_FOUND"
    assert wrong.status.code == wrong.status.STATUS_CODE_UNSET
    assert attributes(lost)["error.type"] == attributes(lost)["rpc.response.status_code"]
    assert lost.status.code == lost.status.STATUS_CODE_ERROR
    assert not any("secret" in str(span) for span in collector.spans)


def test_the_answer_names_its_span_and_the_id_it_was_given(collector, models):
    told = []

    def ask(client, running):
        with grpc.insecure_channel(running.address) as channel:
            call = channel.unary_unary(SERVICE + "ModelInfer")
            asked = (("x-request-id", "seven"), *TRACED.items())
            with pytest.raises(grpc.RpcError) as failed:  # an empty message names no model
                call(b"", metadata=asked)
            told.append(dict(failed.value.trailing_metadata()))

    spans(collector, models, ask)
    assert told[0]["x-request-id"] == "seven"
    assert told[0]["traceresponse"] == f"00-{TRACE}-{collector.one(INFER).span_id.hex()}-01"


def test_the_access_log_has_a_line_for_each_request_without_its_payload(models, caplog):
    caplog.set_level(logging.INFO, "quartet.access")
    running = Running(models, access_log=True)
    try:
        with triton.InferenceServerClient(running.address) as client:
            client.infer("double", ROWS, headers={"x-request-id": "seven"})
            client.get_server_metadata()
            with pytest.raises(triton.InferenceServerException):
                client.infer("nobody", ROWS)
    finally:
        running.close()
    lines = [record.about for record in caplog.records if record.name == "quartet.access"]
    assert [(line["path"].removeprefix(SERVICE), line["status"]) for line in lines] == [
        ("ModelInfer", 200),
        ("ServerMetadata", 200),
        ("ModelInfer", 404),
    ]
    assert (lines[0]["request_id"], lines[0]["model"], lines[0]["version"]) == ("seven", "double", "1")
    assert lines[0]["bytes"] > 0
