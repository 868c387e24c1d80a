"""The service as a process: what its exit status says, and what a signal does to requests in flight."""

from __future__ import annotations

import hashlib
import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, save

from modelrepo.repository import Repository
from modelrepo.tasks import Regression
from modelrepo.tensors import Signature, TensorSpec
from tests import micro
from tests.server import ROOT, serving


def post(address, path, body):
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request("POST", path, json.dumps(body))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


def failing(*options):
    command = [sys.executable, "-m", "service", *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def publish_slow(root):
    """A model that takes a good part of a second: a long chain of products."""
    batch = micro.BATCH
    signature = Signature(
        inputs=(TensorSpec(name="x", dtype="float32", shape=(batch, 2)),),
        outputs=(TensorSpec(name="values", dtype="float32", shape=(batch, 1)),),
    )
    size, rounds = 1024, 8
    nodes = [helper.make_node("ReduceSum", ["x", "columns"], ["s"], keepdims=1)]
    nodes += [helper.make_node("Mul", ["matrix", "zero"], ["m0"])]
    nodes += [helper.make_node("MatMul", [f"m{i}", "matrix"], [f"m{i + 1}"]) for i in range(rounds)]
    # The product depends on the input, so that it is not computed once and for all when the file is loaded.
    nodes[1] = helper.make_node("Mul", ["matrix", "none"], ["m0"])
    nodes.insert(1, helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0))
    nodes.insert(2, helper.make_node("Mul", ["least", "zero"], ["none"]))
    nodes += [
        helper.make_node("ReduceSum", [f"m{rounds}"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["s", "nothing"], ["values"]),
    ]
    graph = helper.make_graph(
        nodes,
        "slow",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("values", TensorProto.FLOAT, ["batch", 1])],
        [
            helper.make_tensor("columns", TensorProto.INT64, [1], [1]),
            helper.make_tensor("zero", TensorProto.FLOAT, [], [0.0]),
            helper.make_tensor("matrix", TensorProto.FLOAT, [size, size], np.zeros(size * size, np.float32)),
        ],
    )
    inputs = {"x": np.array([[1, 2]], np.float32)}
    with Repository(root).stage("slow") as staging:
        save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), staging.path / "model.onnx")
        micro.finish(staging, signature, Regression(targets=("sum",)), inputs, {"values": np.array([[3]], np.float32)})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_an_idle_server_cleanly(tmp_path, number):
    micro.publish_double(tmp_path)
    with serving(tmp_path) as server:
        assert post(server.address, "/models/double/predict", {"instances": [[1, 0]]})[0] == 200
        assert server.stop(number) == 0


def waiting_rows(server):
    with urllib.request.urlopen(server.url + "/metrics", timeout=30) as response:
        return float(re.search(r'quartet_queue_rows\{model="slow",version="1"\} (\S+)', response.read().decode())[1])


def test_sigterm_answers_every_request_in_flight_before_the_process_ends(tmp_path):
    publish_slow(tmp_path)
    with serving(tmp_path, "--instances", "1") as server, ThreadPoolExecutor(11) as pool:
        first = http.client.HTTPConnection(server.address, timeout=30)
        first.request("POST", "/models/slow/predict", json.dumps({"instances": [[0, 1]]}))
        waiting_rows(server)  # sent after the first request and answered: by now that one is running
        others = [pool.submit(post, server.address, "/models/slow/predict", {"instances": [[value, 1]]}) for value in range(1, 12)]
        while waiting_rows(server) < 11:
            assert not any(request.done() for request in others), "the slow model is not slow enough for this test"
        assert server.stop(signal.SIGTERM) == 0
        answers = [(response := first.getresponse()).status, json.loads(response.read())], *(request.result() for request in others)
        first.close()
        assert [(status, body["predictions"][0]["values"]["sum"]) for status, body in answers] == [(200, n + 1) for n in range(12)]


