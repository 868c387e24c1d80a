"""Versions from an archive at a URL: all of them whole, or nothing."""

from __future__ import annotations

import hashlib
import io
import logging
import re
import tarfile
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from modelrepo.__main__ import main
from modelrepo.errors import RepositoryError
from modelrepo.pull import PullFailed, pull
from modelrepo.repository import Repository
from modelrepo.staging import STAGING
from tests import micro


class Handler(BaseHTTPRequestHandler):
    """Answers every GET with `server.body`, and says that it is `server.missing` bytes longer."""

    def do_GET(self):
        self.server.seen.append(self.path)
        self.server.words.append(self.headers["Authorization"])
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/models.tar.gz")
            self.end_headers()
            return
        if not self.path.startswith("/models"):
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body) + self.server.missing))
        self.end_headers()
        self.wfile.write(self.server.body)

    def log_message(self, *arguments):
        pass


@pytest.fixture(scope="module")
def running():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def site(running):
    running.body, running.missing, running.seen, running.words = b"", 0, [], []
    return running


def url(site, body=None, path="/models.tar.gz"):
    site.body = site.body if body is None else body
    return f"http://127.0.0.1:{site.server_port}{path}#sha256={hashlib.sha256(site.body).hexdigest()}"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    micro.publish_double(root)
    micro.publish_double(root)
    micro.publish_mean(root)
    return root


