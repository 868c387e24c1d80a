"""Keys at the door: on the quick way and on the long one, at every path, and when the file changes."""

from __future__ import annotations

import asyncio
import base64
import json

import httpx2
import pytest

from service.app import create_app
from service.health import from_workers, only_health
from service.keys import file
from service.keys.file import Key, digest
from service.settings import Settings
from tests import micro
from tests.service.connections import ROW, Bench, quiet, request

HOLDERS = {
    "any": {},
    "double": {"models": ("double",)},
    "mean": {"models": ("mean",)},
    "reader": {"scopes": ("read",)},
    "ops": {"scopes": ("admin",)},
    "ops-double": {"scopes": ("admin",), "models": ("double",)},
    "slow": {"rate": 0.001, "burst": 2},
    "single": {"concurrency": 1},
}


def secret(name):
    return f"quartet_{name}"


def write(path, names):
    file.write(path, tuple(Key(name=name, sha256=digest(secret(name)).hex(), **HOLDERS[name]) for name in names))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    micro.publish_mean(root)
    return root


@pytest.fixture
def keyed(root, tmp_path):
    """Runs a coroutine function with an application that asks for keys."""
    path = tmp_path / "keys.json"
    write(path, HOLDERS)

    def run(scenario, **settings):
        async def main():
            app = create_app(Settings(repository=root, device="cpu", keys=path, **settings))
            app.path = path
            async with app.lifespan():
                await asyncio.wait_for(scenario(app), 20)

        asyncio.run(main())

    return run


def predict(name=None, model="double", body=ROW, *more):
    shown = [f"Authorization: Bearer {secret(name)}"] if name else []
    return request(f"/models/{model}/predict", body, *shown, *more)


def statuses(written):
    return [int(part.split()[1]) for part in written.split(b"HTTP/")[1:]]


def metrics(app):
    return app.metrics.render().decode()


WAYS = pytest.mark.parametrize("ours", [True, False], ids=["the quick way", "the long way"])


@WAYS
def test_a_request_comes_in_with_a_key_that_is_known_and_for_that(keyed, ours):
    async def scenario(app):
        bench = Bench(app)
        for name, status in (
            (None, 401),
            ("nobody", 401),
            ("any", 200),
            ("double", 200),
            ("mean", 403),
            ("reader", 403),
            ("ops", 403),
        ):
            for pieces in (
                [predict(name)] * 4,
                [predict(name) * 4],
                [predict(name) * 2, predict(name)[:-3], predict(name)[-3:] + predict(name)],
            ):
                assert statuses(await bench.answers(pieces, ours)) == [status] * 4, name
        missing = await bench.answers([predict("double", "none"), predict(None, "none"), predict("any", "none")], ours)
        assert statuses(missing) == [403, 401, 404], "who has no key for it does not learn whether a model is there"
        other = request("/models/double/predict", ROW, f"X-API-Key: {secret('any')}", "Authorization: Bearer of-a-proxy")
        assert statuses(await bench.answers([other] * 3, ours)) == [200] * 3
        plain = base64.b64encode(f"x:{secret('any')}".encode()).decode()
        basic = request("/models/double/predict", ROW, f"Authorization: Basic {plain}")
        assert statuses(await bench.answers([basic] * 3, ours)) == [401] * 3, "a browser would add it to what another site asks"

    keyed(scenario)


def test_both_ways_word_refusals_the_same(keyed):
    async def scenario(app):
        bench = Bench(app)
        for name in (None, "nobody", "mean", "reader"):
            ours, theirs = [await bench.answers([predict(name)] * 3, way) for way in (True, False)]
            assert ours == theirs
        assert b'www-authenticate: Bearer realm="quartet"' in await bench.answers([predict()], ours=True)

    keyed(scenario)


def test_a_remembered_head_is_asked_for_its_key_with_every_request(keyed):
    async def scenario(app):
        protocol, transport = Bench(app).connect()

        async def status():
            transport.written = b""
            protocol.data_received(predict("any"))
            await quiet(protocol)
            return statuses(transport.written)

        assert [await status() for _ in range(4)] == [[200]] * 4
        assert protocol._secret, "it is remembered"
        write(app.path, [name for name in HOLDERS if name != "any"])
        app.guard.refresh()
        assert await status() == [401]
        write(app.path, HOLDERS)
        app.guard.refresh()
        assert await status() == [200]

    keyed(scenario)


def test_no_connection_has_anything_of_anothers_key(keyed):
    async def scenario(app):
        bench = Bench(app)
        protocol, _ = bench.connect()
        for line in (f"Authorization: Bearer {secret('any')}", f"X-API-Key: {secret('any')}", "Cookie: session=7"):
            for number in range(40):
                for _ in range(3):
                    protocol.data_received(request("/models/double/predict", ROW, line, f"X-Number: {number}"))
                    await quiet(protocol)
        assert bench.shared.heads == {}
        assert 1 <= len(protocol._secret) <= 8
        assert not any(secret("any") in repr(head) for head in protocol._secret.values())

    keyed(scenario)


@WAYS
def test_a_request_takes_one_token_whichever_way_answers_it(keyed, ours):
    several = json.dumps({"instances": [[1, 2]] * 40}).encode()  # more than the quick way takes

    async def scenario(app):
        answered = await Bench(app).answers([predict("slow", body=several), predict("slow", body=b"{"), predict("slow")], ours)
        assert statuses(answered) == [200, 400, 429]
        assert b"retry-after: " in answered
        assert 'quartet_key_requests_total{key="slow"} 2.0' in metrics(app)
        assert 'quartet_key_refusals_total{key="slow",reason="rate"} 1.0' in metrics(app)

    keyed(scenario)


