"""Answers that are kept: what is found again, what it costs, and that nobody can tell."""

from __future__ import annotations

import asyncio
import json
import math
import re

import numpy as np
import pytest

from service.app import create_app
from service.batch import Answer, BatchFacts, Ran
from service.budget import Budget
from service.response_cache import OVERHEAD, Counts, ResponseCache
from service.settings import Settings
from service.statistics import Statistics
from service.tally import Count
from tests import micro
from tests.service.connections import Bench, quiet, request

FACTS = BatchFacts(8, 8, None, (0.0,), 1e-5, 1e-4, 0.0, "idle")


def made(limit=10**6, signature=micro.DOUBLE):
    counts = Counts(Count(), Count(), Count())
    return ResponseCache(signature, limit, counts, Statistics()), counts


def inputs(*rows):
    return {"x": np.array(rows, np.float32)}


def answer(*rows, start=0, spare=0):
    outputs = np.array([*[[0, 0]] * start, *rows, *[[0, 0]] * spare], np.float32)
    return Answer(Ran({"logits": outputs}), start, start + len(rows), 0.1, FACTS)


def test_the_same_rows_get_the_same_answer_and_others_none():
    cache, counts = made()
    key = cache.key(inputs([1, 2]))
    assert cache.get(key) is None
    cache.put(key, answer([2, 4], start=3, spare=4))
    found = cache.get(cache.key(inputs([1, 2])))
    assert found.cached
    assert {name: array.tolist() for name, array in found.outputs.items()} == {"logits": [[2, 4]]}
    others = (inputs([1, 2], [1, 2]), inputs([2, 1]), inputs([-1, 2]), inputs([1, math.nextafter(2, 3)]))
    assert [cache.get(cache.key(each)) is None for each in others[:3]] == [True] * 3
    assert (counts.hits.value, counts.misses.value) == (1, 4)


def test_rows_are_told_apart_by_their_shape_too_and_a_given_mask_counts():
    cache, _ = made(signature=micro.MEAN)
    flat = np.arange(6, dtype=np.float32)

    def key(shape, mask=True):
        return cache.key({"sequence": flat.reshape(*shape, 1), "mask": np.full(shape, mask)})

    assert len({key((2, 3)), key((3, 2)), key((1, 6)), key((1, 6), False)}) == 4
    assert key((2, 3)) == key((2, 3))


def test_what_was_used_longest_ago_goes_first_and_the_bytes_stay_within_their_limit():
    each = OVERHEAD + 8
    cache, counts = made(limit=3 * each)
    keys = [cache.key(inputs([number, 0])) for number in range(4)]
    for key in keys[:3]:
        cache.put(key, answer([1, 1]))
    assert cache.get(keys[0]) is not None
    cache.put(keys[3], answer([1, 1]))
    assert [cache.get(key) is not None for key in keys] == [True, False, True, True]
    assert (cache.size, counts.evictions.value) == (3 * each, 1)
    cache.put(keys[3], answer([1, 1]))
    assert cache.size == 3 * each, "again is not twice"
    cache.put(b"large", answer(*[[1, 1]] * 1000))
    assert (cache.get(b"large"), counts.evictions.value) == (None, 1), "one that does not fit drives nobody out"
    cache.clear()
    assert (cache.size, cache.get(keys[0])) == (0, None)


def test_an_answer_that_is_no_number_is_not_kept():
    cache, _ = made()
    cache.put(b"key", answer([1, float("nan")]))
    assert cache.get(b"key") is None


def test_a_kept_answer_does_not_keep_its_batch():
    cache, _ = made()
    whole = answer([1, 1], spare=7)
    cache.put(b"key", whole)
    assert cache.get(b"key").ran.outputs["logits"].base is None


def test_a_budget_is_for_all_models_or_for_some():
    budget = Budget.parse("1000 digits-cnn=0 films=5000")
    assert [budget.of(name) for name in ("any", "digits-cnn", "films")] == [1000, 0, 5000]
    for wrong in ("1MB", "films=", "-1", "films=a"):
        with pytest.raises(ValueError, match=f"'{wrong}' is not BYTES or MODEL=BYTES"):
            Budget.parse(wrong)


# In the whole application

PREDICT = "/models/double/predict"
INFER = "/v2/models/double/infer"
X = b'{"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [3, 4]}], "id": "%d"}'


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    return root


def run(models, scenario, **settings):
    async def main():
        given = {"response_cache_bytes": "100000", **settings}
        app = create_app(Settings(repository=models, device="cpu", **given))
        async with app.lifespan():
            await asyncio.wait_for(scenario(Bench(app), app.registry.find("double")), 20)

    asyncio.run(main())


def metric(bench, name):
    (value,) = re.findall(rf"^{name}\{{.*\}} (\S+)$", bench.app.telemetry.metrics.render().decode(), re.MULTILINE)
    return float(value)


def body(answered):
    return json.loads(answered.partition(b"\r\n\r\n")[2])


WAYS = pytest.mark.parametrize("ours", [pytest.param(True, id="the quick way"), pytest.param(False, id="the long way")])


