"""Register, load, prove, swap, drain: what serves while models come, change, fail and go."""

from __future__ import annotations

import asyncio
import shutil

import numpy as np
import pytest

from modelrepo.errors import RepositoryError
from modelrepo.tensors import DEFAULT_BATCH
from service.errors import Unavailable, UnknownModel
from service.loading import LoadFailed
from service.metrics import Metrics
from service.registry import Registry
from service.settings import Settings
from tests import micro

ROW = {"x": np.array([[1, 2]], np.float32)}


def serving(root, scenario, **settings):
    """Run a coroutine function with a registry that has loaded what `root` holds."""

    async def main():
        registry = Registry(Settings(repository=root, device="cpu", **settings), Metrics(DEFAULT_BATCH))
        try:
            await (await registry.start())
            assert registry.ready
            await asyncio.wait_for(scenario(registry), 30)
        finally:
            await registry.close()
        assert not registry.ready

    asyncio.run(main())


def served(registry):
    return [(model.name, model.version) for model in registry.models()]


def states(registry):
    return {(entry.name, entry.version): entry.state for entry in registry.index()}


def tear(folder):
    """As a copy that broke off leaves it."""
    (folder / "model.onnx").write_bytes(b"torn")


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_the_newest_version_of_every_model_serves(tmp_path):
    micro.publish_double(tmp_path)
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)

    async def scenario(registry):
        assert served(registry) == [("double", "2"), ("mean", "1")]
        assert registry.get("double").version == "2"

    serving(tmp_path, scenario)


def test_several_versions_serve_where_the_policy_says_so_and_the_newest_is_the_default(tmp_path):
    for _ in range(3):
        micro.publish_double(tmp_path)

    async def scenario(registry):
        assert served(registry) == [("double", "2"), ("double", "3")]
        assert registry.get("double").version == "3"
        assert registry.get("double", "2").version == "2"
        with pytest.raises(UnknownModel, match="no version '1' here; it has 2, 3"):
            registry.get("double", "1")

    serving(tmp_path, scenario, versions="latest:2")


def test_a_repository_without_models_and_one_that_is_missing_fail_the_start(tmp_path):
    with pytest.raises(LoadFailed, match="holds no models: publish one with `python -m export`"):
        serving(tmp_path, None)
    with pytest.raises(RepositoryError, match="cannot be read"):
        serving(tmp_path / "nowhere", None)


def test_one_corrupt_model_fails_the_start_before_any_is_loaded(tmp_path):
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)
    tear(tmp_path / "mean/1")
    with pytest.raises(RepositoryError, match=r"mean/1/model\.onnx has size"):
        serving(tmp_path, None)


@pytest.mark.parametrize("fault", ["torn", "wrong"])
def test_a_newest_version_that_cannot_serve_is_passed_over_at_the_start_for_the_one_before_it(tmp_path, fault):
    micro.publish_double(tmp_path)
    for _ in range(2):
        micro.publish_double(tmp_path, factor=2.5 if fault == "wrong" else 2.0)
    if fault == "torn":
        tear(tmp_path / "double/2")
        tear(tmp_path / "double/3")

    async def scenario(registry):
        assert registry.ready
        assert served(registry) == [("double", "1")]
        assert states(registry) == {("double", 1): "READY", ("double", 2): "UNAVAILABLE", ("double", 3): "UNAVAILABLE"}
        assert ("has size" if fault == "torn" else "no artifact of double:3 can serve here") in registry.index()[-1].reason
        micro.publish_double(tmp_path)
        await registry.load("double")
        assert served(registry) == [("double", "4")]

    serving(tmp_path, scenario)


def test_with_several_versions_those_that_are_whole_serve(tmp_path):
    for _ in range(2):
        micro.publish_double(tmp_path)
    tear(tmp_path / "double/2")

    async def scenario(registry):
        assert served(registry) == [("double", "1")]

    serving(tmp_path, scenario, versions="latest:2")


def test_no_other_version_stands_in_for_one_that_was_named(tmp_path):
    for _ in range(2):
        micro.publish_double(tmp_path)
    tear(tmp_path / "double/2")
    for versions in ("2", "all", "latest:1 double=2"):
        with pytest.raises(RepositoryError, match=r"double/2/model\.onnx has size"):
            serving(tmp_path, None, versions=versions)


