"""Which way to serve is taken, and what becomes of those that do not work here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from modelrepo.manifest import Cost
from modelrepo.repository import Repository
from modelrepo.tasks import Multiclass
from runtime import cuda
from runtime.machine import machine
from service.loading import LoadFailed, load
from service.settings import Settings
from tests import micro


def loaded(root, name="double", **settings):
    found = load(Repository(root).open(name), Settings(repository=root, **{"device": "cpu", **settings}))
    for session in found.sessions:
        session.close()
    return found


def publish_with_engine(root):
    """A version whose first artifact is an engine, built by nobody and proven nowhere."""
    inputs = {"x": np.ones((2, 2), np.float32)}
    with Repository(root).stage("double") as staging:
        micro.write_double(staging.path / "model.onnx")
        (staging.path / "model.plan").write_bytes(b"engine")
        engine = micro.engine(staging.path / "model.plan", flavour="tensorrt", version="0.1", compute_capabilities=("9.0",))
        micro.finish(staging, micro.DOUBLE, Multiclass(labels=("a", "b")), inputs, micro.double(inputs), (engine,))


def test_an_engine_that_does_not_fit_is_passed_over_for_the_next_artifact(tmp_path, caplog):
    caplog.set_level("INFO")
    publish_with_engine(tmp_path)
    found = loaded(tmp_path, device="auto")
    assert found.way.artifact.file.path == "model.onnx"
    assert list(found.way.skipped) == ["model.plan on tensorrt"]
    assert "double:1: model.plan on tensorrt not used" in caplog.text


@pytest.mark.parametrize(("gpu", "level"), [(True, "WARNING"), (False, "INFO")])
def test_an_engine_passed_over_is_a_warning_only_where_there_is_a_gpu(tmp_path, caplog, monkeypatch, gpu, level):
    monkeypatch.setattr("service.loading._has_gpu", lambda: gpu)
    caplog.set_level("INFO")
    publish_with_engine(tmp_path)
    (why,) = loaded(tmp_path, device="auto").way.skipped.values()
    assert why.cause == ("session" if gpu else "no_gpu")
    assert {record.levelname for record in caplog.records if "not used" in record.getMessage()} == {level}


@pytest.mark.skipif(cuda.available(), reason="this machine has a GPU")
def test_asking_for_the_gpu_never_ends_on_the_cpu(tmp_path):
    publish_with_engine(tmp_path)
    with pytest.raises(LoadFailed, match="model.plan on tensorrt: tensorrt"):
        loaded(tmp_path, device="cuda")


def test_a_model_whose_golden_rows_come_out_wrong_is_not_loaded_and_its_session_closed(tmp_path, monkeypatch):
    micro.publish_double(tmp_path, factor=2.5)
    closed = []
    monkeypatch.setattr("runtime.onnxruntime_session.OnnxRuntimeSession.close", lambda session: closed.append(session))
    reason = r"no artifact of double:1 can serve here: model.onnx on onnxruntime-cpu: .*differs from PyTorch by"
    with pytest.raises(LoadFailed, match=reason):
        loaded(tmp_path)
    assert len(closed) == 1


def test_every_instance_is_proven(tmp_path):
    micro.publish_double(tmp_path)
    assert len(loaded(tmp_path, instances=3).sessions) == 3


@pytest.mark.parametrize(
    ("cores", "settings", "sessions"),
    [
        (1, {}, 1),
        (2, {}, 2),
        (16, {}, 4),
        (2, {"workers": 2}, 1),
        (16, {"workers": 8}, 2),
        pytest.param(2, {"workers": 2, "grpc_port": 1}, 2, id="few connections may all have come to one worker"),
        pytest.param(2, {"workers": 2, "tls_certificate": "tls.crt"}, 2, id="so may encrypted ones"),
    ],
)
def test_a_model_worth_a_thread_has_sessions_by_the_cores(tmp_path, monkeypatch, cores, settings, sessions):
    monkeypatch.setattr("service.loading.cores", lambda: cores)
    monkeypatch.setattr("service.loading.INLINE_SECONDS", 0.0)
    micro.publish_double(tmp_path)
    assert len(loaded(tmp_path, **settings).sessions) == sessions


@pytest.mark.parametrize(("cores", "instances", "threads"), [(1, 1, 1), (2, 1, 2), (8, 1, 8), (8, 2, 4), (8, 9, 1)])
def test_threads_fit_the_cores_of_the_container(tmp_path, monkeypatch, cores, instances, threads):
    monkeypatch.setattr("service.loading.cores", lambda: cores)
    micro.publish_double(tmp_path)
    assert loaded(tmp_path, instances=instances).way.threads == threads


@pytest.mark.parametrize(
    ("cores", "workers", "slow", "sessions", "threads"), [(2, 1, True, 2, 1), (2, 1, False, 1, 1), (16, 2, True, 4, 2)]
)
def test_left_alone_sessions_share_the_cores_of_their_process(tmp_path, monkeypatch, cores, workers, slow, sessions, threads):
    monkeypatch.setattr("service.loading.cores", lambda: cores)
    monkeypatch.setattr("service.loading.INLINE_SECONDS", 0.0 if slow else 1e9)
    micro.publish_double(tmp_path)
    found = loaded(tmp_path, workers=workers)
    assert (len(found.sessions), found.way.threads) == (sessions, threads)


@pytest.mark.parametrize("here", [True, False])
def test_costs_are_the_exporters_on_its_own_machine_and_measured_anew_on_any_other(tmp_path, here):
    micro.publish_double(tmp_path)
    published = Repository(tmp_path).open("double")
    (candidate,) = published.manifest.candidates
    costs = tuple(
        Cost(batch=batch, length=None, median_ms=5000.0, p10_ms=5000.0, p90_ms=5000.0, repeats=1) for batch in micro.BATCH.buckets
    )
    where = machine() if here else published.manifest.machine
    changes = {"candidates": (candidate.model_copy(update={"costs": costs}),), "machine": where}
    published = replace(published, manifest=published.manifest.model_copy(update=changes))
    found = load(published, Settings(repository=tmp_path, device="cpu", threads=1))
    found.sessions[0].close()
    assert set(found.costs) == {(batch, None) for batch in micro.BATCH.buckets}
    assert all((seconds == 5.0) is here for seconds in found.costs.values())
