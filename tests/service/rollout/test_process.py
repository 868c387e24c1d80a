"""Rollouts on real servers under load: two workers, killed in the middle, and not one request lost."""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import threading
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


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Two workers; the tests below go on where the one before ended."""
    root = tmp_path_factory.mktemp("rollouts")
    micro.publish_double(root / "models")
    options = ("--rollout-state", str(root / "state"), "--rollout-limits", "requests=100 mean=3")
    with serving(root / "models", "--workers", "2", *options) as running:
        running.root, running.options = root, options
        next_line(running, "serving 1 models")  # of the other worker
        yield running


def next_line(server, text):
    return next(line for line in iter(server.process.stderr.readline, "") if text in line)


def test_the_command_says_what_is_wrong(server, order):
    assert order(server, "show") == (0, "nothing was rolled out yet\n")
    status, text = order(server, "promote", "double")
    assert (status, "no rollout is under way" in text) == (1, True)
    with pytest.raises(SystemExit, match="2"):
        order(server, "start", "double", "canary:10,blue:3")


def test_under_load_a_worse_version_is_caught_by_shadow_and_a_slow_one_by_canary_with_nothing_lost(server, order):
    with load(server.address) as seen:
        micro.publish_times(server.root / "models", -2.0)
        assert order(server, "start", "double", "shadow:50", "--by", "ann")[0] == 0
        status, text = order(server, "wait", "double", "--timeout", "20")
        assert (status, "disagree" in text) == (3, True), text
        assert set(seen) == {"1"}, "the worse version answered nobody"

        micro.publish_times(server.root / "models", 3.0, work=12)
        assert order(server, "start", "double", "canary:50")[0] == 0
        status, text = order(server, "wait", "double", "--timeout", "20")
        assert (status, "times the stable version's" in text) == (3, True), text
    assert set(seen) == {"1", "3"}, f"something was lost: {seen}"
    assert metric(server, "quartet_rollouts_total") == 2, "once each, not by each worker"
    steps = [json.loads(line)["to"] for line in (server.root / "state/audit.jsonl").read_text().splitlines()]
    assert steps == ["proposed", "shadow:50", "rolled back", "proposed", "canary:50", "rolled back"]


def test_killed_in_the_middle_a_worker_and_then_all_of_them_go_on_with_the_same_share(server, order):
    micro.publish_times(server.root / "models", 3.0)
    assert order(server, "start", "double", "canary:20", "--limits", "mean=none")[0] == 0
    os.kill(workers(server)[0], signal.SIGKILL)
    next_line(server, "serving 2 models")  # not ready, nor listening, before it has both versions
    assert 0 < share(server.address) < 0.5
    server.process.kill()
    server.process.stderr.read()  # ends with the last worker
    status, text = order(server, "show", "double")
    assert (status, "refused" in text) == (1, True)
    with serving(server.root / "models", *server.options) as again:
        assert share(again.address) < 0.5, "from the first answer on"
        status, text = order(again, "rollback", "double")
        assert (status, "double:4 was rolled back" in text) == (0, True), text
        assert share(again.address) == 0


def share(address, requests=100):
    """Of version 4, over as many connections."""
    seen = Counter()
    for _ in range(requests):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("POST", "/models/double/predict", BODY)
        seen[json.loads(connection.getresponse().read())["model_version"]] += 1
        connection.close()
    assert set(seen) <= {"1", "4"}
    return seen["4"] / requests
