from __future__ import annotations

import gzip
import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest

from tests.training.data.test_idx import idx
from training import data
from training.data.builtin import fashion
from training.data.dataset import DataError

COUNTS = {"train": 60, "t10k": 20}
CONTENT = {
    f"{part}-{kind}-ubyte.gz": gzip.compress(idx(array), mtime=0)
    for part, count in COUNTS.items()
    for kind, array in (
        ("images-idx3", np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8)),
        ("labels-idx1", (np.arange(count) % 10).astype(np.uint8)),
    )
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A server with small files of the right names; what it was asked for, and how it shall fail."""

    class Handler(BaseHTTPRequestHandler):
        asked: ClassVar[list[str]] = []
        fail = ""

        def do_GET(self):
            name = self.path.removeprefix("/")
            Handler.asked.append(name)
            body = CONTENT[name]
            if Handler.fail == "status":
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(
                body[: len(body) // 2] if Handler.fail == "cut" else bytes(len(body)) if Handler.fail == "foreign" else body
            )

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(fashion, "URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(fashion, "FILES", {name: hashlib.sha256(body).hexdigest() for name, body in CONTENT.items()})
        monkeypatch.setenv("QUARTET_DATA", str(tmp_path))
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield Handler
        server.shutdown()
        thread.join()


def test_files_are_fetched_once_and_read_with_their_official_split(place, tmp_path):
    dataset = data.load("fashion-mnist")
    assert dataset.name == "fashion-mnist"
    assert [len(dataset.train(1)), len(dataset.validation), len(dataset.test)] == [54, 6, 20]
    assert dataset.task.labels[9] == "Ankle boot"
    assert {file.name for file in (tmp_path / "fashion-mnist").iterdir()} == set(CONTENT)
    assert data.load("fashion-mnist").fingerprint() == dataset.fingerprint()
    assert sorted(place.asked) == sorted(CONTENT), "each once"


def test_files_put_there_by_hand_need_no_server(place, tmp_path):
    (tmp_path / "fashion-mnist").mkdir()
    for name, body in CONTENT.items():
        (tmp_path / "fashion-mnist" / name).write_bytes(body)
    assert len(data.load("fashion-mnist").test) == 20
    assert not place.asked


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        pytest.param("status", "cannot be fetched: HTTP Error 404", id="not-there"),
        pytest.param("cut", r"cannot be fetched: IncompleteRead", id="cut-connection"),
        pytest.param("foreign", "came with the sha256 .*, not ", id="foreign-content"),
    ],
)
def test_a_failed_fetch_leaves_nothing_behind_and_says_what_to_do(place, tmp_path, fail, message):
    place.fail = fail
    with pytest.raises(
        DataError, match=rf"train-images-idx3-ubyte.gz: {message}.*try again, or put the file at {tmp_path}/fashion-mnist/train"
    ):
        data.load("fashion-mnist")
    assert list((tmp_path / "fashion-mnist").iterdir()) == []
    place.fail = ""
    assert len(data.load("fashion-mnist").test) == 20


def test_a_server_that_is_not_there_is_named(place, monkeypatch):
    monkeypatch.setattr(fashion, "URL", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="http://127.0.0.1:9/train-images-idx3-ubyte.gz: cannot be fetched: .*refused"):
        data.load("fashion-mnist")


def test_a_stored_file_that_was_changed_is_named(place, tmp_path):
    data.load("fashion-mnist")
    (tmp_path / "fashion-mnist/t10k-labels-idx1-ubyte.gz").write_bytes(b"no")
    with pytest.raises(DataError, match="t10k-labels-idx1-ubyte.gz: has the sha256 .* remove it, and it is fetched anew"):
        data.load("fashion-mnist")
