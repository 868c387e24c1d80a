"""A whole service behind keys and certificates: two workers, real clients, a renewal, a key that is revoked."""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import time

import numpy as np
import pytest
import tritonclient.http as triton
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from loadtests.server import free_port
from service import tls
from service.keys import file
from service.metrics import Metrics
from service.settings import Settings
from service.tls import TlsError
from tests import micro
from tests.server import ROOT, serving
from tests.service.authority import Authority
from tests.service.connections import request

ROW = json.dumps({"instances": [[1, 2]]}).encode()
WITHIN = 5.0  # seconds: the server looks twice a second, and this machine may be busy


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A service of two workers with keys and certificates, and all that its callers need."""
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    folder = tmp_path_factory.mktemp("secrets")
    authority = Authority(folder)
    certificate, key = authority.sign("server")
    made = {name: file.fresh(name, scopes=scopes) for name, scopes in (("a", ("infer",)), ("b", ("infer",)), ("ops", ("admin",)))}
    made["slow"] = file.fresh("slow", rate=0.001, burst=5)
    keys = folder / "keys.json"
    file.write(keys, tuple(entry for _, entry in made.values()))
    health = free_port()
    options = ("--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", authority.path, "--keys", keys)
    with serving(root, "--workers", "2", "--health-port", str(health), *map(str, options)) as server:
        next(line for line in iter(server.process.stderr.readline, "") if "serving 1 models" in line)  # the other worker
        server.folder, server.authority, server.keys, server.health = folder, authority, keys, health
        server.secrets = {name: secret for name, (secret, _) in made.items()}
        server.entries = {name: entry for name, (_, entry) in made.items()}
        server.client = authority.sign("client")
        yield server


def context(server, certificate=True):
    made = ssl.create_default_context(cafile=server.authority.path)
    if certificate:
        made.load_cert_chain(*server.client)
    return made


def call(server, path="/models/double/predict", body=ROW, key=None, connection=None):
    """Status, headers and body; without a connection over one of its own, which may end up with either worker."""
    given = connection or http.client.HTTPSConnection(server.address, context=context(server), timeout=20)
    try:
        given.request("GET" if body is None else "POST", path, body, {"Authorization": f"Bearer {key}"} if key else {})
        response = given.getresponse()
        return response.status, response.headers, response.read()
    finally:
        if connection is None:
            given.close()


def eventually(happened):
    """Wait until it has; the server looks at its files twice a second."""
    deadline = time.monotonic() + WITHIN
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_only_who_has_a_certificate_and_a_key_gets_in_and_every_answer_has_the_headers_for_browsers(guarded):
    assert guarded.url.startswith("https://")
    status, headers, body = call(guarded, key=guarded.secrets["a"])
    assert (status, json.loads(body)["model_name"]) == (200, "double")
    assert call(guarded)[0] == 401
    for answered in (headers, call(guarded, "/metrics", None, guarded.secrets["a"])[1], call(guarded, "/nothing", None)[1]):
        assert answered["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answered["content-security-policy"]
        assert answered["referrer-policy"] == "no-referrer"
        assert answered["strict-transport-security"].startswith("max-age=")
    stranger = Authority(guarded.folder, "another").sign("stranger")
    for certificate in (None, stranger):
        wrong = context(guarded, certificate=False)
        if certificate:
            wrong.load_cert_chain(*certificate)
        connection = http.client.HTTPSConnection(guarded.address, context=wrong, timeout=20)
        with pytest.raises((ssl.SSLError, ConnectionError)):
            call(guarded, connection=connection)
        connection.close()


def test_the_quick_way_holds_over_tls_for_requests_that_come_in_pieces_and_many_at_once(guarded):
    one = request("/models/double/predict", ROW, f"X-API-Key: {guarded.secrets['a']}")
    with (
        socket.create_connection(tuple(guarded.address.split(":")), timeout=20) as plain,
        context(guarded).wrap_socket(plain, server_hostname="127.0.0.1") as secure,
    ):
        for piece in (one, one[:-5], one[-5:] + one * 3, one.replace(guarded.secrets["a"].encode(), b"x" * 51)):
            secure.sendall(piece)
        received = b""
        while received.count(b"HTTP/1.1") < 6 or not received.endswith(b"}"):
            received += secure.recv(65536)
    assert [int(part.split()[1]) for part in received.split(b"HTTP/")[1:]] == [200] * 5 + [401]


def test_the_standard_client_gets_through_with_a_key(guarded):
    certificate, key = guarded.client
    client = triton.InferenceServerClient(
        guarded.address,
        ssl=True,
        ssl_options={"ca_certs": str(guarded.authority.path), "certfile": str(certificate), "keyfile": str(key)},
    )
    row = triton.InferInput("x", [1, 2], "FP32").set_data_from_numpy(np.array([[1.5, -2]], np.float32))
    found = client.infer("double", [row], headers={"Authorization": f"Bearer {guarded.secrets['a']}"})
    np.testing.assert_array_equal(found.as_numpy("logits"), [[3, -4]])
    with pytest.raises(triton.InferenceServerException, match="asks for a key"):
        client.infer("double", [row])
    client.load_model("double", headers={"X-API-Key": guarded.secrets["ops"]})  # by both workers
    client.close()


def test_probes_have_a_port_of_their_own_that_answers_nothing_else(guarded):
    connection = http.client.HTTPConnection("127.0.0.1", guarded.health, timeout=20)
    found = {}
    for path, body in (("/v2/health/ready", None), ("/v2/health/live", None), ("/metrics", None), ("/models/double/predict", ROW)):
        found[path] = call(guarded, path, body, guarded.secrets["a"], connection)[0]
    connection.close()
    assert list(found.values()) == [200, 200, 404, 404]


@pytest.mark.parametrize("script", ["helm/quartet/files/predict.py", "docker/healthcheck.py"])
def test_what_the_images_and_the_chart_bring_to_ask_it_gets_an_answer(guarded, script):
    certificate, key = guarded.client
    for path, name in ((certificate, "tls.crt"), (key, "tls.key")):
        (guarded.folder / name).write_bytes(path.read_bytes())
    variables = {
        "KEY": guarded.secrets["a"],
        "CERTIFICATE": str(guarded.folder),
        "SSL_CERT_FILE": str(guarded.authority.path),
        "QUARTET_SERVE_PORT": guarded.address.split(":")[1],
        "QUARTET_SERVE_HEALTH_PORT": str(guarded.health),
        "QUARTET_SERVE_TLS_CERTIFICATE": "tls.crt",
    }
    command = [sys.executable, str(ROOT / "deploy" / script), guarded.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **variables})
    assert (done.returncode, done.stderr) == (0, "")


def test_a_rate_holds_over_all_workers(guarded):
    assert sorted(call(guarded, key=guarded.secrets["slow"])[0] for _ in range(12)) == [200] * 5 + [429] * 7


def test_a_key_that_is_revoked_is_refused_by_all_workers_on_connections_that_are_open(guarded):
    connections = [http.client.HTTPSConnection(guarded.address, context=context(guarded), timeout=20) for _ in range(8)]

    def statuses(name):
        return {call(guarded, key=guarded.secrets[name], connection=connection)[0] for connection in connections for _ in range(3)}

    assert statuses("b") == {200}
    file.write(guarded.keys, tuple(entry for name, entry in guarded.entries.items() if name != "b"))
    eventually(lambda: statuses("b") == {401})
    assert statuses("a") == {200}
    for connection in connections:
        connection.close()


def test_a_certificate_that_is_renewed_is_shown_to_the_next_connection(guarded):
    def shown():
        """Of some connections, so that both workers are among them."""
        found = set()
        for _ in range(8):
            with (
                socket.create_connection(tuple(guarded.address.split(":")), timeout=20) as plain,
                context(guarded).wrap_socket(plain, server_hostname="127.0.0.1") as secure,
            ):
                found.add(dict(pair[0] for pair in secure.getpeercert()["subject"])["commonName"])
        return found

    before = guarded.folder / "server.pem", guarded.folder / "server.key"
    after = guarded.authority.sign("renewed")
    before[0].write_bytes(after[0].read_bytes())

    def rejected():
        return b'quartet_file_rejected{file="tls"} 1.0' in call(guarded, "/metrics", None, guarded.secrets["a"])[2]

    eventually(rejected)
    assert shown() == {"server"}, "half of a renewal changes nothing"
    before[1].write_bytes(after[1].read_bytes())
    eventually(lambda: shown() == {"renewed"})
    eventually(lambda: not rejected())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tls_key": "server.key"}, "--tls-key is for HTTPS: give --tls-certificate too"),
        ({"tls_certificate": "none.pem"}, "none.pem: No such file or directory"),
        ({"tls_certificate": "server.pem", "tls_key": "other.key"}, "the key is not that of the certificate"),
        ({"tls_certificate": "server.pem", "tls_key": "locked.key"}, "the private key is encrypted: decrypt it with"),
        ({"tls_certificate": "server.key", "tls_key": "server.key"}, "no PEM of a certificate and its key"),
        ({"tls_certificate": "server.pem", "tls_key": "server.key", "tls_client_ca": "server.key"}, "--tls-client-ca .*server.key"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_named(tmp_path, given, message):
    authority = Authority(tmp_path)
    authority.sign("server")
    authority.sign("other")
    locked = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"word")
    )
    (tmp_path / "locked.key").write_bytes(locked)
    chosen = Settings(repository=tmp_path, **{name: tmp_path / path for name, path in given.items()})
    with pytest.raises(TlsError, match=message):
        tls.of(chosen, Metrics(micro.BATCH))
