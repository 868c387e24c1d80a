"""Bad requests by the thousand, sent to a real server: each is refused with a reason, soon, and leaves nothing behind.

`make test` sends a thousand, always the same ones; `make fuzz` sends QUARTET_FUZZ_REQUESTS, new ones every time, and lets
schemathesis loose on the OpenAPI document.
"""

from __future__ import annotations

import gzip
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests import micro
from tests.server import ROOT, serving

REQUESTS = int(os.environ.get("QUARTET_FUZZ_REQUESTS", "0"))
QUICK = 40  # examples a test, where REQUESTS says nothing
TESTS = 5  # that share REQUESTS
HUNG = 5  # seconds
GROWTH = 16 * 2**20  # bytes; a server that kept each of 100,000 bodies, 200 bytes long, would grow by 20 MiB


def fuzzed(requests):
    """Hypothesis' settings for a test that sends that many requests an example."""
    return hypothesis_settings(
        max_examples=REQUESTS // TESTS // requests or QUICK,
        derandomize=not REQUESTS,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Target:
    """A server to shoot at: one connection, kept alive while it may be."""

    def __init__(self, server) -> None:
        self.host, self.port = server.address.split(":")
        self.process = server.process
        self.statuses = Counter()
        self.slowest = (0.0, b"")
        self.log = []
        threading.Thread(target=lambda: self.log.extend(server.process.stderr), daemon=True).start()
        self._socket = None

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, int(self.port)), timeout=HUNG)

    def send(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        """One well-formed request; its values are whatever they are. Raises where no whole answer comes in time."""
        fields = {"Host": "quartet", "Content-Length": str(len(body)), **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        request = f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body
        if self._socket is not None:
            try:
                return self._exchange(method, request)
            except (ConnectionError, http.client.RemoteDisconnected):  # closed while idle; again, then, on a new one
                self.close()
        self._socket = self.connect()
        try:
            return self._exchange(method, request)
        except BaseException:
            self.close()
            raise

    def _exchange(self, method: str, request: bytes) -> tuple[int, bytes]:
        started = time.monotonic()
        self._socket.sendall(request)
        with http.client.HTTPResponse(self._socket, method=method) as response:
            response.begin()
            content = response.read()
        if response.will_close:
            self.close()
        self.slowest = max(self.slowest, (time.monotonic() - started, request[:300]))
        self.statuses[response.status] += 1
        return response.status, content

    def send_raw(self, sent: bytes) -> bytes:
        """Bytes over a connection of their own, which then says that no more will come; all that is answered."""
        answer = b""
        with self.connect() as connection:
            try:
                connection.sendall(sent)
                connection.shutdown(socket.SHUT_WR)
                while chunk := connection.recv(65536):
                    answer += chunk
            except ConnectionError:  # refused while it was still being sent
                pass
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def resident(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))


@pytest.fixture(scope="module")
def target(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    micro.publish_mean(root)
    with serving(root, "--max-body-bytes", "1000000") as server:
        target = Target(server)
        for path, headers, body in VALID * 50:  # what is made once is made before the measurement
            assert target.send("POST", path, headers, body)[0] == 200
        target.statuses.clear()
        target.slowest = (0.0, b"")
        resident, descriptors, started = target.resident(), target.descriptors(), time.monotonic()
        yield target
        bad = target.statuses.total() - target.statuses[200]
        grown = target.resident() - resident
        print(
            f"\n{target.statuses.total()} requests in {time.monotonic() - started:.0f} s, {bad} of them bad: "
            f"{dict(target.statuses.most_common())}; memory {resident / 2**20:.1f} MiB before, {grown / 2**20:+.1f} after; "
            f"descriptors {descriptors} before, {target.descriptors()} after; "
            f"the slowest took {target.slowest[0] * 1e3:.0f} ms: {target.slowest[1]}"
        )
        target.close()
        assert target.process.poll() is None, "the server died"
        assert not [line for line in target.log if "Traceback" in line or line.startswith("ERROR")]
        assert grown < GROWTH
        assert target.descriptors() <= descriptors + 1


def check(target: Target, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
    status, content = target.send(method, path, headers, body)
    sent = (method, path, headers, body, content)
    # A deadline that cannot be met is told as such; any other 5xx would blame the server for what the caller sent.
    assert status < 500 or (status in (503, 504) and b"timeout" in repr(sent).lower().encode()), sent
    assert status < 300 or (content and list(json.loads(content)) == ["error"]), sent


INFER, PREDICT = "/v2/models/double/infer", "/models/double/predict"
MEAN_INFER, MEAN_PREDICT = "/v2/models/mean/infer", "/models/mean/predict"
X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}
SEQUENCE = {"name": "sequence", "shape": [1, 3, 1], "datatype": "FP32", "data": [[[1], [2], [3.5]]]}
MASK = {"name": "mask", "shape": [1, 3], "datatype": "BOOL", "data": [True, True, False]}
BINARY_X = {"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
LENGTH = "Inference-Header-Content-Length"


def dumps(value) -> bytes:
    return json.dumps(value).encode()


def binary(header: bytes, *tensors: bytes):
    return {LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}, header + b"".join(tensors)


VALID = [
    (INFER, {}, dumps({"id": "7", "inputs": [X], "parameters": {"priority": 1}})),
    (INFER, {}, dumps({"inputs": [X], "outputs": [{"name": "logits", "parameters": {"binary_data": True}}]})),
    (INFER, *binary(dumps({"inputs": [BINARY_X]}), bytes(8))),
    (INFER, *binary(dumps({"inputs": [BINARY_X], "parameters": {"binary_data_output": True}}), b"\0\0\x80?" * 2)),
    (PREDICT, {"Content-Type": "application/json"}, dumps({"instances": [[1, 2], [3.5, -4e-3]], "top_k": 1})),
    (PREDICT, {}, dumps({"instances": [{"x": [1, 2]}]})),
    (MEAN_INFER, {}, dumps({"inputs": [SEQUENCE, MASK]})),
    (MEAN_PREDICT, {}, dumps({"instances": [[[1], [2]], [[5]]]})),
]

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
numbers = st.integers() | st.floats() | st.booleans() | st.none() | st.text(max_size=3)
parameters = (
    st.dictionaries(
        st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "timeout", "priority", "sequence_id"]),
        st.integers(-1, 20) | st.booleans() | json_values,
        max_size=3,
    )
    | json_values
)
datatypes = st.sampled_from(["FP32", "FP64", "FP16", "BF16", "BOOL", "BYTES", "INT64", "UINT8", "FP99", ""])
anything = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["x", "sequence", "mask", "logits", ""]) | st.text(max_size=5),
        "shape": st.lists(st.integers(-1, 14), max_size=4) | st.lists(st.integers(), max_size=3) | json_values,
        "datatype": datatypes | json_values,
        "parameters": parameters,
        "data": st.lists(numbers | st.lists(numbers, max_size=3), max_size=6) | json_values,
    },
)
tensors = anything | st.builds(
    lambda right, change, key: {**right, **({key: change[key]} if key in change else {})},  # all but one thing is right
    st.sampled_from([X, SEQUENCE, MASK, BINARY_X]),
    anything,
    st.sampled_from(["name", "shape", "datatype", "parameters", "data"]),
)
almost_infer = st.fixed_dictionaries(
    {"inputs": st.lists(tensors, max_size=3) | json_values},
    optional={
        "id": json_values,
        "parameters": parameters,
        "outputs": st.lists(st.fixed_dictionaries({"name": st.sampled_from(["logits", "values", "z"])}), max_size=3) | json_values,
    },
)
instances = st.lists(st.lists(numbers | st.lists(numbers, max_size=3), max_size=4) | json_values, max_size=4)
almost_predict = st.fixed_dictionaries(
    {"instances": instances | json_values},
    optional={"top_k": json_values, "explain": json_values, "parameters": parameters, "timeout_ms": json_values},
)
almost = almost_infer | almost_predict | json_values
PATHS = [INFER, PREDICT, MEAN_INFER, MEAN_PREDICT]

