from __future__ import annotations

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from modelrepo.errors import RepositoryError
from modelrepo.manifest import Cost
from modelrepo.repository import Repository
from modelrepo.tasks import Multiclass
from modelrepo.tensors import DEFAULT_BATCH
from runtime import cuda
from runtime.machine import machine
from service.metrics import Metrics
from service.registry import LoadFailed, Registry, load
from service.settings import Settings
from tests import micro


def start(root, device="cpu"):
    """Load everything below `root`; returns {model: (version, artifact, provider, skipped)}."""

    async def main():
        registry = Registry(Settings(repository=root, device=device), Metrics(DEFAULT_BATCH))
        await registry.load_all()
        served = {m.name: (m.version, m.artifact.file.path, m.provider, m.skipped) for m in registry.models()}
        assert registry.ready
        await registry.close()
        assert not registry.ready
        return served

    return asyncio.run(main())


def publish_with_engine(root):
    """A version whose first artifact is an engine, built by nobody and proven nowhere."""
    inputs = {"x": np.ones((2, 2), np.float32)}
    with Repository(root).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        (staging.path / "model.plan").write_bytes(b"engine")
        engine = micro.engine(staging.path / "model.plan", flavour="tensorrt", version="0.1", compute_capabilities=("9.0",))
        micro.finish(staging, micro.DOUBLE, Multiclass(labels=("a", "b")), inputs, micro.double(inputs), (engine,))


def test_the_newest_version_of_every_model_serves(tmp_path):
    micro.publish_double(tmp_path)
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)
    served = start(tmp_path)
    assert {name: version for name, (version, *_) in served.items()} == {"double": "2", "mean": "1"}


def test_an_engine_that_does_not_fit_is_skipped_loudly_for_the_next_artifact(tmp_path, caplog):
    publish_with_engine(tmp_path)
    _, artifact, provider, skipped = start(tmp_path, device="auto")["double"]
    assert (artifact, provider.split("-")[0]) == ("model.onnx", "onnxruntime")
    assert list(skipped) == ["model.plan on tensorrt"]
    assert "double:1: model.plan on tensorrt not used" in caplog.text


def test_a_model_whose_golden_rows_come_out_wrong_never_serves(tmp_path):
    micro.publish_double(tmp_path, factor=2.5)
    with pytest.raises(
        LoadFailed, match=r"no artifact of double:1 can serve here: model.onnx on onnxruntime-cpu: .*differs from PyTorch by"
    ):
        start(tmp_path)


@pytest.mark.skipif(cuda.available(), reason="this machine has a GPU")
def test_asking_for_the_gpu_where_there_is_none_fails_the_start(tmp_path):
    publish_with_engine(tmp_path)
    with pytest.raises(LoadFailed, match="model.plan on tensorrt: tensorrt"):
        start(tmp_path, device="cuda")


def test_a_repository_without_models_and_one_that_is_missing_fail_the_start(tmp_path):
    with pytest.raises(LoadFailed, match="holds no models: publish one with `python -m export`"):
        start(tmp_path)
    with pytest.raises(RepositoryError, match="cannot be read"):
        start(tmp_path / "nowhere")


def test_one_corrupt_model_fails_the_start_and_closes_those_already_loaded(tmp_path):
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)
    (tmp_path / "mean/1/model.onnx").write_bytes(b"torn")

    async def main():
        registry = Registry(Settings(repository=tmp_path, device="cpu"), Metrics(DEFAULT_BATCH))
        with pytest.raises(RepositoryError, match=r"mean/1/model\.onnx has size"):
            await registry.load_all()
        assert registry.models() == []
        assert not registry.ready

    asyncio.run(main())


def test_a_session_that_fails_its_proof_is_closed(tmp_path, monkeypatch):
    micro.publish_double(tmp_path, factor=2.5)
    closed = []
    monkeypatch.setattr("runtime.onnxruntime_session.OnnxRuntimeSession.close", lambda session: closed.append(session))
    with pytest.raises(LoadFailed):
        load(Repository(tmp_path).open("double"), Settings(repository=tmp_path, device="cpu"))
    assert len(closed) == 1


@pytest.mark.parametrize("here", [True, False])
def test_costs_are_the_exporters_on_its_own_machine_and_measured_anew_on_any_other(tmp_path, monkeypatch, here):
    micro.publish_double(tmp_path)
    published = Repository(tmp_path).open("double")
    (candidate,) = published.manifest.candidates
    costs = tuple(
        Cost(batch=batch, length=None, median_ms=5000.0, p10_ms=5000.0, p90_ms=5000.0, repeats=1) for batch in micro.BATCH.buckets
    )
    where = machine() if here else published.manifest.machine
    manifest = published.manifest.model_copy(
        update={"candidates": (candidate.model_copy(update={"costs": costs}),), "machine": where}
    )
    loaded = load(replace(published, manifest=manifest), Settings(repository=tmp_path, device="cpu"))
    loaded.session.close()
    assert set(loaded.costs) == {(batch, None) for batch in micro.BATCH.buckets}
    assert all((seconds == 5.0) is here for seconds in loaded.costs.values())
