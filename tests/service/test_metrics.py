from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from modelrepo.tensors import DEFAULT_BATCH
from service.batch import BatchFacts
from service.gpu import READINGS, Gpu
from service.lag import PERIOD, Lag
from service.metrics import WORST, Metrics, joined
from service.statistics import Statistics
from service.tally import Distribution


def samples(text):
    """Every value of /metrics by name and labels."""
    families = text_string_to_metric_families(text.decode())
    return {(each.name, *sorted(each.labels.items())): each.value for family in families for each in family.samples}


def worker(requests, start, busy, lag):
    """What one worker has to tell."""
    metrics, statistics = Metrics(DEFAULT_BATCH), Statistics()
    answers = metrics.answers("predict", "m", "1", statistics, "onnxruntime-cpu")
    for _ in range(requests):
        answers.add(200, 3e-4)
    observer = metrics.observer("m", "1", statistics, "onnxruntime-cpu")
    observer.batch(BatchFacts(requests, requests, None, (1e-3,) * requests, 1e-5, 1e-3, 0.25, "idle"))
    observer.refused("queue", 3)
    metrics.predicted_wait.labels("m", "1").set(start)
    metrics.sessions.labels("m", "1").set(2)
    metrics.loop_lag.observe(lag)
    metrics.gpus.found = [Gpu(0, "GPU-1", {READINGS[0]: busy})]
    return metrics.render()


def test_the_metrics_of_several_workers_are_those_of_one_service():
    ours, theirs = worker(3, 0.5, 0.7, 1e-3), worker(5, 0.2, 0.6, 2e-3)
    found, parts = samples(joined([ours, theirs])), [samples(ours), samples(theirs)]
    assert found.keys() == parts[0].keys() | parts[1].keys()
    for key, value in found.items():
        pick = max if key[0] in WORST else sum
        assert value == pytest.approx(pick([part[key] for part in parts if key in part])), key
    labels = (("backend", "onnxruntime-cpu"), ("interface", "predict"), ("model", "m"), ("version", "1"))
    assert found["quartet_request_seconds_count", *labels] == 8
    assert found["quartet_request_seconds_bucket", labels[0], labels[1], ("le", "0.0005"), *labels[2:]] == 8
    assert found["quartet_gpu_utilization_ratio", ("gpu", "0"), ("uuid", "GPU-1")] == 0.7
    assert found["quartet_sessions", *labels[2:]] == 4
    assert found["quartet_event_loop_lag_seconds_count",] == 2


def test_of_the_process_itself_processor_memory_and_files_add_up_and_the_last_start_counts():
    text = b"# TYPE process_cpu_seconds_total counter\nprocess_cpu_seconds_total %d\n"
    for name in ("process_resident_memory_bytes", "process_open_fds", "process_max_fds", "process_start_time_seconds"):
        text += b"# TYPE %s gauge\n%s %%d\n" % (name.encode(), name.encode())
    found = samples(joined([text % (10, 100, 7, 1024, 5000), text % (20, 200, 8, 1024, 6000)]))
    assert list(found.values()) == [30, 300, 15, 2048, 6000]


def test_a_refusal_counts_its_rows_and_itself():
    found = samples(worker(1, 0, 0, 0))
    assert found["quartet_dropped_rows_total", ("model", "m"), ("reason", "queue"), ("version", "1")] == 3
    assert found["quartet_refused_requests_total", ("model", "m"), ("reason", "queue"), ("version", "1")] == 1


def test_a_loop_that_is_held_up_shows_as_lag():
    seen = Distribution((PERIOD, 1.0))

    async def main():
        loop = asyncio.get_running_loop()
        lag = Lag(seen)
        lag.start()
        end = loop.time() + 3 * PERIOD
        while loop.time() < end:
            pass  # as something that computes in the loop
        while not sum(seen.counts):
            await asyncio.sleep(0)
        lag.stop()

    asyncio.run(main())
    assert seen.counts == [0, 1, 0]
    assert 1.9 * PERIOD < seen.sum < 1