# What breaks parsers: unbalanced and deep nesting, numbers no type holds, half of a character, an escape that ends early.
TOKENS = [b"{", b"}", b"[", b"]", b",", b":", b'"', b"\\", b"\\ud800", b"\xff", b"\xed\xa0\x80", b"\0", b"NaN", b"-", b"1e999"]
TOKENS += [b"-0", b"9" * 40, b"null", b"true", b'""', b"[" * 600, b'{"a":' * 600, b" " * 100, b"\xef\xbb\xbf", b"-1", b"4294967296"]
edits = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace", "repeat", "cut"]),
        st.integers(0, 300),
        st.integers(1, 12),
        st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=4,
)


def mutated(body: bytes, changes) -> bytes:
    for kind, position, length, token in changes:
        at = position % (len(body) + 1)
        before, piece, after = body[:at], body[at : at + length], body[at + length :]
        match kind:
            case "insert":
                body = before + token + piece + after
            case "delete":
                body = before + after
            case "replace":
                body = before + token + after
            case "repeat":
                body = before + piece * 3 + after
            case "cut":
                body = before
    return body


@given(edits)
@fuzzed(len(VALID))
def test_valid_requests_with_some_bytes_changed(target, changes):
    for path, headers, body in VALID:
        check(target, "POST", path, headers, mutated(body, changes))


@given(almost.map(dumps))
@fuzzed(len(PATHS))
def test_json_that_looks_like_a_request(target, body):
    for path in PATHS:
        check(target, "POST", path, {}, body)


@given(st.lists(tensors, min_size=1, max_size=3), parameters, st.integers(-40, 400), st.binary(max_size=48))
@fuzzed(6)
def test_binary_tensors_whose_sizes_do_not_match(target, given_tensors, wanted, error, tail):
    for tensor in given_tensors:
        tensor.pop("data", None)
    header = dumps({"inputs": given_tensors, "parameters": wanted})
    for path in (INFER, MEAN_INFER):
        for length in (len(header), len(header) + error, error):
            check(target, "POST", path, {LENGTH: str(length)}, header + tail)


