"""A sample of what arrives is counted beside the training rows, and costs a request nothing while nobody looks."""

from __future__ import annotations

import asyncio
import math

import httpx2
import numpy as np
import pytest

from modelrepo.tensors import ShapeRange
from service import drift
from service.app import create_app
from service.batch import Answer, BatchFacts, Ran
from service.drift import Bins
from service.metrics import joined
from service.settings import Settings
from service.siblings import Reply, Siblings
from tests import micro
from tests.references import PEOPLE, TABLE, reference_of
from training.data.dataset import Images, Series, Tokens

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_table(root, "table", TABLE)
    micro.publish_table(root, "of-before")
    return root


def run(repository, scenario, siblings=None, **settings):
    async def main():
        app = create_app(Settings(repository=repository, device="cpu", **settings), siblings or Siblings())
        async with app.lifespan():
            transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://quartet") as client:
                client.app = app
                return await asyncio.wait_for(scenario(client), 30)

    return asyncio.run(main())


async def predict(client, rows):
    response = await client.post("/models/table/predict", json={"instances": rows.tolist()})
    assert response.status_code == 200, response.text


async def infer(client, rows):
    tensor = {"name": "features", "shape": list(rows.shape), "datatype": "FP32", "data": rows.ravel().tolist()}
    response = await client.post("/v2/models/table/infer", json={"inputs": [tensor]})
    assert response.status_code == 200, response.text


async def asked(client, path="/v2/models/table/drift"):
    response = await client.get(path)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize("send", [predict, infer])
def test_rows_like_those_of_training_have_not_drifted_and_shifted_ones_have(repository, send):
    async def usual(client):
        await send(client, PEOPLE[:250])
        return await asked(client), (await client.get("/metrics")).text

    async def shifted(client):
        for start in range(0, 250, 50):  # older and paid a lot more, in several requests
            await send(client, PEOPLE[start : start + 50] + np.array([12, 0, 100], np.float32))
        return await asked(client, "/v2/models/table/versions/1/drift"), (await client.get("/metrics")).text

    found, metrics = run(repository, usual)
    assert (found["name"], found["version"], found["rows"], found["training_rows"]) == ("table", "1", 250, 3000)
    assert found["psi"] < 0.1
    assert found["outside_rows"] == 0
    assert 'quartet_drift_rows_total{model="table",version="1"} 250.0' in metrics
    assert 'quartet_drift_outside_rows_total{model="table",version="1"} 0.0' in metrics

    found, metrics = run(repository, shifted)
    worst, *others = found["features"]
    assert {worst["name"], others[0]["name"]} == {"pay", "prediction pay"}
    by_name = {feature["name"]: feature for feature in found["features"]}
    assert by_name["pay"]["outside"] == 1
    assert by_name["pay"]["bins"][-2] == {"values": f"over {PEOPLE[:, 2].max():.6g}", "expected": 0, "seen": 1, "count": 250}
    assert by_name["age"]["psi"] > 0.25 > 0.1 > by_name["town"]["psi"]
    assert (found["outside_rows"], found["outside_share"]) == (250, 1)
    assert f'quartet_drift_psi{{feature="pay",model="table",version="1"}} {by_name["pay"]["psi"]}' in metrics
    assert f'quartet_drift_psi_max{{model="table",version="1"}} {found["psi"]}' in metrics
    assert 'quartet_drift_outside_rows_total{model="table",version="1"} 250.0' in metrics


def test_too_few_rows_have_counts_and_no_index(repository):
    async def scenario(client):
        await infer(client, PEOPLE[:9])
        found = await asked(client)
        assert (found["rows"], found["psi"], found["features"][0]["psi"]) == (9, None, None)
        assert 'quartet_drift_window_rows{model="table",version="1"} 9.0' in (metrics := (await client.get("/metrics")).text)
        assert "quartet_drift_psi_max{" not in metrics

    run(repository, scenario)


