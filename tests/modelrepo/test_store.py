"""A repository in a real S3 API, with faults: what is copied there and back is whole, or is not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from modelrepo import store as stores
from modelrepo.copying import compare, copy
from modelrepo.errors import CorruptVersion, ModelNotFound, StoreError, VersionNotFound
from modelrepo.mirror import Mirror
from modelrepo.repository import Repository
from modelrepo.store import Store
from tests import micro, s3
from tests.server import ROOT

GIGABYTE = 1 << 30


@pytest.fixture(scope="module")
def server():
    with s3.running() as server:
        yield server


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    import s3fs

    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    monkeypatch.setattr(stores, "PAUSES", (0.0, 0.0))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    micro.publish_double(root)
    micro.publish_double(root)
    return Repository(root)


@pytest.fixture(scope="module")
def filled(server, published):
    """A repository that tests only read: double:1 and double:2."""
    filled = Store(server.bucket("filled"))
    for version in (1, 2):
        assert copy(published, "double", version, filled)
    return filled


@pytest.fixture
def store(server, filled):
    server.faults, server.seen = {}, []
    return filled


@pytest.fixture
def fresh(server, published):
    """A repository for one test: double:1."""
    server.faults, server.seen = {}, []
    fresh = Store(server.bucket(f"fresh-{len(server.buckets)}"))
    assert copy(published, "double", 1, fresh)
    return fresh


def test_what_is_copied_to_a_store_and_back_is_the_same_to_the_byte(server, store, published, tmp_path):
    store.refresh()
    assert (store.models(), store.versions("double")) == (["double"], [1, 2])
    back = Repository(tmp_path / "back")
    assert copy(store, "double", 2, back)
    there, here = ({path.name: path.read_bytes() for path in root.path("double", 2).iterdir()} for root in (published, back))
    assert here == there
    assert back.versions("double") == [2]
    assert not copy(store, "double", 2, back)
    assert not copy(published, "double", 2, store), "it is there already"
    with pytest.raises(ModelNotFound, match="'mean' is not in s3://.*; it holds \\['double'\\]"):
        store.versions("mean")


def test_a_version_is_there_only_once_its_manifest_is_and_never_written_over(server, published, fresh, tmp_path):
    puts = [path for method, path, _ in server.seen if method == "PUT"]
    assert puts[-1].endswith("/double/1/manifest.json")
    micro.publish_double(tmp_path, factor=3.0)
    with pytest.raises(StoreError, match="double/1 is another version: give it a new number"):
        copy(Repository(tmp_path), "double", 1, fresh)
    fresh.write("double", 2, "model.onnx", published.path("double", 2) / "model.onnx")
    fresh.refresh()
    assert fresh.versions("double") == [1], "a copy that broke off"
    fresh.remove("double", 1)
    fresh.refresh()
    assert fresh.models() == []
    with pytest.raises(VersionNotFound, match=r"double/1 holds no manifest\.json"):
        fresh.manifest("double", 1)


@pytest.mark.parametrize("fault", [s3.unavailable, s3.cut], ids=["500", "cut body"])
def test_a_connection_that_fails_once_is_tried_again(server, store, tmp_path, fault):
    server.faults = {"/double/2/model.onnx": [fault]}
    mirror = Mirror(store, tmp_path, GIGABYTE)
    mirror.open("double", 2)
    assert len(server.asked("/double/2/model.onnx")) == 2


def test_a_store_that_fails_for_good_leaves_no_version_and_the_next_try_goes_on_where_it_ended(
    server, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(stores, "CHUNK", 64)
    mirror = Mirror(store, tmp_path, GIGABYTE)
    server.faults = {"/double/2/goldens.npz": [s3.kept, s3.kept, *[s3.unavailable] * 3]}
    with pytest.raises(StoreError, match=r"double/2/goldens\.npz cannot be used \(.*InternalError.*\): check the address"):
        mirror.open("double", 2)
    assert not (tmp_path / "double/2").exists()
    assert (tmp_path / "double/.partial-2/.goldens.npz.part").stat().st_size == 128
    server.seen = []
    mirror.open("double", 2)
    assert server.asked("/double/2/goldens.npz")[0] == "bytes=128-191"
    assert server.asked("/double/2/model.onnx") == [], "it was there"
    assert mirror.traffic.failed["fetch"] == mirror.traffic.succeeded["fetch"] == 1


def test_wrong_bytes_are_refused_and_never_kept(server, store, tmp_path):
    mirror = Mirror(store, tmp_path, GIGABYTE)
    server.faults = {"/double/1/model.onnx": [s3.altered]}
    with pytest.raises(CorruptVersion, match=r"s3://.*double/1/model\.onnx has sha256 [0-9a-f]{64}, its record says"):
        mirror.open("double", 1)
    assert not (tmp_path / "double/.partial-1/.model.onnx.part").exists()
    mirror.open("double", 1)


@pytest.mark.slow  # a bucket and a client of its own
def test_a_file_that_was_altered_in_the_store_is_found_by_verify_and_its_copy_refused(fresh, published, tmp_path):
    (tmp_path / "other").write_bytes(b"x" * (published.path("double", 1) / "model.onnx").stat().st_size)
    fresh.write("double", 1, "model.onnx", tmp_path / "other")
    manifest = published.open("double", 1).manifest
    for refused in (lambda: compare(fresh, "double", 1, manifest), lambda: copy(fresh, "double", 1, Repository(tmp_path / "back"))):
        with pytest.raises(CorruptVersion, match=r"double/1/model\.onnx has sha256"):
            refused()
    assert Repository(tmp_path / "back").models() == []
    (tmp_path / "other").write_bytes(b"short")
    fresh.write("double", 1, "model.onnx", tmp_path / "other")
    with pytest.raises(CorruptVersion, match="another size than the"):
        compare(fresh, "double", 1, manifest)


def test_what_is_not_there_and_what_cannot_be_reached_is_said_with_the_remedy(server, monkeypatch):
    with pytest.raises(StoreError, match=r"s3://nowhere/models is not there \(.*bucket does not exist\): check the address"):
        Store("s3://nowhere/models").refresh()
    with pytest.raises(StoreError, match=r"foo://x cannot be used \(Protocol not known: foo\): give s3://"):
        Store("foo://x")
    with pytest.raises(StoreError, match=r"gs://x needs a driver that is not installed \(.*gcsfs.*\): pip install"):
        Store("gs://x")
    with pytest.raises(StoreError, match="https://h/models has a query or a fragment"):
        Store("https://user:password@h/models?signature=1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreError, match=r"s3://b/models cannot be used \(Could not connect to the endpoint"):
        Store("s3://b/models").refresh()


FETCH = """
import sys
from modelrepo import store
from modelrepo.mirror import Mirror
store.CHUNK = 64
Mirror(store.Store(sys.argv[1]), __import__("pathlib").Path(sys.argv[2]), 1 << 30).open("double", 2)
"""


@pytest.mark.slow  # processes that import boto
def test_a_process_that_is_killed_while_it_fetches_is_gone_on_from_by_the_next(server, store, tmp_path):
    halfway, killed = threading.Event(), threading.Event()

    def hold(answer):
        halfway.set()
        assert killed.wait(30)
        return answer

    server.faults = {"/double/2/goldens.npz": [s3.kept, s3.kept, hold]}
    environment = {**os.environ, **server.environment}
    command = [sys.executable, "-c", FETCH, store.shown, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment) as process:
        assert halfway.wait(60)
        process.send_signal(signal.SIGKILL)
    killed.set()
    server.faults, server.seen = {}, []
    mirror = Mirror(store, tmp_path, GIGABYTE)
    mirror.open("double", 2)
    assert server.asked("/double/2/goldens.npz")[0].startswith("bytes=128-")
    assert server.asked("/double/2/model.onnx") == [], "it was there"
