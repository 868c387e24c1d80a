"""Locust's users at a real server, as `make loadtest` sends them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modelrepo.repository import Repository
from modelrepo.tasks import Multiclass
from tests import micro
from tests.server import serving

pytestmark = pytest.mark.slow  # each run of Locust takes some seconds

ROOT = Path(__file__).parents[2]


def locust(*options):
    command = [
        sys.executable,
        "-m",
        "locust",
        "-f",
        "loadtests/locustfile.py",
        "--headless",
        "--only-summary",
        "-u",
        "5",
        "-t",
        "3s",
    ]
    return subprocess.run([*command, *options], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def limits(path, text):
    path.write_text(text)
    return str(path)


def test_every_interface_is_called_and_every_answer_is_right(url, root, tmp_path):
    slo = limits(tmp_path / "slo.toml", "[all]\nerror_rate = 0\np99_ms = 5000")
    csv, html = tmp_path / "report", tmp_path / "report.html"
    done = locust("--host", url, "--repository", str(root), "--slo", slo, "--csv", str(csv), "--html", str(html), "--pace", "20")
    assert done.returncode == 0, done.stderr
    table = (tmp_path / "report_stats.csv").read_text()
    for endpoint in ("v2-json double", "v2-binary mean", "predict table", "text text", "images picture"):
        assert f"POST,{endpoint}," in table
    assert html.stat().st_size


def test_a_broken_limit_is_named_and_ends_in_a_status_of_its_own(url, tmp_path):
    done = locust("--host", url, "--slo", limits(tmp_path / "slo.toml", "[all]\np50_ms = 0.001"), "--shape", "spike")
    assert done.returncode == 1
    assert "limit broken: all: p50 is" in done.stderr


def test_an_answer_that_differs_from_the_golden_row_is_an_error(url, tmp_path):
    inputs = {"x": np.arange(8, dtype=np.float32).reshape(4, 2)}
    with Repository(tmp_path / "other").stage("double") as staging:
        micro.write_double(staging.path / "model.onnx", factor=3.0)
        micro.finish(staging, micro.DOUBLE, Multiclass(labels=("a", "b")), inputs, {"logits": inputs["x"] * 3})
    slo = limits(tmp_path / "slo.toml", "[all]\nerror_rate = 0")
    done = locust("--host", url, "--repository", str(tmp_path / "other"), "--models", "0 double=1", "--slo", slo, "--pace", "0")
    assert done.returncode == 1
    assert "limit broken: all: error rate is" in done.stderr
    assert "double:1 answered wrongly" in done.stdout + done.stderr


def test_what_is_refused_is_counted_apart(tmp_path):
    micro.publish_double(tmp_path / "models")
    slo = limits(tmp_path / "slo.toml", "[all]\nerror_rate = 0\nrefusal_rate = 0")
    with serving(tmp_path / "models", "--max-queue-rows", "1", "--max-queue-delay-ms", "50") as server:
        done = locust("--host", server.url, "--pace", "0", "-u", "20", "--slo", slo)
    assert done.returncode == 1
    assert "refusal rate" in done.stderr
    assert "error rate" not in done.stderr
    assert "REFUSED" in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--models", "nobody=1"), "there is a weight for 'nobody'"),
        (("--interfaces", "0"), "there is nothing to call"),
        (("--pace", "-1"), "--pace is -1.0"),
        (("--slo", "no-such.toml"), "limits cannot be read from no-such.toml"),
        (("--host", "http://127.0.0.1:9"), "does not answer"),
    ],
)
def test_what_cannot_be_done_is_said_before_anything_is_sent(url, options, why):
    done = locust("--host", url, *options)
    assert done.returncode == 2
    assert why in done.stderr