header_values = st.one_of(
    st.text("0123456789-+_ e.x", max_size=20),
    st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=30),
    st.sampled_from(["0", "9" * 30, "NaN", "1e3", "-1", "gzip", "deflate", "br", "gzip, deflate", "application/json", "text/csv"]),
    st.sampled_from(["multipart/form-data", "multipart/form-data; boundary=b", "image/png", "application/octet-stream; x"]),
)
header_names = st.sampled_from(
    [
        *(LENGTH, "Content-Type", "Content-Encoding", "Accept-Encoding", "Accept", "Quartet-Timeout-Ms", "Expect", "Upgrade"),
        *("Connection", "Range", "If-None-Match", "Authorization", "Cookie", "X-Request-Id", "traceparent", "Origin"),
    ]
)
names = st.sampled_from(["double", "mean", "..", "%2e%2e", "%2e%2e%2fetc", "a%00", "%ff", "%zz", "-", "x" * 300, "{model}", "1"])
other_paths = st.builds(
    str.format,
    st.sampled_from(
        [
            *("/v2/models/{0}", "/v2/models/{0}/ready", "/v2/models/{0}/stats", "/v2/models/{0}/versions/{1}"),
            *(
                "/v2/models/{0}/versions/{1}/infer",
                "/v2/models/{0}/infer",
                "/models/{0}/predict",
                "/models/{0}/versions/{1}/predict",
            ),
            *("/v2/repository/index", "/v2/repository/models/no-{0}/load", "/v2/repository/models/no-{0}/unload", "/{0}/{1}"),
            *("/v2/health/{0}", "/docs/{0}", "//{0}", "/v2/models//infer?{1}", "/v2?{0}={1}", "/v2/models/{0}/"),
        ]
    ),
    names,
    names,
)
bodies = st.one_of(
    st.sampled_from([body for _, _, body in VALID]),
    almost.map(dumps),
    st.binary(max_size=60),
    st.sampled_from(VALID).map(lambda valid: gzip.compress(valid[2])[:-5]),
    st.sampled_from(VALID).map(lambda valid: zlib.compress(valid[2])),
    st.just(gzip.compress(bytes(5_000_000))),
    st.just(b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n\x89PNG\r\n\x1a\n\r\n--b--\r\n'),
    st.just(b"x0,x1\n1,2\n3,nan\n,,,\n"),
)


@example("POST", "/v2/repository/index", {}, b"\x80")
@given(
    st.sampled_from(["POST", "POST", "GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"]),
    st.sampled_from(PATHS) | other_paths,
    st.dictionaries(header_names, header_values, max_size=3),
    bodies,
)
@fuzzed(1)
def test_headers_methods_and_paths_of_every_kind(target, method, path, headers, body):
    if method == "HEAD":  # says nothing in its body
        assert target.send(method, path, headers, body)[0] < 500
    else:
        check(target, method, path, headers, body)


@given(edits, st.booleans())
@fuzzed(len(VALID))
def test_bytes_that_are_hardly_http(target, changes, chunked):
    """The change may hit the request line, a length or the framing; the server answers or hangs up, and does so soon."""
    for path, headers, body in VALID:
        framing = "Transfer-Encoding: chunked\r\n" if chunked else f"Content-Length: {len(body)}\r\n"
        sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        whole = mutated(f"POST {path} HTTP/1.1\r\nHost: quartet\r\n{head}{framing}\r\n".encode() + sent, changes)
        answer = target.send_raw(whole)
        statuses = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]
        target.statuses.update(statuses or ["hung up"])  # as it may on what is not HTTP
        assert all(status < 500 for status in statuses), (whole, answer)


def test_a_body_over_the_limit_is_refused_on_every_path_that_takes_one(target):
    for path in (*PATHS, "/v2/repository/index", "/v2/repository/models/none/load"):
        status, _ = target.send("POST", path, {"Content-Type": "application/json"}, b'{"ready": true' + b" " * 1_100_000 + b"}")
        assert status in (404, 413), path


@pytest.mark.slow
def test_schemathesis_finds_nothing_wrong_with_the_document_or_the_handlers(tmp_path):
    """Needs the extra `fuzz`; requests made from our own OpenAPI document, right ones and wrong ones, judged by it."""
    command = shutil.which("schemathesis", path=Path(sys.executable).parent)
    if command is None:
        pytest.skip("schemathesis is not installed: pip install -e '.[fuzz]'")
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)
    with serving(tmp_path) as server:
        log = Target(server).log
        # JSON Schema cannot say all that makes a request right: as many elements as the shape says, sequences of one length.
        configuration = tmp_path.with_suffix(".toml")
        configuration.write_text(f"[checks]\nnegative_data_rejection.expected-statuses = {[400, 404, 405, 413, 415, 422, 429]}\n")
        options = ["--exclude-checks", "positive_data_acceptance", "--max-examples", "200", "--request-timeout", "5", "--no-color"]
        done = subprocess.run(
            [command, "--config-file", configuration, "run", f"{server.url}/openapi.json", *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [line for line in log if "Traceback" in line]
