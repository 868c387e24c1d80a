"""The program the chart ships: what `helm test` runs."""

from __future__ import annotations

import runpy
import subprocess
import sys

import pytest

from tests import micro
from tests.deploy.chart import CHART
from tests.server import serving

PREDICT = str(CHART / "files" / "predict.py")


def run(*arguments):
    command = [sys.executable, "-I", PREDICT, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_helm_test_says_where_nobody_answers():
    done = run("http://127.0.0.1:1")
    assert done.returncode == 1
    assert done.stderr.startswith("http://127.0.0.1:1: <urlopen error")


def test_helm_test_passes_where_every_model_gives_its_golden_answer(tmp_path):
    micro.publish_double(tmp_path)
    micro.publish_mean(tmp_path)
    with serving(tmp_path) as server:
        done = run(server.url)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(done.stdout.splitlines()) == [f"/v2/models/{name}/infer: the golden answer" for name in ("double", "mean")]


def tensor(*data):
    return {"outputs": [{"name": "y", "data": list(data)}]}


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        pytest.param(tensor(1.0, -20.4), 0, id="near enough"),
        pytest.param(tensor(1.0, -23.0), 1, id="another number"),
        pytest.param(tensor(1.0), 1, id="too few"),
        pytest.param({"outputs": []}, 1, id="no output"),
    ],
)
def test_helm_test_compares_what_comes_with_what_the_document_says(monkeypatch, answer, status):
    predict = runpy.run_path(PREDICT)
    body = {"requestBody": {"content": {"application/json": {"schema": {"example": {"inputs": []}}}}}}
    responses = {"responses": {"200": {"content": {"application/json": {"schema": {"example": tensor(1.0, -20.0)}}}}}}
    document = {"paths": {"/v2/models/m/infer": {"post": {**body, **responses}}, "/v2/models/{model}/ready": {}}}
    monkeypatch.setitem(predict["main"].__globals__, "ask", lambda url, body=None: document if body is None else answer)
    assert predict["main"]("http://x") == status


def test_helm_test_fails_where_nothing_can_be_asked(monkeypatch):
    predict = runpy.run_path(PREDICT)
    monkeypatch.setitem(predict["main"].__globals__, "ask", lambda url, body=None: {"paths": {}})
    assert predict["main"]("http://x") == 1
