"""Both clients against a real server, and against one that breaks off, hangs and turns away."""

from __future__ import annotations

import asyncio
import io
import math
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import numpy as np
import pytest
from PIL import Image

from quartet_client import AsyncClient, Client, DeadlineExceeded, InvalidRequest, NotFound, Unreachable
from service.app import create_app
from service.settings import Settings
from tests import micro
from tests.server import serving


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for publish in (micro.publish_double, micro.publish_mean, micro.publish_table, micro.publish_text, micro.publish_picture):
        publish(root)
    with serving(root) as running:
        running.root = root
        yield running


class Blocking:
    """An asyncio client's methods, run to their end."""

    def __init__(self, runner, client):
        self._runner, self._client = runner, client

    def __getattr__(self, name):
        return lambda *arguments, **options: self._runner.run(getattr(self._client, name)(*arguments, **options))


@pytest.fixture(scope="module", params=["blocking", "asyncio"])
def connect(request):
    """Makes a client of either kind, whose methods may be called."""
    if request.param == "blocking":
        yield Client
        return
    with asyncio.Runner() as runner:

        @contextmanager
        def connected(*arguments, **options):
            client = AsyncClient(*arguments, **options)
            yield Blocking(runner, client)
            runner.run(client.close())

        yield connected


@pytest.fixture(scope="module")
def client(connect, server):
    with connect(server.url) as client:
        yield client


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("binary", [True, False])
def test_tensors_go_in_and_out(client, binary):
    rows = np.arange(90, dtype=np.float32).reshape(45, 2)
    outputs = client.infer("double", {"x": rows}, binary=binary, outputs=["logits"])
    np.testing.assert_array_equal(outputs["logits"], rows * 2)
    assert (outputs.model, outputs.version, outputs["logits"].dtype) == ("double", "1", np.float32)
    texts = client.infer("text", {"tokens": np.array(["hé", "", "abcd"])}, binary=binary)
    assert texts["logits"][:, 1].tolist() == [3, 1, 4]
    explained = client.infer("double", {"x": rows[:1]}, parameters={"explain": True}, priority=1)
    assert explained.parameters["batch_rows"] == 1


def test_instances_texts_and_images_are_predicted(client, tmp_path):
    (first, second) = client.predict("double", [[0, 1], np.array([3, 0])], top_k=1)
    assert (first.label, second.label, len(first.probabilities)) == ("b", "a", 1)
    assert client.predict("mean", [[[1], [2], [6]]])[0].values == {"mean": 3}
    assert client.predict("table", [{"age": 31, "town": "Oslo", "pay": None}])[0].values == {"age": 31, "town": 1, "pay": -1}
    assert [row.label for row in client.predict("text", texts=["hé", "abcd"])] == ["long", "long"]
    pixels = np.array([[0, 1, 2], [50, 100, 255]], np.uint8)
    (tmp_path / "p.png").write_bytes(png(pixels))
    for image in (png(pixels), tmp_path / "p.png"):
        assert list(client.predict("picture", images=[image], version=1)[0].values.values()) == pixels.ravel().tolist()


def test_what_is_served_can_be_asked(client):
    client.wait_ready(5)
    assert client.ready()
    assert client.ready("double")
    assert not client.ready("double", version=9)
    assert client.models() == ["double", "mean", "picture", "table", "text"]
    metadata = client.metadata("mean")
    sequence, mask = metadata.inputs
    assert (sequence.name, sequence.dtype, sequence.shape) == ("sequence", np.float32, (-1, -1, 1))
    assert (mask.parameters["optional"], metadata.versions, metadata.parameters["max_batch"]) == (True, ("1",), 8)
    assert client.get("/v2/models/stats")["model_stats"][0]["name"] == "double"


def test_errors_have_types_and_the_servers_words(client):
    with pytest.raises(NotFound, match="no model 'nobody'; served are"):
        client.predict("nobody", [[1]])
    with pytest.raises(InvalidRequest, match="datatype FP64; the model takes FP32"):
        client.infer("double", {"x": np.zeros((1, 2))})


class Stub(ThreadingHTTPServer):
    """Answers as the next of `script` says: a status with headers, `cut` in the middle of an answer, `drop`, `hang`."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen, self.released = [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((time.monotonic(), dict(self.headers)))
        what = self.server.script.pop(0)
        body = b'{"models": ["m"]}'
        if what == "drop":
            self.close_connection = True
            return
        if what == "hang":
            self.server.released.wait(10)
            self.close_connection = True
            return
        status, headers = what if isinstance(what, tuple) else (200, {})
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:5] if what == "cut" else body)
        self.close_connection = what == "cut"

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    server = Stub()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("fault", ["drop", "cut", (429, {"Retry-After": "0"}), (503, {}), (502, {})], ids=str)
def test_a_fault_that_passes_is_not_noticed(connect, stub, fault):
    stub.script = [fault, fault, 200]
    with connect(stub.url) as client:
        assert client.models() == ["m"]
    assert len(stub.seen) == 3


def test_a_connection_that_was_closed_while_it_rested_is_no_fault(connect, stub):
    stub.script = [(200, {"Connection": "close"}), 200]
    with connect(stub.url, retries=0) as client:
        assert (client.models(), client.models()) == (["m"], ["m"])


def test_a_server_is_given_the_time_that_it_asks_for(connect, stub):
    stub.script = [(429, {"Retry-After": "0.3"}), 200]
    with connect(stub.url) as client:
        client.models()
    (first, _), (second, _) = stub.seen
    assert second - first >= 0.3


def test_a_server_that_hangs_costs_no_more_than_the_timeout(connect, stub):
    stub.script = ["hang"]
    with connect(stub.url, timeout=0.2) as client:
        started = time.monotonic()
        with pytest.raises(DeadlineExceeded, match=r"no answer within 0\.2 s"):
            client.models()
        assert time.monotonic() - started < 1


def test_nobody_there_is_said_after_the_retries(connect):
    with connect("http://127.0.0.1:9", retries=1) as client, pytest.raises(Unreachable, match="GET /v2/models: .*refused|failed"):
        client.models()
    with pytest.raises(ValueError, match=r"it takes http://HOST:PORT"):
        Client("127.0.0.1:8000")


def test_a_key_and_headers_of_ones_own_go_with_every_request(connect, stub):
    stub.script = [200]
    with connect(stub.url, api_key="secret", headers={"X-Tenant": "me"}) as client:
        client.models()
    headers = {name.lower(): value for name, value in stub.seen[0][1].items()}
    assert (headers["authorization"], headers["x-tenant"], headers["accept-encoding"]) == ("Bearer secret", "me", "identity")
    assert headers["user-agent"].startswith("quartet-client")


def test_an_application_in_the_same_process_needs_no_network(server):
    async def scenario():
        app = create_app(Settings(repository=server.root, device="cpu"))
        here = httpx2.ASGITransport(app)
        async with app.lifespan(), AsyncClient("http://quartet", transport=here, timeout=math.inf) as client:
            answers = await asyncio.gather(*(client.predict("mean", [[[n]]]) for n in range(20)))
            return [answer[0].values["mean"] for answer in answers]

    assert asyncio.run(scenario()) == list(range(20))