def test_a_request_is_under_way_until_it_is_answered_or_its_caller_has_left(keyed):
    async def scenario(app):
        bench = Bench(app)
        first, _ = bench.connect()
        first.connections.add("another")  # who is alone is answered on the spot
        first.data_received(predict("single"))
        assert statuses(await bench.answers([predict("single")], ours=True)) == [429]
        await quiet(first)
        with app.guard.admit(digest(secret("single")), "infer", "double"):  # as another edge does
            assert statuses(await bench.answers([predict("single")], ours=False)) == [429]
        assert statuses(await bench.answers([predict("single")] * 3, ours=True)) == [200] * 3
        assert statuses(await bench.answers([predict("single")] * 3, ours=False)) == [200] * 3
        first.data_received(predict("single"))
        first.connection_lost(ConnectionResetError())
        assert statuses(await bench.answers([predict("single")], ours=True)) == [200]
        assert 'quartet_key_refusals_total{key="single",reason="concurrency"} 2.0' in metrics(app)

    keyed(scenario)


def client(app):
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://quartet")


def test_every_path_asks_for_what_it_is_worth_and_probes_for_nothing(keyed):
    async def scenario(app):
        load = ("POST", "/v2/repository/models/double/load")
        async with client(app) as caller:
            for (method, path), wanted in {
                ("GET", "/v2/health/live"): (200, 200, 200, 200, 200),
                ("GET", "/v2/models/double/ready"): (200, 200, 200, 200, 200),
                ("GET", "/v2/models/double"): (401, 200, 403, 200, 200),
                ("GET", "/metrics"): (401, 200, 403, 200, 403),
                ("GET", "/docs"): (401, 200, 403, 200, 403),
                ("GET", "/nothing"): (401, 404, 403, 404, 403),
                ("POST", "/v2/repository/index"): (401, 200, 403, 200, 403),
                load: (401, 403, 403, 200, 200),
                ("POST", "/v2/repository/models/mean/load"): (401, 403, 403, 200, 403),
            }.items():
                for name, status in zip((None, "reader", "mean", "ops", "ops-double"), wanted, strict=True):
                    shown = {"X-API-Key": secret(name)} if name else {}
                    assert (await caller.request(method, path, headers=shown)).status_code == status, (path, name)
            person = {"auth": ("me", secret("reader"))}
            refused = await caller.get("/docs", headers={"Accept": "text/html,*/*;q=0.8"})
            assert refused.headers["www-authenticate"].startswith("Basic "), "so that a browser asks for it"
            asked = (await caller.get("/metrics")).headers["www-authenticate"]
            assert "Basic" not in asked, "no form for what a page's script asks"
            assert (await caller.get("/docs", **person)).status_code == 200
            assert (await caller.post("/v2/repository/index", **person)).status_code == 401
            operations = (await caller.get("/openapi.json", **person)).json()["paths"]
            assert operations["/models/double/predict"]["post"]["security"] == [{"key": []}]
            assert "security" not in operations["/v2/health/live"]["get"]
        async with client(from_workers(app)) as worker:
            assert (await worker.request(*load)).status_code == 200, "its caller's key was asked for where it came in"
        async with client(only_health(app)) as probe:
            found = [(await probe.get(path)).status_code for path in ("/v2/health/ready", "/v2/health/live", "/metrics", "/v2")]
            assert found == [200, 200, 404, 404]

    keyed(scenario, host="0.0.0.0")


def test_a_file_that_cannot_be_used_keeps_the_keys_and_says_so_until_it_can(keyed, tmp_path, caplog):
    async def scenario(app):
        async def status(name):
            return statuses(await Bench(app).answers([predict(name)], ours=True))

        whole = app.path.read_text()
        for broken in (whole[:-20], "", None):
            app.path.unlink() if broken is None else app.path.write_text(broken)
            caplog.clear()
            for _ in range(3):
                app.guard.refresh()
            assert [record.levelname for record in caplog.records] == ["ERROR"]
            assert str(app.path) in caplog.text
            assert 'quartet_file_rejected{file="keys"} 1.0' in metrics(app)
            assert await status("any") == [200]
        # As Kubernetes changes a mounted Secret: a link to a folder is replaced.
        for name, kept in (("one", ["any"]), ("two", ["double"])):
            (tmp_path / name).mkdir()
            write(tmp_path / name / "keys.json", kept)
            (tmp_path / "next").symlink_to(tmp_path / name)
            (tmp_path / "next").replace(tmp_path / "..data")
            if not app.path.is_symlink():
                app.path.symlink_to(tmp_path / "..data" / "keys.json")
            app.guard.refresh()
            assert 'quartet_file_rejected{file="keys"} 0.0' in metrics(app)
            assert [await status(name) for name in ("any", "double")] == [
                [200 if name in kept else 401] for name in ("any", "double")
            ]

    keyed(scenario)


def test_limits_change_with_the_file_and_what_was_used_stays_used(keyed):
    async def scenario(app):
        bench = Bench(app)
        assert statuses(await bench.answers([predict("slow")] * 3, ours=True)) == [200, 200, 429]
        file.write(app.path, (Key(name="slow", sha256=digest(secret("slow")).hex(), rate=0.001, burst=3),))
        app.guard.refresh()
        assert statuses(await bench.answers([predict("slow")] * 2, ours=True)) == [200, 429]

    keyed(scenario)
