"""Behind a real nginx: TLS for callers, its own certificate for the servers, REST and gRPC on one port, a server that ends."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from contextlib import ExitStack, closing, contextmanager
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
import tritonclient.grpc
import tritonclient.http

from loadtests.server import free_port
from tests import micro
from tests.server import serving
from tests.service.authority import Authority

NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx is not installed: apt-get install nginx-light")

CONFIGURATION = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 512; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream rest {{
        server 127.0.0.1:{ports[0]};
        server 127.0.0.1:{ports[1]};
        keepalive 16;
    }}
    upstream rpc {{
        server 127.0.0.1:{rpc[0]};
        server 127.0.0.1:{rpc[1]};
        keepalive 16;
    }}
    server {{
        listen 127.0.0.1:{front} ssl http2;
        ssl_certificate {certificate[0]};
        ssl_certificate_key {certificate[1]};
        location / {{
            proxy_pass https://rest;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Request-Id $request_id;
            proxy_request_buffering off;
            proxy_ssl_certificate {client[0]};
            proxy_ssl_certificate_key {client[1]};
            proxy_ssl_trusted_certificate {authority};
            proxy_ssl_verify on;
            proxy_ssl_name localhost;
        }}
        location /inference.GRPCInferenceService/ {{
            grpc_pass grpcs://rpc;
            grpc_ssl_certificate {client[0]};
            grpc_ssl_certificate_key {client[1]};
            grpc_ssl_trusted_certificate {authority};
            grpc_ssl_verify on;
            grpc_ssl_name localhost;
        }}
    }}
}}
"""
ROW = json.dumps({"instances": [[1, 2]]}).encode()


@pytest.fixture(scope="module")
def behind(tmp_path_factory):
    """nginx with two servers behind it, and what its callers need."""
    root, folder = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("nginx")
    micro.publish_double(root)
    authority = Authority(folder)
    own, front, client = (authority.sign(name) for name in ("server", "front", "client"))
    rpc = [free_port(), free_port()]
    options = ("--tls-certificate", own[0], "--tls-key", own[1], "--tls-client-ca", authority.path, "--drain-delay", "0")
    with ExitStack() as stack:
        servers = [stack.enter_context(serving(root, *map(str, options), "--grpc-port", str(port))) for port in rpc]
        ports = [server.address.rpartition(":")[2] for server in servers]
        port = free_port()
        file = folder / "nginx.conf"
        file.write_text(
            CONFIGURATION.format(
                folder=folder, ports=ports, rpc=rpc, front=port, certificate=front, client=client, authority=authority.path
            )
        )
        stack.enter_context(running([NGINX, "-p", str(folder), "-c", str(file)], port, folder / "error.log"))
        yield SimpleNamespace(address=f"127.0.0.1:{port}", authority=authority.path, servers=servers)


@contextmanager
def running(command, port, log):
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 10
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, process.stderr.read().decode() + log.read_text()
                    assert time.monotonic() < end
                    time.sleep(0.01)
            yield
        finally:
            process.kill()


@contextmanager
def connected(behind):
    context = ssl.create_default_context(cafile=behind.authority)
    host, port = behind.address.split(":")
    with closing(http.client.HTTPSConnection(host, int(port), timeout=10, context=context)) as connection:
        yield connection


def given(module, rows):
    tensor = module.InferInput("x", list(rows.shape), "FP32")
    tensor.set_data_from_numpy(rows)
    return [tensor]


def test_tritonclient_gets_its_answers_in_binary(behind):
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    context = ssl.create_default_context(cafile=behind.authority)
    with tritonclient.http.InferenceServerClient(behind.address, ssl=True, ssl_context_factory=lambda: context) as client:
        for _ in range(4):
            answer = client.infer("double", given(tritonclient.http, rows))
            np.testing.assert_array_equal(answer.as_numpy("logits"), 2 * rows)


def test_a_body_without_a_length_and_the_id_that_nginx_gave_arrive(behind):
    with connected(behind) as connection:
        connection.request("POST", "/models/double/predict", iter([ROW[:10], ROW[10:]]), encode_chunked=True)
        answer = connection.getresponse()
        body = answer.read()
    assert answer.status == 200, body
    assert len(answer.headers["X-Request-Id"]) == 32
    assert json.loads(body)["predictions"]


def test_what_is_wrong_is_said_through_it(behind):
    with connected(behind) as connection:
        for body, path, status in ((b"{", "/models/double/predict", 400), (ROW, "/models/nobody/predict", 404)):
            connection.request("POST", path, body)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            assert (answer.status, bool(told["error"])) == (status, True)


def test_grpc_and_its_streams_come_through_the_same_port(behind):
    rows = np.ones((2, 2), np.float32)
    answers = []
    with tritonclient.grpc.InferenceServerClient(
        behind.address, ssl=True, creds=grpc.ssl_channel_credentials(behind.authority.read_bytes())
    ) as client:
        np.testing.assert_array_equal(client.infer("double", given(tritonclient.grpc, rows)).as_numpy("logits"), 2 * rows)
        client.start_stream(lambda result, error: answers.append((result, error)))
        for _ in range(5):
            client.async_stream_infer("double", given(tritonclient.grpc, rows))
        client.stop_stream()
    assert [error for _, error in answers] == [None] * 5


def test_a_server_that_is_stopped_under_load_loses_nothing(behind):
    """The last one: of the two servers one is left."""
    over, answered, lost = threading.Event(), [], []

    def ask():
        with connected(behind) as connection:
            while not over.is_set():
                connection.request("POST", "/models/double/predict", ROW)
                answer = connection.getresponse()
                body = answer.read()
                answered.append(answer.status)
                if answer.status != 200:
                    lost.append((answer.status, body))

    callers = [threading.Thread(target=ask) for _ in range(4)]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(answered) > 200)
    assert behind.servers[0].stop(signal.SIGTERM) == 0
    since = len(answered)
    wait_until(lambda: len(answered) > since + 200)
    over.set()
    for caller in callers:
        caller.join()
    assert lost == []


def wait_until(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