def test_missing_values_and_unknown_categories_are_outside_where_training_had_none(repository):
    async def scenario(client):
        instances = [{"age": 40, "town": "Oslo", "pay": 0}, {"age": 40, "town": "Rome", "pay": 0}, {"town": "Oslo", "pay": None}]
        assert (await client.post("/models/table/predict", json={"instances": instances})).status_code == 200
        found = await asked(client)
        assert found["outside_rows"] == 2
        bins = {feature["name"]: {each["values"]: each["count"] for each in feature["bins"]} for feature in found["features"]}
        assert (bins["town"]["Oslo"], bins["town"]["missing"], bins["age"]["missing"], bins["pay"]["missing"]) == (2, 1, 1, 1)

    run(repository, scenario)


def test_where_there_is_none_a_caller_is_told_why(repository):
    async def scenario(client):
        response = await client.get("/v2/models/of-before/drift")
        assert response.status_code == 404
        assert "'of-before' version 1: it does not say what it learnt from; train and export it again" in response.json()["error"]

    async def switched_off(client):
        assert "--drift-rows is 0" in (await client.get("/v2/models/table/drift")).json()["error"]
        assert client.app.registry.get("table").taps == ()

    run(repository, scenario)
    run(repository, switched_off, drift_rows=0)


def test_a_tap_that_has_seen_enough_leaves_and_comes_back(repository, monkeypatch):
    monkeypatch.setattr(drift, "PAUSE", 0.001)

    async def scenario(client):
        model = client.app.registry.get("table")
        assert model.taps == (model.drift,)
        await infer(client, PEOPLE[:1000])  # of which it takes some from all over
        assert model.taps == ()
        found = await asked(client)
        assert found["rows"] == 256
        while not model.taps:
            await asyncio.sleep(0)
        await infer(client, PEOPLE[:1000])
        assert 256 < (await asked(client))["rows"] < 300, "a few at a time from now on"

    run(repository, scenario)


def test_the_oldest_part_of_the_window_is_forgotten(repository, monkeypatch):
    now = 1e6
    monkeypatch.setattr(drift, "monotonic", lambda: now)

    async def scenario(client):
        nonlocal now
        model = client.app.registry.get("table")
        seen = []
        for _ in range(4):
            model.drift.saw({"features": PEOPLE[:10]}, _answer(PEOPLE[:10]), None)
            seen.append((await model.drift.settled()).rows)
            now += 40
        assert seen == [10, 20, 30, 30]
        now += 1000
        assert model.drift.seen().rows == 0

    run(repository, scenario, drift_window=120)


def _answer(values):
    rows = len(values)
    return Answer(Ran({"values": values}), 0, rows, 0.0, BatchFacts(rows, rows, None, (0.0,), 0.0, 0.0, 0.0, "idle"))


def test_a_version_that_leaves_takes_its_gauges_along(repository):
    async def scenario(client):
        await infer(client, PEOPLE[:250])
        await asked(client)
        assert (await client.post("/v2/repository/models/table/unload", json={})).status_code == 200
        while (await client.get("/metrics")).text.count("quartet_drift_psi_max{"):
            await asyncio.sleep(0)
        assert 'quartet_drift_rows_total{model="table",version="1"} 250.0' in (await client.get("/metrics")).text

    run(repository, scenario, control="on")


class Another(Siblings):
    """A worker that says the same to whoever asks for its drift."""

    def __init__(self, body: bytes, status: int = 200):
        super().__init__()
        self._reply = Reply(status, body)

    async def repeat(self, request, timeout=None):
        return [self._reply] if request.url.path.endswith("/drift") else []


def test_what_workers_have_seen_is_added_up_and_the_largest_index_is_shown(repository):
    async def first(client):
        await infer(client, PEOPLE[:250] + np.array([12, 0, 0], np.float32))
        body = (await client.get("/v2/models/table/drift")).content
        return body, (await client.get("/metrics")).content

    async def second(client):
        await infer(client, PEOPLE[250:500])
        return await asked(client), (await client.get("/metrics")).content

    theirs, metrics = run(repository, first)
    both, others = run(repository, second, Another(theirs))
    assert both["rows"] == 500
    whole = Bins(TABLE)
    rows = PEOPLE[:500] + np.repeat([[12, 0, 0], [0, 0, 0]], 250, axis=0).astype(np.float32)
    assert both["psi"] == pytest.approx(whole.index(whole.count([(rows, None, rows)]).counts).max())
    gone, _ = run(repository, second, Another(b'{"error": "no such version"}', 404))
    assert gone["rows"] == 250

    shown = [float(line.split()[-1]) for text in (metrics, others) for line in text.decode().splitlines() if "psi_max{" in line]
    assert f'quartet_drift_psi_max{{model="table",version="1"}} {max(shown)}' in joined([metrics, others]).decode()
    assert 'quartet_drift_rows_total{model="table",version="1"} 500.0' in joined([metrics, others]).decode()


