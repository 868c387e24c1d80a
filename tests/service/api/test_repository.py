"""Triton's model repository extension."""

from __future__ import annotations

import asyncio

from service.app import create_app
from service.settings import Settings
from tests import micro


async def index(client, **body):
    response = await client.post("/v2/repository/index", json=body)
    assert response.status_code == 200
    return {(entry["name"], entry["version"]): entry["state"] for entry in response.json()}


def test_the_index_lists_every_version_with_its_state(serve):
    async def scenario(client):
        assert await index(client) == {("double", "1"): "READY", ("mean", "1"): "READY"}
        assert (await client.post("/v2/repository/index")).status_code == 200, "the body is optional"

    serve(scenario)


def test_a_model_is_unloaded_and_loaded_again(serve):
    async def scenario(client):
        assert (await client.post("/v2/repository/models/double/unload", json={})).json() == {}
        assert (await client.get("/v2/models/double/ready")).status_code == 404
        assert await index(client, ready=True) == {("mean", "1"): "READY"}
        assert (await client.post("/v2/repository/models/double/load")).status_code == 200
        assert (await client.post("/models/double/predict", json={"instances": [[1, 2]]})).status_code == 200

    serve(scenario)


def test_what_cannot_be_loaded_is_told_with_its_reason(serve):
    async def scenario(client):
        unknown = await client.post("/v2/repository/models/other/load", json={})
        assert unknown.status_code == 404
        assert "model 'other' is not in" in unknown.json()["error"]
        config = await client.post("/v2/repository/models/double/load", json={"parameters": {"config": "{}"}})
        assert config.status_code == 400
        assert "parameter 'config' is not taken: publish with" in config.json()["error"]

    serve(scenario)


def test_a_torn_version_is_422_and_the_old_one_goes_on(tmp_path):
    micro.publish_double(tmp_path)

    async def scenario(client):
        micro.publish_double(tmp_path)
        (tmp_path / "double/2/model.onnx").write_bytes(b"torn")
        refused = await client.post("/v2/repository/models/double/load", json={})
        assert refused.status_code == 422
        assert "model.onnx has size 4" in refused.json()["error"]
        assert "what served before goes on serving" in refused.json()["error"]
        assert await index(client) == {("double", "1"): "READY", ("double", "2"): "UNAVAILABLE"}
        assert (await client.get("/v2/health/ready")).status_code == 200

    serving(tmp_path, scenario)


def test_orders_are_taken_only_where_only_this_machine_can_give_them_unless_the_settings_say_so(tmp_path):
    micro.publish_double(tmp_path)

    def answer(path, **settings):
        statuses = []

        async def scenario(client):
            statuses.append((await client.post(path, json={})).status_code)

        serving(tmp_path, scenario, **settings)
        return statuses[0]

    load = "/v2/repository/models/double/load"
    assert answer(load, host="127.0.0.1") == 200
    assert answer(load, host="0.0.0.0") == 403
    assert answer(load, host="0.0.0.0", control="on") == 200
    assert answer(load, host="localhost", control="off") == 403
    assert answer("/v2/repository/index", host="0.0.0.0") == 200


def serving(root, scenario, **settings):
    """Run a coroutine function with a client of an application over the models below `root`."""
    import httpx2

    async def main():
        app = create_app(Settings(repository=root, device="cpu", **settings))
        async with app.lifespan(), httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://q") as client:
            await asyncio.wait_for(scenario(client), 30)

    asyncio.run(main())


def test_a_body_that_is_no_json_or_too_long_is_refused_like_any_other(serve):
    async def scenario(client):
        for body in (b"\x80", b"[" * 100_000, b"{"):
            response = await client.post("/v2/repository/index", content=body, headers={"content-type": "application/json"})
            assert response.status_code == 400, body[:10]
            assert "error" in response.json()
        long = await client.post("/v2/repository/index", content=b" " * 200_000)
        assert long.status_code == 413
        assert "at most 150000 are read" in long.json()["error"]

    serve(scenario, max_body_bytes=150_000)