def test_while_it_loads_the_server_is_not_ready_and_says_how_far_it_is(tmp_path):
    micro.publish_double(tmp_path)

    async def main():
        registry = Registry(Settings(repository=tmp_path, device="cpu"), Metrics(DEFAULT_BATCH))
        loading = await registry.start()
        assert not registry.ready
        assert registry.waiting_for() == {"double:1": "waiting for its turn"}
        with pytest.raises(Unavailable, match="'double' version 1 is loading: waiting for its turn"):
            registry.get("double")
        await loading
        assert registry.ready
        await registry.close()

    asyncio.run(main())


def test_a_new_version_takes_over_and_the_old_one_answers_what_it_has(tmp_path):
    micro.publish_double(tmp_path)

    async def scenario(registry):
        old = registry.get("double")
        micro.publish_double(tmp_path)
        with old.called():  # a request on its way to the old version
            await registry.load("double")
            assert registry.get("double").version == "2"
            assert states(registry) == {("double", 1): "UNLOADING", ("double", 2): "READY"}
            answer = await old.infer(ROW)
            assert answer.outputs["logits"].tolist() == [[2, 4]]
        await until(lambda: states(registry)["double", 1] == "UNAVAILABLE")
        with pytest.raises(Unavailable, match="shutting down"):
            await old.infer(ROW)

    serving(tmp_path, scenario)


@pytest.mark.parametrize("fault", ["torn", "wrong", "unforeseen"])
def test_a_failed_load_leaves_the_old_version_serving_and_shows_its_reason(tmp_path, monkeypatch, fault):
    micro.publish_double(tmp_path)

    async def scenario(registry):
        micro.publish_double(tmp_path, factor=2.5 if fault == "wrong" else 2.0)
        if fault == "torn":
            tear(tmp_path / "double/2")
        if fault == "unforeseen":
            monkeypatch.setattr("service.registry.load", lambda *arguments: 1 / 0)
        with pytest.raises((RepositoryError, LoadFailed, ZeroDivisionError)) as failure:
            await registry.load("double")
        assert registry.ready
        assert served(registry) == [("double", "1")]
        entry = registry.index()[-1]
        assert (entry.version, entry.state, entry.reason) == (2, "UNAVAILABLE", str(failure.value))
        assert (await registry.get("double").infer(ROW)).outputs["logits"].tolist() == [[2, 4]]

    serving(tmp_path, scenario)


def test_unloading_answers_what_was_accepted_and_loading_brings_the_model_back(tmp_path):
    micro.publish_double(tmp_path)

    async def scenario(registry):
        accepted = asyncio.ensure_future(registry.get("double").infer(ROW))
        await asyncio.sleep(0)
        await registry.unload("double")
        with pytest.raises(UnknownModel, match="no model 'double'; served are none"):
            registry.get("double")
        assert (await accepted).outputs["logits"].tolist() == [[2, 4]]
        await registry.load("double")
        assert (await registry.get("double").infer(ROW)).outputs["logits"].tolist() == [[2, 4]]
        with pytest.raises(UnknownModel, match="no model 'other'; served are double"):
            await registry.unload("other")

    serving(tmp_path, scenario)


def test_watching_picks_up_what_is_published_goes_on_after_a_failure_and_tries_it_again_once_it_changed(tmp_path):
    micro.publish_double(tmp_path)

    async def scenario(registry):
        micro.publish_mean(tmp_path)
        await until(lambda: ("mean", "1") in served(registry))
        micro.publish_double(tmp_path, factor=2.5)
        await until(lambda: states(registry).get(("double", 2)) == "UNAVAILABLE")
        assert ("double", "1") in served(registry)
        micro.publish_double(tmp_path)
        await until(lambda: registry.get("double").version == "3")

    serving(tmp_path, scenario, watch=0.01)


def test_taking_the_newest_version_away_brings_the_one_before_it_back(tmp_path):
    root = tmp_path / "models"
    micro.publish_double(root)

    async def scenario(registry):
        for _ in range(2):
            micro.publish_double(root)
            await until(lambda: registry.get("double").version == "2")
            (root / "double/2").rename(tmp_path / "withdrawn")
            await until(lambda: registry.get("double").version == "1")
            shutil.rmtree(tmp_path / "withdrawn")

    serving(root, scenario, watch=0.01)


