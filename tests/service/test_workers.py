"""Several processes behind one port are one service."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelrepo.repository import Repository
from tests import micro
from tests.server import ROOT, serving

ROW = json.dumps({"instances": [[1, 2]]}).encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    micro.publish_double(root)
    with serving(root, "--workers", "2", "--triton-metrics", "--grpc-port", "0") as running:
        running.root = root
        next_line(running, "serving 1 models")  # of the other worker
        yield running


def next_line(server, text):
    """The next line of its log that holds the text."""
    return next(line for line in iter(server.process.stderr.readline, "") if text in line)


def get(server, path, body=None):
    """Over a connection of its own, which may end up with either worker."""
    try:
        with urllib.request.urlopen(f"http://{server.address}{path}", body, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def counted(server, name):
    """A metric's sum over its series."""
    text = get(server, "/metrics")[1]
    return sum(float(value) for value in re.findall(rf"^{name}(?:[{{,][^}}]*}})? (\S+)$", text, re.MULTILINE))


def workers(server):
    """Their process ids."""
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line]


def test_connections_are_spread_evenly_over_the_workers(server):
    def open_sockets():
        folders = [Path(f"/proc/{pid}/fd") for pid in workers(server)]
        return [sum(str(entry.readlink()).startswith("socket:") for entry in folder.iterdir()) for folder in folders]

    host, port = server.address.split(":")
    before = open_sockets()
    connections = [http.client.HTTPConnection(host, int(port), timeout=30) for _ in range(12)]
    try:
        for connection in connections:
            connection.request("POST", "/models/double/predict", ROW)
            assert connection.getresponse().read()
        assert [now - then for now, then in zip(open_sockets(), before, strict=True)] == [6, 6]
    finally:
        for connection in connections:
            connection.close()


def test_requests_and_statistics_of_all_workers_are_added_up(server):
    before = counted(server, "quartet_requests_total")
    with ThreadPoolExecutor(8) as pool:
        statuses = list(pool.map(lambda _: get(server, "/models/double/predict", ROW)[0], range(64)))
    assert statuses == [200] * 64
    assert counted(server, "quartet_requests_total") == before + 64
    assert counted(server, "quartet_build_info") == 1
    for name in ("nv_inference_request_success", "quartet_request_seconds_count", "quartet_queue_seconds_count"):
        assert counted(server, name) == before + 64
    assert "# TYPE nv_inference_request_success counter\n" in get(server, "/metrics")[1]
    (statistics,) = json.loads(get(server, "/v2/models/double/stats")[1])["model_stats"]
    assert statistics["inference_stats"]["success"]["count"] == before + 64
    assert sum(batch["batch_size"] * batch["compute_infer"]["count"] for batch in statistics["batch_stats"]) == before + 64


def rpc_address(server):
    return next(found[1] for line in server.log if (found := re.search(r"gRPC on (\S+)", line)))


def test_over_grpc_too_they_are_one_service(server):
    row = triton.InferInput("x", [1, 2], "FP32")
    row.set_data_from_numpy(np.array([[1, 2]], np.float32))

    def asked(question):
        """Over connections of their own, which either worker may get."""
        found = []
        for number in range(12):
            alone = [("grpc.use_local_subchannel_pool", 1), ("number", number)]
            with triton.InferenceServerClient(rpc_address(server), channel_args=alone) as client:
                found.append(question(client))
        return found

    def answered(client):
        return client.get_inference_statistics("double").model_stats[0].inference_stats.success.count

    before = asked(answered)
    assert asked(lambda client: client.is_server_ready()) == [True] * 12
    asked(lambda client: client.infer("double", [row]))
    assert asked(answered) == [before[0] + 12] * 12
    assert counted(server, 'quartet_requests_total{interface="grpc"') == 12
    micro.publish_double(server.root)
    with triton.InferenceServerClient(rpc_address(server)) as client:
        client.load_model("double")
    newest = str(Repository(server.root).versions("double")[-1])
    assert asked(lambda client: client.get_model_metadata("double").versions) == [[newest]] * 12


def test_what_one_worker_is_told_to_load_or_unload_all_do(server):
    micro.publish_double(server.root)
    assert get(server, "/v2/repository/models/double/load", b"")[0] == 200
    answers = [json.loads(get(server, "/models/double/predict", ROW)[1])["model_version"] for _ in range(20)]
    assert answers == [str(Repository(server.root).versions("double")[-1])] * 20
    assert get(server, "/v2/repository/models/double/unload", b"")[0] == 200
    assert [get(server, "/models/double/predict", ROW)[0] for _ in range(20)] == [404] * 20
    assert get(server, "/v2/repository/models/double/load", b"")[0] == 200
    assert [get(server, "/models/double/predict", ROW)[0] for _ in range(20)] == [200] * 20


def test_a_worker_that_dies_is_started_again_while_the_other_answers(server):
    first, other = workers(server)
    os.kill(first, signal.SIGKILL)
    assert "ended with status -9" in next_line(server, "is started again")
    assert get(server, "/v2/health/ready")[0] == 200
    assert [get(server, "/models/double/predict", ROW)[0] for _ in range(20)] == [200] * 20
    next_line(server, "serving 1 models")
    assert [get(server, "/models/double/predict", ROW)[0] for _ in range(20)] == [200] * 20
    assert other in workers(server)
    assert len(workers(server)) == 2


def test_they_end_with_the_process_that_started_them(server):
    server.process.kill()
    log = server.process.stderr.read()  # which ends when no worker holds the pipe any more
    assert log.count("the process that started this worker is gone: it ends") == 2


def test_what_cannot_start_ends_all_of_them_with_a_message(tmp_path):
    command = [sys.executable, "-m", "service", "--repository", str(tmp_path / "none"), "--port", "0", "--workers", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert "give the folder that `python -m export` published to" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_connection_that_changes_hands_is_lost_when_they_end(tmp_path):
    """Each request comes over a connection of its own, from before SIGTERM until the delay is nearly over."""
    micro.publish_double(tmp_path)
    with serving(tmp_path, "--workers", "2", "--drain-delay", "1") as running:
        over = threading.Event()

        def go_on():
            statuses = []
            while not over.is_set():
                statuses.append(get(running, "/models/double/predict", ROW)[0])
            return statuses

        with ThreadPoolExecutor(4) as pool:
            asking = [pool.submit(go_on) for _ in range(4)]
            while counted(running, "quartet_requests_total") < 200:
                pass
            running.process.send_signal(signal.SIGTERM)
            over.wait(0.7)
            over.set()
            statuses = [status for asked in asking for status in asked.result()]
        assert len(statuses) > 200
        assert set(statuses) == {200}
        assert running.process.wait(30) == 0


def test_sigterm_is_told_over_both_ports_while_they_still_answer_and_ends_all_of_them_in_good_order(tmp_path):
    micro.publish_double(tmp_path)
    with (
        serving(tmp_path, "--workers", "2", "--grpc-port", "0", "--drain-delay", "0.5") as running,
        grpc.insecure_channel(rpc_address(running)) as channel,
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest())
        while next(watched).status != health_pb2.HealthCheckResponse.SERVING:
            pass
        running.process.send_signal(signal.SIGTERM)
        assert next(watched).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert get(running, "/v2/health/ready")[0] == 503
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert get(running, "/models/double/predict", ROW)[0] == 200
        assert list(watched) == []
        assert running.process.wait(30) == 0
        assert "Traceback" not in running.process.stderr.read()