def tarred(root, mode="w:gz", *extra):
    """What `tar -C root .` makes, and these members after it."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:
        archive.add(root, arcname=".")
        for member in extra:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    return made.getvalue()


def zipped(root, *extra):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for path in root.rglob("*"):
            archive.write(path, path.relative_to(root))
        for member in extra:
            archive.writestr(member, "x")
    return made.getvalue()


def member(name, kind=tarfile.REGTYPE, link="", size=1):
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size if kind == tarfile.REGTYPE else 0
    return made


def everything(root):
    return {path.relative_to(root) for path in root.rglob("*")}


@pytest.mark.parametrize("form", ["w:gz", "w:xz", "w", "zip"])
def test_the_versions_of_an_archive_are_there_afterwards_and_nothing_else(site, published, tmp_path, form):
    body = zipped(published) if form == "zip" else tarred(published, form)
    assert pull(url(site, body), Repository(tmp_path / "models")) == ["double:1", "double:2", "mean:1"]
    pulled = Repository(tmp_path / "models")
    assert {name: pulled.versions(name) for name in pulled.models()} == {"double": [1, 2], "mean": [1]}
    pulled.open("double")
    record = Path(f".pulled-{hashlib.sha256(body).hexdigest()}")
    assert everything(tmp_path / "models") == everything(published) | {record}


def test_what_was_pulled_is_not_fetched_again_unless_something_of_it_is_gone(site, published, tmp_path):
    repository = Repository(tmp_path)
    names = pull(url(site, tarred(published)), repository)
    assert pull(url(site), repository) == names
    assert len(site.seen) == 1
    (tmp_path / "mean/1/manifest.json").unlink()
    (tmp_path / "mean/1").rename(tmp_path / "mean/.away")
    assert pull(url(site), repository) == names
    assert len(site.seen) == 2
    repository.open("mean")


def test_what_was_pulled_and_is_damaged_is_pulled_again(site, published, tmp_path):
    repository = Repository(tmp_path)
    names = pull(url(site, tarred(published)), repository)
    (tmp_path / "double/1/model.onnx").write_bytes(b"torn")
    assert pull(url(site), repository) == names
    repository.open("double", 1)


def test_an_authorization_is_shown_to_the_server_that_is_named_and_to_no_other(site, published, tmp_path, monkeypatch):
    monkeypatch.setenv("PULL_AUTHORIZATION", "Bearer word")
    pull(url(site, tarred(published), "/moved"), Repository(tmp_path))
    assert site.words == ["Bearer word", None]


def test_a_repository_may_be_made_to_hold_what_the_archive_has_and_nothing_else(site, published, tmp_path):
    micro.publish_double(tmp_path, "other")
    assert main(["pull", url(site, tarred(published)), "--repository", str(tmp_path), "--delete"]) == 0
    assert Repository(tmp_path).models() == ["double", "mean"]


@pytest.mark.parametrize(
    ("path", "missing", "wrong", "match"),
    [
        pytest.param("/models.tar.gz", 0, True, r"has sha256 [0-9a-f]{64}, not 0{64}", id="another archive"),
        pytest.param("/models.tar.gz", 10, False, r"broke off after \d+ of \d+ bytes: try again", id="cut connection"),
        pytest.param("/nothing", 0, False, r"/nothing cannot be fetched \(.*404.*\): check the address", id="not found"),
    ],
)
def test_what_does_not_arrive_as_it_was_meant_leaves_the_repository_as_it_was(
    site, published, tmp_path, path, missing, wrong, match
):
    micro.publish_double(tmp_path)
    before = everything(tmp_path)
    site.missing = missing
    address = url(site, tarred(published), path)
    with pytest.raises(PullFailed, match=match):
        pull(address.split("#")[0] + "#sha256=" + "0" * 64 if wrong else address, Repository(tmp_path))
    assert everything(tmp_path) == before


def test_nobody_at_the_address_is_said(published, tmp_path):
    with pytest.raises(PullFailed, match=r"http://127\.0\.0\.1:9/x cannot be fetched \(.*refused.*\)"):
        pull("http://127.0.0.1:9/x#sha256=" + "0" * 64, Repository(tmp_path))


@pytest.mark.parametrize(
    "evil",
    [
        member("../../evil"),
        member("/tmp/evil"),
        member("double/1/../../../evil"),
        member("double/3/evil", tarfile.SYMTYPE, "/etc/passwd"),
        member("double/3/evil", tarfile.LNKTYPE, "double/1/model.onnx"),
        member("double/3/evil", tarfile.FIFOTYPE),
    ],
    ids=lambda m: f"{m.name}, type {m.type!r}",
)
def test_members_that_lead_elsewhere_are_refused_with_everything_else(site, published, tmp_path, evil):
    with pytest.raises(PullFailed, match=f"holds '{evil.name}', which is no file below NAME/VERSION/"):
        pull(url(site, tarred(published, "w:gz", evil)), Repository(tmp_path / "inner/models"))
    assert everything(tmp_path) == {Path("inner"), Path("inner/models")}


def test_a_zip_can_lead_nowhere_else_either(site, published, tmp_path):
    link = zipfile.ZipInfo("double/3/evil")
    link.external_attr = 0o120777 << 16
    for extra in (link, zipfile.ZipInfo("../evil"), zipfile.ZipInfo("/evil")):
        with pytest.raises(PullFailed, match="which is no file below NAME/VERSION/"):
            pull(url(site, zipped(published, extra)), Repository(tmp_path / "models"))
    assert everything(tmp_path) == {Path("models")}


def test_archives_of_something_else_are_refused_with_the_command_that_makes_them_right(site, published, tmp_path):
    for body, match in [
        (tarred(published.parent), "which is not below NAME/VERSION/: pack with `tar -czf FILE -C models .`"),
        (tarred(tmp_path), "holds no NAME/VERSION/manifest.json"),
        (b"no archive at all", "cannot be unpacked"),
        (tarred(published)[:-200], "cannot be unpacked"),
        (tarred(published, "w:gz", member("./double/1/model.onnx")), "cannot be unpacked .*File exists"),
    ]:
        with pytest.raises(PullFailed, match=match):
            pull(url(site, body), Repository(tmp_path / "models"))


def test_a_damaged_version_in_the_archive_is_refused_with_the_whole_ones(site, published, tmp_path):
    pull(url(site, tarred(published)), Repository(tmp_path / "torn"))
    (tmp_path / "torn/mean/1/model.onnx").write_bytes(b"torn")
    with pytest.raises(PullFailed, match=r"does not hold whole versions \(.*model\.onnx has size 4"):
        pull(url(site, tarred(tmp_path / "torn")), Repository(tmp_path / "models"))
    assert Repository(tmp_path / "models").models() == []


def test_versions_never_change(site, published, tmp_path):
    pull(url(site, tarred(published)), Repository(tmp_path / "same"))
    micro.publish_double(tmp_path / "same")
    assert pull(url(site, tarred(tmp_path / "same")), Repository(tmp_path / "same")) == [
        "double:1",
        "double:2",
        "double:3",
        "mean:1",
    ]
    micro.publish_double(tmp_path / "other", factor=3.0)
    with pytest.raises(PullFailed, match=r"holds double:1, but .*other/double/1 is another: give it a new number"):
        pull(url(site, tarred(published)), Repository(tmp_path / "other"))
    assert Repository(tmp_path / "other").models() == ["double"]


def test_what_a_killed_pull_left_behind_is_swept_away(site, published, tmp_path):
    (tmp_path / f"{STAGING}left" / "models").mkdir(parents=True)
    pull(url(site, tarred(published)), Repository(tmp_path))
    assert not list(tmp_path.glob(STAGING + "*"))


@pytest.mark.parametrize("address", ["https://host/models.tar.gz", "file:///models#sha256=" + "0" * 64, "https://host/m#sha256=1"])
def test_an_address_without_a_hash_or_of_another_kind_is_refused_with_the_form_it_must_have(tmp_path, address):
    with pytest.raises(PullFailed, match="write https://HOST/models.tar.gz#sha256=HEX"):
        pull(address, Repository(tmp_path))


def test_a_signature_in_the_query_is_sent_and_never_shown(site, published, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    pull(url(site, tarred(published), "/models.tar.gz?signature=secret"), Repository(tmp_path))
    assert site.seen == ["/models.tar.gz?signature=secret"]
    with pytest.raises(PullFailed) as failure:
        pull(url(site, b"", "/models.tar.gz?signature=secret"), Repository(tmp_path))
    assert "secret" not in caplog.text + str(failure.value)


def test_a_folder_that_cannot_be_written_is_said(site, published, tmp_path):
    (tmp_path / "models").write_text("a file")
    with pytest.raises(RepositoryError, match=r"cannot pull http://\S+ into .*models.*: free space, or give a writable folder"):
        pull(url(site, tarred(published)), Repository(tmp_path / "models"))


def test_the_command_prints_what_is_there_now_or_why_not(site, published, tmp_path, capsys):
    assert main(["pull", url(site, tarred(published)), "--repository", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == ["double:1", "double:2", "mean:1"]
    assert main(["pull", url(site, b""), "--repository", str(tmp_path)]) == 1
    assert re.match(r"pull: http://127.0.0.1:\d+/models.tar.gz cannot be unpacked", capsys.readouterr().err)
