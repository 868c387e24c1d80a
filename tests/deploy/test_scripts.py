"""The two programs the chart ships: what fills the cache with models, and what `helm test` runs."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import runpy
import subprocess
import sys
import tarfile
import threading

import pytest

from modelrepo.repository import Repository
from tests import micro
from tests.deploy.chart import CHART
from tests.server import serving

FILL, PREDICT = (str(CHART / "files" / name) for name in ("fill.py", "predict.py"))


def run(script, *arguments, **environment):
    command = [sys.executable, "-I", script, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment})


@pytest.fixture
def source(tmp_path):
    for _ in range(2):
        micro.publish_double(tmp_path / "source")
    micro.publish_mean(tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def cache(tmp_path):
    (tmp_path / "cache").mkdir()
    return tmp_path / "cache"


def held(folder):
    """Models and versions that can be opened, each file checked; nothing else may lie about."""
    repository = Repository(folder)
    found = {name: repository.versions(name) for name in repository.models()}
    for name, versions in found.items():
        for version in versions:
            repository.open(name, version)
    assert {path.name for path in folder.iterdir()} == set(found), "leftovers"
    return found


def test_the_cache_becomes_as_the_source_and_keeps_the_engines_that_were_built(source, cache):
    assert run(FILL, source, cache).returncode == 0
    assert held(cache) == {"double": [1, 2], "mean": [1]}
    (cache / "double/1/built-here").touch()
    (source / "double/2").rename(source / "double/3")
    (source / "mean/1").rename(source.parent / "withdrawn")
    (source / "mean/.staged").mkdir()
    (source / "mean/.staged/manifest.json").touch()
    done = run(FILL, source, cache)
    assert done.returncode == 0, done.stderr
    assert held(cache) == {"double": [1, 3]}
    assert (cache / "double/1/built-here").exists()


def test_a_copy_that_was_damaged_is_made_again(source, cache):
    run(FILL, source, cache)
    (cache / "double/2/model.onnx").write_bytes(b"cut short")
    assert run(FILL, source, cache).returncode == 0
    assert held(cache) == {"double": [1, 2], "mean": [1]}


class Archives(http.server.SimpleHTTPRequestHandler):
    """Files, for those who say the word."""

    def do_GET(self):
        if self.headers["Authorization"] == "Bearer word":
            super().do_GET()
        else:
            self.send_error(401)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def archive(source, tmp_path):
    """The URL of the source as an archive below another folder, and its checksum."""
    path = tmp_path / "models.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(source, "repository/models")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Archives, directory=tmp_path)) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/models.tar.gz", hashlib.sha256(path.read_bytes()).hexdigest()
        server.shutdown()
        thread.join()


def test_an_archive_is_pulled_with_its_checksum_and_the_authorization(archive, cache):
    url, checksum = archive
    done = run(FILL, url, cache, checksum, PULL_AUTHORIZATION="Bearer word")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{cache} holds double/1, double/2, mean/1\n"
    assert held(cache) == {"double": [1, 2], "mean": [1]}


def test_what_cannot_be_pulled_or_is_another_archive_changes_nothing_and_says_why(archive, source, cache, tmp_path):
    url, checksum = archive
    run(FILL, source, cache)
    for arguments, message in (
        ((url, cache, "0" * 64), f"its sha256 is {checksum}, not {'0' * 64}: set models.pull.sha256"),
        ((url + "x", cache), "HTTP Error 404"),
        ((tmp_path / "nowhere", cache), "no NAME/VERSION/manifest.json in it"),
    ):
        done = run(FILL, *arguments, PULL_AUTHORIZATION="Bearer word")
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert held(cache) == {"double": [1, 2], "mean": [1]}
    assert "HTTP Error 401" in run(FILL, url, cache).stderr


def test_helm_test_says_where_nobody_answers():
    done = run(PREDICT, "http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:1: <urlopen error")


def test_an_archive_that_reaches_out_of_its_folder_is_refused_and_links_are_left_out(source, cache, tmp_path):
    fill = runpy.run_path(FILL)
    with tarfile.open(tmp_path / "links.tar", "w") as tar:
        link = tarfile.TarInfo("m/1/model.onnx")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    fill["unpack"](tmp_path / "links.tar", tmp_path / "unpacked")
    assert list((tmp_path / "unpacked").iterdir()) == []
    for name in ("../m/1/manifest.json", "/m/1/manifest.json"):
        with tarfile.open(tmp_path / "out.tar", "w") as tar:
            tar.addfile(tarfile.TarInfo(name))
        with pytest.raises(ValueError, match="would lie outside of the folder"):
            fill["unpack"](tmp_path / "out.tar", tmp_path / f"out-{len(name)}")


def test_helm_test_passes_where_every_model_gives_its_golden_answer(tmp_path):
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)
    with serving(tmp_path) as server:
        done = run(PREDICT, server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"/v2/models/{name}/infer: the golden answer" for name in ("double", "mean")]


def tensor(*data):
    return {"outputs": [{"name": "y", "data": list(data)}]}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(tensor(1.0, -20.4), 0, id="near enough"),
        pytest.param(tensor(1.0, -23.0), 1, id="another number"),
        pytest.param(tensor(1.0), 1, id="too few"),
        pytest.param({"outputs": []}, 1, id="no output"),
    ],
)
def test_helm_test_compares_what_comes_with_what_the_document_says(monkeypatch, answer, status):
    predict = runpy.run_path(PREDICT)
    body = {"requestBody": {"content": {"application/json": {"schema": {"example": {"inputs": []}}}}}}
    responses = {"responses": {"200": {"content": {"application/json": {"schema": {"example": tensor(1.0, -20.0)}}}}}}
    document = {"paths": {"/v2/models/m/infer": {"post": {**body, **responses}}, "/v2/models/{model}/ready": {}}}
    monkeypatch.setitem(predict["main"].__globals__, "ask", lambda url, body=None: document if body is None else answer)
    assert predict["main"]("http://x") == status


def test_helm_test_fails_where_nothing_can_be_asked(monkeypatch):
    predict = runpy.run_path(PREDICT)
    monkeypatch.setitem(predict["main"].__globals__, "ask", lambda url, body=None: {"paths": {}})
    assert predict["main"]("http://x") == 1