def test_watching_outlives_a_repository_that_goes_away_and_comes_back(tmp_path):
    root, away = tmp_path / "models", tmp_path / "away"
    micro.publish_double(root)

    async def scenario(registry):
        root.rename(away)
        with pytest.raises(RepositoryError, match="is not in|cannot be read"):
            await registry.load("double")
        assert (await registry.get("double").infer(ROW)).outputs["logits"].tolist() == [[2, 4]]
        micro.publish_double(away)
        away.rename(root)
        await until(lambda: registry.get("double").version == "2")

    serving(root, scenario, watch=0.01)


def test_what_was_unloaded_is_not_loaded_by_watching(tmp_path):
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)

    async def scenario(registry):
        await registry.unload("double")
        micro.publish_double(tmp_path)
        micro.publish_mean(tmp_path)
        await until(lambda: registry.get("mean").version == "2")
        assert served(registry) == [("mean", "2")]

    serving(tmp_path, scenario, watch=0.01)


def test_a_copy_that_is_still_under_way_is_not_seen_until_it_is_whole(tmp_path):
    root, whole = tmp_path / "models", tmp_path / "whole"
    micro.publish_double(root)
    micro.publish_double(whole)
    source, target = whole / "double/1", root / "double/2"

    async def scenario(registry):
        target.mkdir()
        for name in sorted((path.name for path in source.iterdir()), key="manifest.json".__ne__):  # the manifest first: the worst
            await asyncio.sleep(0.05)
            assert served(registry) == [("double", "1")]
            shutil.copy(source / name, target / name)
        await until(lambda: registry.get("double").version == "2")

    serving(root, scenario, watch=0.01)


def test_a_lost_session_makes_the_model_unready_until_it_is_replaced(tmp_path, monkeypatch):
    micro.publish_double(tmp_path)

    async def scenario(registry):
        model = registry.get("double")
        (worker,) = model.batcher.workers

        def gone(inputs):
            raise RuntimeError("the device is gone")

        monkeypatch.setattr(worker.session, "run", gone)
        asking = asyncio.ensure_future(model.infer(ROW))
        await until(lambda: not registry.ready)
        assert registry.waiting_for() == {"double:1": "a session is being replaced: the device is gone"}
        assert (await asking).outputs["logits"].tolist() == [[2, 4]], "answered by the new session"
        assert registry.ready

    serving(tmp_path, scenario)


def test_a_session_that_cannot_be_replaced_is_told_and_tried_again(tmp_path, monkeypatch):
    micro.publish_double(tmp_path)
    monkeypatch.setattr("service.model.RETRY_SECONDS", (0.01, 0.01))

    async def scenario(registry):
        model = registry.get("double")
        (worker,) = model.batcher.workers
        (tmp_path / "double/1/model.onnx").rename(tmp_path / "hidden")
        monkeypatch.setattr(worker.session, "run", lambda inputs: 1 / 0)
        with pytest.raises(Unavailable, match="model 'double' has no session: a lost session cannot be replaced"):
            await model.infer(ROW)
        (tmp_path / "hidden").rename(tmp_path / "double/1/model.onnx")
        await until(lambda: registry.ready)
        assert (await model.infer(ROW)).outputs["logits"].tolist() == [[2, 4]]

    serving(tmp_path, scenario)


def test_versions_that_come_and_go_leave_no_gauges_behind(tmp_path):
    micro.publish_double(tmp_path)

    async def scenario(registry):
        await registry.unload("double")
        await until(lambda: states(registry)["double", 1] == "UNAVAILABLE")
        text = registry._metrics.render().decode()
        assert 'quartet_queue_rows{model="double"' not in text
        assert "quartet_model_info{" not in text

    serving(tmp_path, scenario)


def test_a_version_whose_golden_rows_come_out_wrong_shows_in_the_metrics_for_what_it_is(tmp_path):
    micro.publish_double(tmp_path)

    async def scenario(registry):
        assert 'quartet_loads_total{model="double",result="failed"} 0.0' in registry._metrics.render().decode()
        micro.publish_double(tmp_path, factor=2.5)
        with pytest.raises(LoadFailed):
            await registry.load("double")
        text = registry._metrics.render().decode()
        assert 'quartet_loads_total{model="double",result="failed"} 1.0' in text
        artifact = 'artifact="model.onnx on onnxruntime-cpu",cause="golden"'
        assert f'quartet_artifacts_skipped_total{{{artifact},model="double",version="2"}} 1.0' in text

    serving(tmp_path, scenario)
