"""Rollouts on real servers under load: two workers, killed in the middle, and not one request lost."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.request
from collections import Counter
from contextlib import contextmanager

import pytest

from service.rollout.__main__ import main
from tests import micro
from tests.server import serving

BODY = json.dumps({"instances": [[1, 2]]})


@contextmanager
def load(address, callers=4):
    """Requests without a pause, each caller on a connection of its own: who answered, by version or by what went wrong."""
    seen, ended = Counter(), threading.Event()

    def call(number):
        connection = http.client.HTTPConnection(address, timeout=30)
        headers = {"Quartet-Sticky-Key": f"caller-{number}"} if number % 2 else {}
        while not ended.is_set():
            try:
                connection.request("POST", "/models/double/predict", BODY, headers)
                answer = connection.getresponse()
                content = json.loads(answer.read())
                seen[content["model_version"] if answer.status == 200 else f"{answer.status}: {content}"] += 1
            except (OSError, http.client.HTTPException) as error:
                seen[repr(error)] += 1
                connection.close()
            if seen.total() % 50 == 0:
                connection.close()  # the next one may end up with another worker
        connection.close()

    threads = [threading.Thread(target=call, args=(number,)) for number in range(callers)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        ended.set()
        for thread in threads:
            thread.join()


@pytest.fixture
def order(capsys):
    """`python -m service.rollout`, in this process: its status and output."""

    def order(server, *arguments):
        status = main([*arguments, "--server", server.url])
        told = capsys.readouterr()
        return status, told.out + told.err

    return order


def workers(server):
    found = subprocess.run(
        ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(server.process.pid)], capture_output=True, text=True, check=True
    )
    return [int(line.split()[0]) for line in found.stdout.splitlines() if "spawn_main" in line]


def metric(server, name):
    with urllib.request.urlopen(f"{server.url}/metrics", timeout=30) as answer:
        found = re.findall(rf"^{name}\{{.*\}} (\S+)$", answer.read().decode(), re.MULTILINE)
    return sum(map(float, found))


def test_a_worse_version_is_caught_by_shadow_and_a_slow_one_by_canary_with_nothing_lost_by_two_workers(tmp_path, order):
    models, state = tmp_path / "models", tmp_path / "state"
    micro.publish_double(models)
    limits = "requests=100 promote=200 seconds=0 mean=3"
    with serving(models, "--workers", "2", "--rollout-state", str(state), "--rollout-limits", limits) as server:
        while "serving" not in server.process.stderr.readline():  # the other worker
            pass
        threading.Thread(target=server.process.stderr.read, daemon=True).start()  # else the pipe fills up
        assert order(server, "show") == (0, "nothing was rolled out yet\n")
        status, text = order(server, "promote", "double")
        assert (status, "no rollout is under way" in text) == (1, True)
        with pytest.raises(SystemExit, match="2"):
            order(server, "start", "double", "canary:10,blue:3")
        with load(server.address) as seen:
            micro.publish_times(models, -2.0)
            assert order(server, "start", "double", "shadow:50", "--by", "ann")[0] == 0
            status, text = order(server, "wait", "double", "--timeout", "20")
            assert (status, "disagree" in text) == (3, True), text
            assert set(seen) == {"1"}, "the worse version answered nobody"

            micro.publish_times(models, 3.0, work=12)
            assert order(server, "start", "double", "canary:50")[0] == 0
            status, text = order(server, "wait", "double", "--timeout", "20")
            assert (status, "times the stable version's" in text) == (3, True), text

            micro.publish_times(models, 3.0)
            assert order(server, "start", "double", "shadow:50,canary:50")[0] == 0
            status, text = order(server, "wait", "double", "--timeout", "20")
            assert (status, "double:4 was promoted" in text) == (0, True), text
            before = Counter(seen)
            time.sleep(0.2)
        assert set(seen - before) == {"4"}
        assert set(seen) <= {"1", "3", "4"}, f"something was lost: {seen}"
        assert metric(server, "quartet_rollouts_total") == 3
        steps = [json.loads(line)["to"] for line in (state / "audit.jsonl").read_text().splitlines()]
        assert steps.count("rolled back") == 2
        assert steps[-1] == "promoted", "once, not by each worker"
    status, text = order(server, "show", "double")
    assert (status, "refused" in text) == (1, True)


def test_killed_in_the_middle_a_worker_and_then_all_of_them_go_on_with_the_same_share(tmp_path, order):
    models = tmp_path / "models"
    micro.publish_double(models)
    options = ("--workers", "2", "--rollout-state", str(tmp_path / "state"))
    with serving(models, *options) as server:
        while "serving" not in server.process.stderr.readline():
            pass
        micro.publish_times(models, 3.0)
        assert order(server, "start", "double", "canary:20", "--limits", "mean=none")[0] == 0
        os.kill(workers(server)[0], signal.SIGKILL)
        while "serving" not in server.process.stderr.readline():
            pass
        assert 0 < share(server.address) < 0.5
        server.process.kill()
        server.process.stderr.read()  # ends with the last worker
    with serving(models, *options[2:]) as server:
        assert share(server.address) < 0.5, "from the first answer on"
        status, text = order(server, "rollback", "double")
        assert (status, "double:2 was rolled back" in text) == (0, True), text
        assert share(server.address) == 0


def share(address, requests=100):
    """Of version 2, over as many connections."""
    seen = Counter()
    for _ in range(requests):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("POST", "/models/double/predict", BODY)
        seen[json.loads(connection.getresponse().read())["model_version"]] += 1
        connection.close()
    assert set(seen) <= {"1", "2"}
    return seen["2"] / requests