@WAYS
def test_a_request_that_comes_again_is_answered_without_a_batch_whatever_it_looks_like(models, ours):
    seen = []

    class Tap:
        def saw(self, inputs, answer, request_id):
            seen.append((inputs["x"].tolist(), answer.cached))

        def close(self):
            pass

    async def scenario(bench, model):
        model.taps = (Tap(),)
        first = await bench.answers([request(PREDICT, b'{"instances": [[3, 4]]}')], ours)
        again = await bench.answers([request(PREDICT, b'{"top_k": 1, "instances": [[3.0, 4]], "explain": true}')], ours)
        infer = await bench.answers([request(INFER, X % 7)], ours)
        assert body(infer) == {
            "model_name": "double",
            "model_version": "1",
            "outputs": [{"name": "logits", "shape": [1, 2], "datatype": "FP32", "data": [6, 8]}],
            "id": "7",
        }
        assert body(again)["predictions"][0]["probabilities"] == body(first)["predictions"][0]["probabilities"][:1]
        assert body(again)["explanation"].items() >= {"cached": True, "compute_ms": 0.0, "backend": "onnxruntime-cpu"}.items()
        assert b"server-timing: queue;dur=0.0, pad;dur=0.0, compute;dur=0.0\r\n" in again
        await bench.answers([request(INFER, X.replace(b"3, 4", b"5, 6") % 8)], ours)
        names = ("hits_total", "misses_total", "evictions_total", "bytes")
        counted = [metric(bench, f"quartet_response_cache_{name}") for name in names]
        assert counted == [2, 2, 0, 2 * (OVERHEAD + 8)]
        assert metric(bench, "quartet_batch_rows_count") == 2
        assert model.statistics.cache_hit.count == model.statistics.cache_miss.count == 2
        assert model.statistics.success.count == 4
        assert seen == [([[3, 4]], False), ([[3, 4]], True), ([[3, 4]], True), ([[5, 6]], False)]

    run(models, scenario)


@WAYS
def test_a_full_queue_refuses_what_is_new_and_answers_what_is_kept(models, ours):
    async def scenario(bench, model):
        known, new = request(PREDICT, b'{"instances": [[3, 4]]}'), request(PREDICT, b'{"instances": [[9, 9]]}')
        assert (await bench.answers([known], ours)).startswith(b"HTTP/1.1 200")
        model.batcher._idle.clear()  # as if something else ran
        waiting, _ = bench.connect(ours)
        waiting.data_received(request(PREDICT, b'{"instances": [[7, 7]]}'))
        while not model.batcher.waiting:
            await asyncio.sleep(0)
        assert (await bench.answers([known], ours)).startswith(b"HTTP/1.1 200")
        assert (await bench.answers([new], ours)).startswith(b"HTTP/1.1 429")
        waiting.connection_lost(None)

    run(models, scenario, max_queue_rows=1)


@WAYS
def test_failures_are_computed_again(models, ours, monkeypatch):
    async def scenario(bench, model):
        (worker,) = model.batcher.workers
        right = worker.session.run
        monkeypatch.setattr(worker.session, "run", lambda inputs: 1 / 0 if inputs["x"][0, 0] == 3 else right(inputs))
        ask = request(PREDICT, b'{"instances": [[3, 4]]}')
        assert (await bench.answers([ask], ours)).startswith(b"HTTP/1.1 422")
        monkeypatch.undo()
        assert (await bench.answers([ask], ours)).startswith(b"HTTP/1.1 200")
        assert (model.statistics.cache_hit.count, model.statistics.cache_miss.count) == (0, 2)

    run(models, scenario)


@WAYS
def test_large_requests_are_kept_as_a_whole(models, ours):
    rows = [[number, 1] for number in range(20)]

    async def scenario(bench, model):
        for times in (1, 2, 3):
            answered = await bench.answers([request(PREDICT, json.dumps({"instances": rows}).encode() + b" " * 70_000)], ours)
            assert len(body(answered)["predictions"]) == 20
            assert model.statistics.batches == 3, "of at most 8 rows"
            assert model.statistics.cache_hit.count == times - 1

    run(models, scenario)


def test_another_version_begins_with_nothing(tmp_path):
    micro.publish_double(tmp_path)

    async def scenario(bench, model):
        ask = request(PREDICT, b'{"instances": [[3, 4]]}')
        await bench.answers([ask], True)
        micro.publish_double(tmp_path)
        await bench.app.registry.load("double")
        while model.cache.size:  # it is closed once it has drained
            await asyncio.sleep(0)
        assert body(await bench.answers([ask], True))["model_version"] == "2"
        assert bench.app.registry.find("double").statistics.cache_hit.count == 0

    run(tmp_path, scenario)


def test_a_model_without_a_budget_has_no_cache_and_no_metrics_of_one(models):
    async def scenario(bench, model):
        assert model.cache is None
        protocol, _ = bench.connect()
        for _ in range(2):
            protocol.data_received(request(PREDICT, b'{"instances": [[3, 4]]}'))
            await quiet(protocol)
        assert model.statistics.batches == 2
        assert "quartet_response_cache_hits_total{" not in bench.app.telemetry.metrics.render().decode()

    run(models, scenario, response_cache_bytes="1000 double=0")