def test_the_index_is_the_sum_over_the_bins_of_what_shares_differ_by_times_their_logarithm():
    bins = Bins(TABLE)
    town = next(feature for feature in bins.features if feature.name == "town")
    start = bins.starts[bins.features.index(town)]
    counts = np.zeros_like(bins.expected)
    counts[start : start + len(town.counts)] = [300, 0, 100, 0, 7]
    used = [(300, town.counts[0]), (0, town.counts[1]), (100, town.counts[2]), (7, 0)]
    seen, expected = ([count + 0.5 for count in side] for side in zip(*used, strict=True))
    shares = [(s / sum(seen), e / sum(expected)) for s, e in zip(seen, expected, strict=True)]
    assert bins.index(counts)[bins.features.index(town)] == pytest.approx(sum((s - e) * math.log(s / e) for s, e in shares))
    assert bins.index(bins.expected) == pytest.approx(0, abs=1e-12)


LENGTH = ShapeRange(axis="length", min=1, opt=10, max=40)


def padded(lengths, draw):
    mask = np.arange(max(lengths)) < np.array(lengths)[:, None]
    return {"mask": mask}, draw(mask.shape)


@pytest.mark.parametrize(
    ("kind", "draw", "shift", "drifted"),
    [
        pytest.param(
            Images(height=6, width=5, mean=(0,), scale=(1,)),
            lambda: {"image": RNG.integers(0, 200, (500, 1, 6, 5)).astype(np.float32)},
            lambda inputs: {"image": inputs["image"] + 40},
            {"brightness"},
            id="brighter pictures",
        ),
        pytest.param(
            Series(length=LENGTH, mean=(0, 0), scale=(1, 1)),
            lambda: (lambda mask, values: {"sequence": values.astype(np.float32), **mask})(
                *padded(RNG.integers(5, 15, 500).tolist(), lambda shape: RNG.normal(size=(*shape, 2)))
            ),
            lambda inputs: {**inputs, "sequence": inputs["sequence"] + np.array([0, 2], np.float32)},
            {"channel 2"},
            id="a channel that rose",
        ),
        pytest.param(
            Tokens(vocabulary=100, length=LENGTH),
            lambda: (lambda mask, values: {"tokens": values, **mask})(
                *padded(RNG.integers(5, 15, 500).tolist(), lambda shape: RNG.integers(0, 50, shape))
            ),
            lambda inputs: {**inputs, "tokens": inputs["tokens"] + 30},
            {"token", "unseen tokens"},
            id="other words",
        ),
        pytest.param(
            Tokens(vocabulary=100, length=LENGTH),
            lambda: (lambda mask, values: {"tokens": values, **mask})(
                *padded(RNG.integers(5, 15, 500).tolist(), lambda shape: RNG.integers(0, 50, shape))
            ),
            lambda inputs: {name: array[:, :6] for name, array in inputs.items()},
            {"length"},
            id="shorter texts",
        ),
    ],
)
def test_every_kind_of_data_shows_what_has_shifted_and_nothing_else(kind, draw, shift, drifted):
    bins = Bins(reference_of(kind, draw()))

    def indices(inputs):
        output = np.zeros((500, 3), np.float32)
        halves = [slice(200), slice(200, None)]  # two requests
        parts = [(inputs[kind.input][half], inputs["mask"][half] if "mask" in inputs else None, output[half]) for half in halves]
        seen = bins.count(parts)
        assert seen.rows == 500
        return {feature.name: value for feature, value in zip(bins.features, bins.index(seen.counts), strict=True)}, seen.outside

    usual, outside = indices(draw())
    assert max(usual.values()) < 0.25
    assert outside < 50
    found, _ = indices(shift(draw()))
    assert {name for name, value in found.items() if value >= 0.25} == drifted
