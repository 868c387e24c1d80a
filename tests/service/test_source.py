"""Serving from a remote store, and only what is signed: what comes, what stays while the store is away, and what is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import urllib.request

import pytest

from modelrepo import store as stores
from modelrepo.__main__ import main
from modelrepo.errors import RepositoryError, StoreError, UntrustedVersion
from modelrepo.pruning import drop
from modelrepo.repository import Repository
from modelrepo.store import Store
from modelrepo.tensors import DEFAULT_BATCH
from service.metrics import Metrics, joined
from service.registry import Registry
from service.settings import Settings
from tests import micro
from tests.server import serving as running


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "published"
    micro.publish_double(root)
    return root


@pytest.fixture
def away(monkeypatch):
    """Call it with whether the store cannot be reached."""
    asked = Store._once

    def fail(*arguments, **named):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(stores, "PAUSES", ())
    return lambda gone: monkeypatch.setattr(Store, "_once", fail if gone else asked)


def serving(root, scenario, **settings):
    """Run a coroutine function with a registry that mirrors `root`, and the text of its metrics."""

    async def run():
        metrics = Metrics(DEFAULT_BATCH)
        where = {"repository": f"file://{root}", "cache": root.parent / "cache"}
        registry = Registry(Settings(**{**where, "device": "cpu", **settings}), metrics)
        try:
            await (await registry.start())
            assert registry.ready
            await asyncio.wait_for(scenario(registry, lambda: metrics.render().decode()), 30)
        finally:
            await registry.close()

    asyncio.run(run())


def served(registry):
    return [(model.name, model.version) for model in registry.models()]


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_what_is_published_to_the_store_serves_from_a_copy(root, tmp_path):
    async def scenario(registry, metrics):
        assert served(registry) == [("double", "1")]
        assert registry.get("double").artifact.file.path == "model.onnx"
        micro.publish_double(root)
        await until(lambda: served(registry) == [("double", "2")])
        assert Repository(tmp_path / "cache").versions("double") == [1, 2]
        assert f'quartet_store_operations_total{{operation="fetch",result="succeeded",store="file://{root}"}} 2.0' in metrics()

    serving(root, scenario, watch=0.01)


def test_a_store_that_goes_away_leaves_what_serves_says_so_once_and_is_back_in_time(root, away, caplog):
    async def scenario(registry, metrics):
        away(True)
        await until(lambda: registry.index()[0].reason)
        assert served(registry) == [("double", "1")]
        assert registry.ready
        assert "connection refused" in registry.index()[0].reason
        assert f'quartet_store_unreachable{{store="file://{root}"}} 1.0' in metrics()
        looks = registry._repository.traffic.failed
        await until(lambda: looks["look"] > 3)
        assert caplog.text.count("connection refused") == 1
        with pytest.raises(StoreError, match="connection refused"):
            await registry.load("double")
        micro.publish_double(root)
        away(False)
        await until(lambda: served(registry) == [("double", "2")])
        assert registry.index()[-1].reason == ""
        assert f'quartet_store_unreachable{{store="file://{root}"}} 0.0' in metrics()

    serving(root, scenario, watch=0.01)


def test_a_store_that_is_away_at_the_start_leaves_what_was_copied_before(root, away, caplog):
    async def nothing(registry, metrics):
        pass

    async def scenario(registry, metrics):
        assert served(registry) == [("double", "1")]
        assert "connection refused" in registry.index()[0].reason
        assert "connection refused): check the address" in caplog.text
        await registry.unload("double")
        with pytest.raises(StoreError):  # which says that this may not be the newest
            await registry.load("double")
        assert served(registry) == [("double", "1")]

    serving(root, nothing)
    away(True)
    serving(root, scenario)
    with pytest.raises(StoreError, match="connection refused.*; and .*other holds no copies of it"):
        serving(root, nothing, cache=root.parent / "other")


def test_a_version_that_cannot_be_fetched_now_is_tried_again_at_every_look(root, monkeypatch):
    async def scenario(registry, metrics):
        asked = Store.chunks
        monkeypatch.setattr(Store, "chunks", lambda *arguments: (_ for _ in ()).throw(StoreError("broken off")))
        micro.publish_double(root)
        await until(lambda: len(registry.index()) == 2 and registry.index()[1].reason == "broken off")
        assert served(registry) == [("double", "1")]
        monkeypatch.setattr(Store, "chunks", asked)
        await until(lambda: served(registry) == [("double", "2")])

    serving(root, scenario, watch=0.01)


def test_a_version_that_has_no_room_beside_what_serves_waits_until_it_has(root):
    size = sum(path.stat().st_size for path in (root / "double/1").iterdir())

    async def scenario(registry, metrics):
        micro.publish_double(root)
        await until(lambda: "raise --cache-bytes" in registry.index()[-1].reason)
        assert served(registry) == [("double", "1")]
        await registry.unload("double")
        await until(lambda: registry.index()[0].state == "UNAVAILABLE")
        await registry.load("double")
        assert served(registry) == [("double", "2")]

    serving(root, scenario, watch=0.01, cache_bytes=int(1.5 * size))


def test_what_nobody_trusted_signed_is_passed_over_until_somebody_signs_it(root, tmp_path):
    key = str(tmp_path / "key")
    assert main(["keygen", key]) == 0

    async def scenario(registry, metrics):
        assert served(registry) == [("double", "1")]
        assert [entry.state for entry in registry.index()] == ["READY", "UNAVAILABLE"]
        assert "double:2 is not signed, and not by a key in" in registry.index()[1].reason
        assert main(["sign", str(root), "double:2", "--key", key]) == 0
        await until(lambda: served(registry) == [("double", "2")])

    for settings in ({}, {"repository": str(root), "cache": ""}):
        with pytest.raises(UntrustedVersion, match="double:1 is not signed"):
            serving(root, None, trusted_keys=f"{key}.pub", **settings)
    assert main(["sign", str(root), "double:1", "--key", key]) == 0
    micro.publish_double(root)
    serving(root, scenario, trusted_keys=f"{key}.pub", watch=0.01)
    serving(root, scenario_of(root), trusted_keys=f"{key}.pub", repository=str(root), cache="")


def scenario_of(root):
    async def scenario(registry, metrics):
        assert served(registry) == [("double", "2")]
        assert "quartet_store" not in metrics()
        assert not drop(Repository(root), "double", 2), "it is served"
        assert drop(Repository(root), "double", 1)

    return scenario


def test_workers_are_one_service_whose_store_is_away_where_it_is_for_one():
    one, other = (
        f'# TYPE quartet_store_unreachable gauge\nquartet_store_unreachable{{store="s3://a"}} {away}\n'.encode() for away in (1, 0)
    )
    assert 'quartet_store_unreachable{store="s3://a"} 1.0' in joined([one, other]).decode()


def test_keys_or_a_folder_that_cannot_be_used_end_the_start(root, tmp_path):
    with pytest.raises(RepositoryError, match="nowhere holds no public key"):
        serving(root, None, trusted_keys=tmp_path / "nowhere")
    with pytest.raises(RepositoryError, match="holds models that are no copies of a store"):
        serving(root, None, cache=root)


@pytest.mark.slow  # two starts of a server, and boto
def test_a_real_server_serves_from_s3_and_without_it(root, tmp_path):
    from tests import s3

    def ask(url, body=None):
        with urllib.request.urlopen(url, data=body, timeout=10) as answer:
            return answer.read().decode()

    with s3.running() as server, pytest.MonkeyPatch.context() as patch:
        url = server.bucket("models")
        assert main(["copy", str(root), url]) == 0
        options = ("--cache", str(tmp_path / "cache"), "--watch", "0.2")
        for name, value in server.environment.items():
            patch.setenv(name, value)
        with running(url, *options, "--workers", "2") as first:
            shutil.rmtree(root)
            predicted = ask(f"{first.url}/models/double/predict", b'{"instances": [[1, 2]]}')
            server.stop()
            with running(url, *options) as second:
                assert ask(f"{second.url}/models/double/predict", b'{"instances": [[1, 2]]}') == predicted
                index = json.loads(ask(f"{second.url}/v2/repository/index", b"{}"))
                assert [(entry["state"], "Could not connect" in entry["reason"]) for entry in index] == [("READY", True)]
                assert any("what is here goes on to serve" in line for line in second.log)
                assert 'quartet_store_unreachable{store="s3://models/prod/models"} 1.0' in ask(f"{second.url}/metrics")
                server.start()
                while json.loads(ask(f"{second.url}/v2/repository/index", b"{}"))[0]["reason"]:
                    pass
                assert second.stop(signal.SIGTERM) == 0
            assert ask(f"{first.url}/models/double/predict", b'{"instances": [[1, 2]]}') == predicted
            assert first.stop(signal.SIGTERM) == 0