def status(server, path):
    connection = http.client.HTTPConnection(server.address, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_after_sigterm_it_is_not_ready_and_answers_until_the_drain_delay_is_over_or_a_second_signal_hurries_it(tmp_path):
    micro.publish_double(tmp_path)
    with serving(tmp_path, "--drain-delay", "60") as server:
        assert status(server, "/v2/health/ready") == 200
        server.process.send_signal(signal.SIGTERM)
        while status(server, "/v2/health/ready") != 503:
            pass
        assert status(server, "/v2/health/live") == 200
        assert post(server.address, "/models/double/predict", {"instances": [[1, 2]]})[0] == 200
        assert server.stop(signal.SIGTERM) == 0


def test_a_model_that_cannot_be_loaded_ends_the_process_with_the_reason(tmp_path):
    micro.publish_double(tmp_path, factor=2.5)
    done = failing("--repository", str(tmp_path), "--port", "0", "--device", "cpu")
    assert done.returncode == 1
    assert "service: no artifact of double:1 can serve here" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_request_that_dribbles_in_is_cut_off_and_an_idle_connection_closed(tmp_path):
    micro.publish_double(tmp_path)
    with serving(tmp_path, "--read-timeout", "0.3") as server:
        for start in (b"POST /models/double/predict HTT", PREDICT, PREDICT + b"Content-Length: 100\r\n\r\n{"):
            with socket.create_connection(server.address.split(":"), timeout=10) as connection:
                connection.sendall(start)
                assert connection.recv(65536).startswith(b"HTTP/1.1 408 Request Timeout"), start
                assert connection.recv(65536) == b""
        with socket.create_connection(server.address.split(":"), timeout=10) as connection:
            assert connection.recv(65536) == b""
        assert post(server.address, "/models/double/predict", {"instances": [[1, 2]]})[0] == 200
        server.stop(signal.SIGTERM)
        assert "Traceback" not in server.process.stderr.read()


def test_headers_without_end_are_refused_and_a_body_of_the_same_size_is_not(server):
    with socket.create_connection(server.address.split(":"), timeout=10) as connection:
        connection.sendall(PREDICT + b"X: " + b"a" * 70_000)
        assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
    body = json.dumps({"instances": [[1, 2]] * 2000 + [[1.5, 2]] * 2000})
    assert len(body) > 30_000
    assert post(server.address, "/models/double/predict", json.loads(body))[0] == 200


def test_rows_of_callers_that_hang_up_are_dropped_and_counted(tmp_path):
    publish_slow(tmp_path)
    body = json.dumps({"instances": [[1, 1]] * 8}).encode()
    request = b"POST /models/slow/predict HTTP/1.1\r\nHost: q\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
    with serving(tmp_path, "--instances", "1") as server, ThreadPoolExecutor(1) as pool:
        patient = pool.submit(post, server.address, "/models/slow/predict", {"instances": [[1, 1]]})
        leaving = [socket.create_connection(server.address.split(":"), timeout=10) for _ in range(5)]
        for connection in leaving:
            connection.sendall(request)
        while waiting_rows(server) < 32:  # the first of the five may be running
            assert not patient.done(), "the slow model is not slow enough for this test"
        for connection in leaving:
            connection.close()
        while waiting_rows(server):
            pass
        assert patient.result()[0] == 200
        with urllib.request.urlopen(server.url + "/metrics", timeout=30) as response:
            metrics = response.read().decode()
        assert float(re.search(r'quartet_dropped_rows_total\{.*reason="abandoned".*\} (\S+)', metrics)[1]) >= 32
        assert float(re.search(r"quartet_cancelled_requests_total\{.*\} (\S+)", metrics)[1]) >= 4


def raw(server, *parts: bytes) -> bytes:
    """What the server answers to bytes sent as they are, until it closes or a response is whole."""
    with socket.create_connection(server.address.split(":"), timeout=10) as connection:
        for part in parts:
            connection.sendall(part)
        answer = b""
        while b"\r\n\r\n" not in answer or b"}" not in answer:
            chunk = connection.recv(65536)
            if not chunk:
                break
            answer += chunk
        return answer


PREDICT = b"POST /models/double/predict HTTP/1.1\r\nHost: quartet\r\n"
ROW = b'{"instances": [[1, 0]]}'


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    with serving(root) as running:
        yield running


@pytest.mark.parametrize("split", [pytest.param(False, id="at once"), pytest.param(True, id="body in a second packet")])
def test_an_offer_to_upgrade_is_ignored_and_the_request_answered(server, split):
    """Java's HttpClient sends these headers with every first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n"
    head = PREDICT + offer + b"Content-Length: %d\r\n\r\n" % len(ROW)
    answer = raw(server, head, ROW) if split else raw(server, head + ROW)
    assert answer.startswith(b"HTTP/1.1 200")
    assert b'"label":"a"' in answer


def test_requests_before_and_after_an_offer_share_the_connection(server):
    plain = PREDICT + b"Content-Length: %d\r\n\r\n" % len(ROW) + ROW
    offering = plain.replace(b"Host:", b"Connection: Upgrade\r\nUpgrade: websocket\r\nHost:")
    with socket.create_connection(server.address.split(":"), timeout=10) as connection:
        connection.sendall(plain + offering + plain)
        answer = b""
        while answer.count(b"HTTP/1.1 200") < 3:
            chunk = connection.recv(65536)
            assert chunk, answer
            answer += chunk


@pytest.mark.parametrize("garbage", [b"FOO BAR\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n", PREDICT + b"Content-Length: -5\r\n\r\n"])
def test_what_is_no_http_gets_an_error_of_the_same_form(server, garbage):
    head, _, content = raw(server, garbage).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert list(json.loads(content)) == ["error"]


def test_a_length_written_with_thousands_of_zeros_is_still_a_length(server):
    assert raw(server, PREDICT + b"Content-Length: " + b"0" * 5000 + b"%d\r\n\r\n" % len(ROW) + ROW).startswith(b"HTTP/1.1 200")


def test_a_request_given_up_at_the_end_of_the_drain_is_told_so(tmp_path):
    micro.publish_double(tmp_path)
    with serving(tmp_path, "--drain-seconds", "1") as server:
        with socket.create_connection(server.address.split(":"), timeout=10) as connection:
            connection.sendall(PREDICT + b"Content-Length: 100\r\n\r\n" + ROW)
            assert raw(server, b"GET /v2/health/live HTTP/1.1\r\nHost: q\r\n\r\n").startswith(b"HTTP/1.1 200")
            assert server.stop(signal.SIGTERM) == 0
            answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b'{"error":"the server shut down before it could answer' in answer
        assert "Traceback" not in server.process.stderr.read()


def test_a_repository_that_cannot_be_served_ends_the_process_before_the_port_opens(tmp_path):
    done = failing("--repository", str(tmp_path / "nowhere"))
    assert done.returncode == 1
    assert "service: model repository" in done.stderr
    assert "give the folder that `python -m export` published to" in done.stderr
    assert "Traceback" not in done.stderr


def test_models_are_pulled_before_it_serves(tmp_path):
    micro.publish_double(tmp_path / "published")
    archive = shutil.make_archive(str(tmp_path / "models"), "gztar", tmp_path / "published")
    body = Path(archive).read_bytes()

    class Site(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site, ThreadPoolExecutor(1) as pool:
        pool.submit(site.serve_forever, 0.01)
        url = f"http://127.0.0.1:{site.server_port}/models.tar.gz#sha256={hashlib.sha256(body).hexdigest()}"
        with serving(tmp_path / "models", "--pull", url) as server:
            assert post(server.address, "/models/double/predict", {"instances": [[1, 0]]})[0] == 200
        site.shutdown()


def test_sigterm_while_models_are_pulled_ends_it_at_once(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as site:  # takes the connection and never answers
        url = f"http://127.0.0.1:{site.getsockname()[1]}/models.tar.gz#sha256={'0' * 64}"
        command = [sys.executable, "-m", "service", "--repository", str(tmp_path), "--port", "0", "--pull", url]
        with subprocess.Popen(command, cwd=ROOT) as process, site.accept()[0] as connection:
            connection.recv(1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 143
    assert list(tmp_path.iterdir()) == [], "the pull's folder is gone"


def test_a_port_in_use_is_said_in_a_line(tmp_path):
    micro.publish_double(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = failing("--repository", str(tmp_path), "--port", str(port), "--device", "cpu")
    assert done.returncode == 1
    assert done.stderr == f"service: cannot listen on 127.0.0.1:{port} (Address already in use): give another --port or --host\n"


def test_an_address_that_is_not_ours_is_said_in_a_line(tmp_path):
    done = failing("--repository", str(tmp_path), "--host", "no.such.host.invalid")
    assert done.returncode == 1
    assert done.stderr.startswith("service: cannot listen on no.such.host.invalid:8000 (")


def test_settings_that_cannot_be_used_end_the_process_with_a_message(tmp_path):
    done = failing("--repository", str(tmp_path), "--port", "70000")
    assert done.returncode == 1
    assert done.stderr.startswith("service: --port (or QUARTET_SERVE_PORT):")


def test_the_calls_shown_can_be_pasted_into_a_shell(tmp_path):
    micro.publish_mean(tmp_path)
    with serving(tmp_path, "--show-calls") as server:
        text = ""
        for line in server.process.stdout:
            text += line
            if "/docs" in line:
                break
        assert text.startswith(f"See what the models do, in a browser: {server.url}/\n")
        curl = next(line for line in text.splitlines() if line.startswith("curl -s"))
        code = text[text.index(sys.executable) : text.index("\nEND\n") + 5]
        answer = subprocess.run(curl, shell=True, capture_output=True, text=True, check=True).stdout
        assert json.loads(answer)["predictions"] == [{"values": {"mean": 0.0}}]
        printed = subprocess.run(code, shell=True, capture_output=True, text=True, check=True).stdout
        assert printed.strip() == "[[0.]]"
