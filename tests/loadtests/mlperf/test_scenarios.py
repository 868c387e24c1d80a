"""LoadGen drives a small server in this process, which answers rightly, wrongly or not at all."""

from __future__ import annotations

import asyncio
import json
from collections import Counter

import numpy as np
import pytest

from loadtests.mlperf import scenarios
from loadtests.mlperf.samples import Sample, Samples
from loadtests.mlperf.scenarios import Bench

ROWS = [
    Sample({"x": np.array([[value, -value]], np.float32)}, {"1": {"y": np.array([[2.0 * value, -2.0 * value]])}})
    for value in range(8)
]
SAMPLES = Samples("double", ROWS, tolerance=1e-4, max_batch=4, binary=False)


def measured(measure, tmp_path, answer=lambda rows: rows * 2, status=200):
    """What `measure` finds with a bench at a server that gives this answer; the requests' numbers of rows."""
    sizes, lost = [], Counter()

    async def serve(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length"))
                sent = json.loads(await reader.readexactly(length))["inputs"][0]
                rows = np.array(sent["data"]).reshape(sent["shape"])
                sizes.append(len(rows))
                output = {"name": "y", "shape": sent["shape"], "datatype": "FP32", "data": answer(rows).ravel().tolist()}
                body = json.dumps({"model_version": "1", "outputs": [output]} if status == 200 else {"error": "later"}).encode()
                writer.write(b"HTTP/1.1 %d x\r\nRetry-After: 1\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))
        except asyncio.IncompleteReadError:
            writer.close()

    async def main():
        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            return await measure(Bench(server.sockets[0].getsockname(), SAMPLES, 0.1, tmp_path, lost, lambda _: None))

    return asyncio.run(asyncio.wait_for(main(), 30)), sizes, lost


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr(scenarios, "LEAST_QUERIES", 20)


def test_single_stream_sends_one_row_after_the_other_and_leaves_the_logs(tmp_path):
    run, sizes, lost = measured(Bench.single_stream, tmp_path)
    assert run.right
    assert run.report.sent == run.found["query_count"] == len(sizes)
    assert set(sizes) == {1}
    assert 0 < run.ms("50.00") <= run.ms("99.00")
    assert not lost
    assert "SingleStream" in (tmp_path / "single-stream" / "mlperf_log_summary.txt").read_text()


def test_offline_fills_requests_with_as_many_rows_as_the_model_takes(tmp_path):
    run, sizes, _ = measured(Bench.offline, tmp_path)
    assert run.right
    assert Counter(sizes).most_common(1)[0][0] == SAMPLES.max_batch
    assert run.found["samples_per_second"] > 0


def test_a_wrong_answer_is_lost_and_no_valid_run(tmp_path):
    run, _, lost = measured(Bench.single_stream, tmp_path, answer=lambda rows: rows * 3)
    assert not run.valid
    assert run.report.right  # the row of zeros
    assert "double:1 answered wrongly" in next(iter(lost))


def test_the_server_scenario_finds_no_rate_where_all_is_refused(tmp_path):
    found, _, lost = measured(lambda bench: bench.server(p99_ms=1000), tmp_path, status=429)
    assert found is None
    assert not lost  # refused as it should be


def test_the_server_scenario_sends_at_the_rate_it_reports(tmp_path, monkeypatch):
    async def once(bears, start):
        await bears(1000.0)
        return 1000.0

    monkeypatch.setattr(scenarios.search, "highest", once)
    monkeypatch.setattr(scenarios, "LEAST_QUERIES", 700)  # fewer say too little about p99 to be valid
    (rate, run), sizes, _ = measured(lambda bench: bench.server(p99_ms=10_000), tmp_path)
    assert rate == 1000
    assert run.valid
    assert run.found["scheduled_samples_per_sec"] == pytest.approx(1000, rel=0.2)
    assert set(sizes) == {1}
