"""Copies of a store: bounded, shared, healed, and there when the store is not. The store is a folder behind a file: URL."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import HTTPServer, SimpleHTTPRequestHandler

import pytest

from modelrepo import store as stores
from modelrepo.errors import CacheFull, CorruptVersion, ModelNotFound, RepositoryError, StoreError, UntrustedVersion
from modelrepo.manifest import MANIFEST
from modelrepo.mirror import Mirror
from modelrepo.repository import ENGINES_FOLDER, Repository
from modelrepo.signatures import SIGNATURES, Signatures, Statement, TrustedKeys, generate, private_key, public_path, signed
from modelrepo.store import Store
from tests import micro
from tests.export.test_disk import mounted
from tests.server import ROOT

GIGABYTE = 1 << 30


@pytest.fixture
def published(tmp_path):
    root = tmp_path / "published"
    for _ in range(3):
        micro.publish_double(root)
    return Repository(root)


@pytest.fixture
def mirror(published, tmp_path):
    return opened(published, tmp_path / "cache")


@pytest.fixture
def away(monkeypatch):
    """Call it, and no store can be reached."""

    def fail(*arguments, **named):
        raise ConnectionError("connection refused")

    monkeypatch.setattr(stores, "PAUSES", ())
    return lambda: monkeypatch.setattr(Store, "_once", fail)


def opened(published, folder, most=GIGABYTE, trusted=None):
    mirror = Mirror(Store(f"file://{published.root}"), folder, most, trusted)
    mirror.refresh()
    return mirror


def size(published):
    return sum(path.stat().st_size for path in published.path("double", 1).iterdir())


def test_a_version_is_copied_when_it_is_opened_and_only_once(mirror, published, tmp_path):
    assert (mirror.models(), mirror.versions("double")) == (["double"], [1, 2, 3])
    version = mirror.open("double", 3)
    assert version.path == tmp_path / "cache/double/3"
    assert version.manifest == published.open("double", 3).manifest
    fetched = mirror.traffic.bytes
    assert fetched == sum(file.size for file in version.manifest.files())
    mirror.open("double", 3)
    assert mirror.traffic.bytes == fetched
    assert Repository(tmp_path / "cache").versions("double") == [3]
    with pytest.raises(ModelNotFound):
        mirror.versions("mean")


def test_two_that_fill_one_folder_at_once_fetch_a_version_once(published, tmp_path):
    both = [opened(published, tmp_path / "cache") for _ in range(2)]
    together = threading.Barrier(2)

    def open_(mirror):
        together.wait()
        return mirror.open("double", 2)

    with ThreadPoolExecutor() as pool:
        one, other = pool.map(open_, both)
    assert one == other
    assert sorted(mirror.traffic.succeeded["fetch"] for mirror in both) == [0, 1]


def test_the_version_that_served_least_recently_goes_to_make_room_and_never_one_that_serves(published, tmp_path):
    server = opened(published, tmp_path / "cache", most=int(2.5 * size(published)))
    other = opened(published, tmp_path / "cache", most=int(2.5 * size(published)))
    held = Repository(tmp_path / "cache")
    server.open("double", 1)
    other.open("double", 2)
    with pytest.raises(CacheFull, match=r"double:3 needs .* of the .* that .*cache may hold are in use: raise --cache-bytes"):
        other.open("double", 3)
    assert held.versions("double") == [1, 2]
    other.retain({("double", 2)})
    server.retain(set())
    other.open("double", 3)
    assert held.versions("double") == [2, 3]
    other.retain({("double", 3)})
    server.open("double", 1)
    assert held.versions("double") == [1, 3]


def test_a_copy_that_broke_off_counts_whole_and_goes_when_there_must_be_room(published, tmp_path, monkeypatch):
    mirror = opened(published, tmp_path / "cache", most=int(1.5 * size(published)))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Store, "chunks", lambda *arguments: (_ for _ in ()).throw(KeyboardInterrupt))
        mirror.open("double", 1)
    assert (tmp_path / "cache/double/.partial-1").exists()
    mirror.retain(set())
    mirror.open("double", 2)
    assert not (tmp_path / "cache/double/.partial-1").exists()


def test_what_is_damaged_in_a_copy_is_fetched_again_and_engines_that_were_built_here_stay(mirror, tmp_path):
    place = mirror.open("double", 1).path
    (place / ENGINES_FOLDER).mkdir()
    (place / ENGINES_FOLDER / ".being-built").touch()
    before = mirror.traffic.bytes
    (place / "model.onnx").write_bytes(b"torn")
    version = mirror.open("double", 1)
    assert mirror.traffic.bytes - before == (place / "model.onnx").stat().st_size == version.manifest.onnx.file.size
    assert (place / ENGINES_FOLDER / ".being-built").exists()
    (place / MANIFEST).write_text("{}")
    assert mirror.open("double", 1).manifest == version.manifest


def test_while_the_store_is_away_copies_are_what_there_is(mirror, published, tmp_path, away):
    mirror.open("double", 2)
    away()
    mirror.refresh()
    assert mirror.outage.startswith(f"file://{published.root} cannot be used (connection refused): check the address, ")
    assert mirror.versions("double") == [1, 2, 3], "as it was seen last"
    mirror.open("double", 2)
    with pytest.raises(StoreError, match="connection refused"):
        mirror.open("double", 3)
    begun_now = opened(published, tmp_path / "cache")
    assert (begun_now.models(), begun_now.versions("double")) == (["double"], [2])
    begun_now.open("double", 2)
    assert begun_now.traffic.failed == {"look": 1, "fetch": 0}
    with pytest.raises(StoreError, match="connection refused.*; and .*empty holds no copies of it"):
        opened(published, tmp_path / "empty").models()
    (tmp_path / "cache/double/2/model.onnx").write_bytes(b"torn")
    with pytest.raises(CorruptVersion, match=r"model\.onnx has size 4"):
        begun_now.open("double", 2)


def test_a_store_that_fails_between_a_look_and_opening_leaves_the_copy_to_serve(mirror, away):
    mirror.open("double", 1)
    away()
    assert mirror.open("double", 1).version == 1


def test_a_version_that_was_made_anew_under_its_number_replaces_the_copy(mirror, published):
    old = mirror.open("double", 1).manifest
    shutil.rmtree(published.root / "double")
    micro.publish_double(published.root, factor=3.0)
    mirror.refresh()
    assert mirror.open("double", 1).manifest == published.open("double", 1).manifest != old


def test_a_folder_that_is_no_cache_of_this_store_is_not_touched(published, tmp_path, mirror):
    with pytest.raises(RepositoryError, match="holds models that are no copies of a store.*: give an empty folder"):
        opened(published, published.root)
    with pytest.raises(RepositoryError, match=r"cache holds copies of file://.*published, not .*other: give another folder"):
        opened(Repository(tmp_path / "other"), tmp_path / "cache")
    (tmp_path / "file").touch()
    with pytest.raises(RepositoryError, match=r"copies of .* cannot be kept in .*file' \(File exists\)"):
        opened(published, tmp_path / "file")


def test_only_what_a_trusted_key_signed_is_fetched_and_a_signature_that_comes_later_counts(published, tmp_path):
    generate(tmp_path / "key")
    mirror = opened(published, tmp_path / "cache", trusted=TrustedKeys(public_path(tmp_path / "key")))
    with pytest.raises(UntrustedVersion, match="double:1 is not signed, and not by a key in"):
        mirror.open("double", 1)
    assert mirror.traffic.bytes == 0
    before = mirror.fingerprint("double", 1)
    statement = Statement("version", "double", 1, published.manifest("double", 1))
    text = signed(statement, private_key(tmp_path / "key"), Signatures(signatures=())).to_json()
    (published.path("double", 1) / SIGNATURES).write_bytes(text)
    mirror.refresh()
    assert mirror.fingerprint("double", 1) != before
    assert mirror.open("double", 1).version == 1
    assert (tmp_path / "cache/double/1" / SIGNATURES).read_bytes() == text


def test_a_full_disk_says_so_and_what_serves_stays(published, tmp_path):
    cache = tmp_path / "cache"
    with mounted(cache, "size=64k"):
        mirror = opened(published, cache)
        mirror.open("double", 1)
        (cache / "filler").write_bytes(b"0" * (shutil.disk_usage(cache).free - 8192))
        with pytest.raises(RepositoryError, match=r"cannot be kept in .*\(No space left on device\): free space"):
            mirror.open("double", 2)
        assert Repository(cache).versions("double") == [1]
        (cache / "filler").unlink()
        mirror.open("double", 2)
        mirror.retain(set())


class Files(SimpleHTTPRequestHandler):
    """A folder as web servers list it. It knows no ranges, so that they send the whole file."""

    def log_message(self, *arguments):
        pass


def test_a_web_server_that_lists_its_folders_is_a_store_to_read_from(published, tmp_path, monkeypatch):
    monkeypatch.setattr(stores, "CHUNK", 64)
    with HTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=published.root)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        store = Store(f"http://127.0.0.1:{server.server_port}/")
        mirror = Mirror(store, tmp_path / "cache", GIGABYTE)
        mirror.refresh()
        assert mirror.versions("double") == [1, 2, 3]
        assert mirror.open("double", 2).manifest == published.open("double", 2).manifest
        with pytest.raises(StoreError, match="can only be read: copy to an object store or a folder"):
            store.remove("double", 1)
        with pytest.raises(StoreError, match="nowhere is not there"):
            Store(f"http://127.0.0.1:{server.server_port}/nowhere").refresh()
        server.shutdown()
        thread.join()
    mirror.refresh()
    assert "Cannot connect" in mirror.outage, "and not an empty repository"


FILL = """
import sys
from pathlib import Path
from modelrepo.mirror import Mirror
from modelrepo.store import Store
mirror = Mirror(Store("file://" + sys.argv[1]), Path(sys.argv[2]), 1 << 30)
mirror.refresh()
for version in mirror.versions("double"):
    mirror.open("double", version)
print(mirror.traffic.succeeded["fetch"])
"""


@pytest.mark.slow  # processes
def test_processes_that_fill_one_folder_at_once_fetch_every_version_once(published, tmp_path):
    command = [sys.executable, "-c", FILL, str(published.root), str(tmp_path / "cache")]
    started = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert sum(int(process.communicate(timeout=60)[0]) for process in started) == 3
    held = Repository(tmp_path / "cache")
    assert [held.open("double", version).version for version in held.versions("double")] == [1, 2, 3]
