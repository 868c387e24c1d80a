"""Browsers: pages of other sites may ask where they are named, and give no orders."""

from __future__ import annotations

import asyncio

import httpx2
import pytest

from service.app import create_app
from service.settings import Settings, SettingsError, read
from tests import micro
from tests.service.connections import ROW, Bench, request

SITE = "https://app.example.com"


@pytest.fixture
def bench_of(tmp_path):
    """Runs a coroutine function with connections to an application, and a client of it."""
    micro.publish_double(tmp_path)

    def run(scenario, **settings):
        async def main():
            app = create_app(Settings(repository=tmp_path, device="cpu", **settings))
            async with app.lifespan(), httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://quartet") as client:
                await asyncio.wait_for(scenario(Bench(app), client), 20)

        asyncio.run(main())

    return run


def asked_by(origin):
    return request("/models/double/predict", ROW, f"Origin: {origin}")


def test_by_default_no_answer_is_for_pages_of_other_sites(bench_of):
    async def scenario(bench, client):
        answers = await bench.answers([asked_by(SITE)] * 3, ours=True)
        assert answers.count(b"HTTP/1.1 200 OK") == 3
        assert b"access-control" not in answers
        preflight = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
        refused = await client.options("/models/double/predict", headers=preflight)
        assert refused.status_code == 405
        assert "access-control-allow-origin" not in refused.headers

    bench_of(scenario)


def test_a_site_that_is_named_may_ask_with_a_key_on_every_path(bench_of, tmp_path):
    (tmp_path / "keys.json").write_text('{"keys": []}')

    async def scenario(bench, client):
        preflight = {
            "Origin": SITE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization, content-type, inference-header-content-length",
        }
        for path in ("/models/double/predict", "/v2/models/double/infer", "/v2/models/double"):
            allowed = await client.options(path, headers=preflight)
            assert allowed.status_code == 200, "it has no key yet, as browsers send none"
            assert allowed.headers["access-control-allow-origin"] == SITE
            assert "access-control-allow-credentials" not in allowed.headers
            assert (await client.options(path, headers={**preflight, "Origin": "https://evil.example"})).status_code == 400
        for ours in (True, False):
            answers = await bench.answers([asked_by(SITE)] * 3, ours)
            assert answers.count(b"HTTP/1.1 401") == answers.count(b"access-control-allow-origin: " + SITE.encode()) == 3
            assert b"access-control-allow-origin" not in await bench.answers([asked_by("https://evil.example")] * 3, ours)
            assert b"access-control" not in await bench.answers([request("/models/double/predict", ROW)] * 3, ours)

    bench_of(scenario, cors_origins=f"{SITE} http://localhost:3000", keys=tmp_path / "keys.json")


def test_without_keys_a_page_of_another_site_gives_no_orders_to_this_machine(bench_of):
    order = "/v2/repository/models/double/load"

    async def scenario(_bench, client):
        for origin, host, status in (
            (None, "localhost:8000", 200),
            ("http://localhost:8000", "localhost:8000", 200),
            ("http://10.0.0.5:8000", "10.0.0.5:8000", 200),
            ("http://[::1]:8000", "[::1]:8000", 200),
            (SITE, "localhost:8000", 200),
            ("https://evil.example", "localhost:8000", 403),
            ("http://evil.example:8000", "evil.example:8000", 403),  # its name points here for the moment
            ("null", "localhost:8000", 403),
        ):
            headers = {"Host": host, **({"Origin": origin} if origin else {})}
            assert (await client.post(order, headers=headers)).status_code == status, origin

    bench_of(scenario, cors_origins=SITE)


def test_what_is_no_origin_is_refused():
    with pytest.raises(SettingsError, match=r"'app.example.com' is no origin: give scheme and host"):
        read(["--repository", "m", "--cors-origins", f"{SITE} app.example.com"])
