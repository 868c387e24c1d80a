"""A real Prometheus scrapes a real server under load: every query of dashboard, rules and scalers finds what it asks for."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager

import pytest
import yaml

from loadtests.server import free_port
from service.keys import file
from service.keys.file import Key, digest
from tests import micro
from tests.deploy.chart import DEPLOY, feature, one
from tests.references import PEOPLE, TABLE
from tests.server import serving

RULES = DEPLOY / "prometheus" / "quartet.rules.yaml"
# Not to be had here: of a GPU, and what kube-state-metrics exports.
ELSEWHERE = ("quartet_gpu_", "kube_")
KEY = "quartet_for_this_test"
WORDS = {"and", "or", "unless"}


class Prometheus:
    """Asked over HTTP."""

    def __init__(self, port):
        self._url = f"http://127.0.0.1:{port}/api/v1/query?"

    def ask(self, expression):
        """What it finds that is a number."""
        with urllib.request.urlopen(self._url + urllib.parse.urlencode({"query": expression}), timeout=30) as answer:
            return [series for series in json.load(answer)["data"]["result"] if series["value"][1] != "NaN"]

    def until_answered(self, expressions, seconds=30):
        """Wait until each of these finds something; those that do not are the failure."""
        end, open_ = time.monotonic() + seconds, list(expressions)
        while open_ := [expression for expression in open_ if not self.ask(expression)]:
            assert time.monotonic() < end, "nothing is found by\n" + "\n".join(open_)
            time.sleep(0.1)


@contextmanager
def scraping(folder, address):
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install --no-install-recommends prometheus")
    # The labels that Kubernetes' discovery would give.
    target = {"targets": [address], "labels": {"namespace": "models", "pod": "quartet-7d9c5b7f6-x2x9z"}}
    config = {
        "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
        "rule_files": [str(RULES)],
        "scrape_configs": [{"job_name": "quartet", "static_configs": [target], "authorization": {"credentials": KEY}}],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder / "data",
        "web.listen-address": f"127.0.0.1:{port}",
    }
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            prometheus = Prometheus(port)
            while True:
                assert process.poll() is None, (folder / "log").read_text()
                try:
                    if prometheus.ask("up"):
                        break
                except (urllib.error.URLError, ConnectionError):
                    pass  # it does not listen yet
                time.sleep(0.05)
            yield prometheus
        finally:
            process.kill()


def post(url, body):
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Authorization": f"Bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.status


def load(url):
    for value in range(20):
        assert post(f"{url}/models/double/predict", {"instances": [[value, 1]] * 3}) == 200
        x = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [value, 1]}
        assert post(f"{url}/v2/models/double/infer", {"inputs": [x]}) == 200
        assert post(f"{url}/models/mean/predict", {"instances": [[[value]] * (value % 12 + 1)]}) == 200


def panels():
    """(row, expression) of every query, as Grafana would send it with All chosen."""
    row = ""
    for panel in json.loads((DEPLOY / "grafana" / "quartet.json").read_text())["panels"]:
        row = panel["title"] if panel["type"] == "row" else row
        for target in panel.get("targets", []):
            expression = target["expr"].replace("$__rate_interval", "1m").replace("$job", "quartet")
            yield row, re.sub(r"\$(namespace|model)", ".*", expression)


def metrics(expression):
    """The names of the series that an expression reads."""
    bare = re.sub(r'\{[^}]*\}|\[[^]]*\]|"[^"]*"|\b(by|on) *\([^)]*\)|offset \w+', " ", expression)
    return {name for name in re.findall(r"[a-zA-Z_][\w:]*(?![\w:]*\s*\()", bare) if name not in WORDS}


@pytest.mark.slow
def test_every_query_finds_data_and_alerts_find_the_faults_that_are_made(tmp_path):
    models = tmp_path / "models"
    micro.publish_double(models)
    micro.publish_mean(models)
    micro.publish_table(models, reference=TABLE)
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule["expr"] for rule in rules if "alert" in rule}
    keys = tmp_path / "keys.json"
    file.write(keys, (Key(name="prometheus", sha256=digest(KEY).hex(), scopes=("infer", "admin")),))
    store = (f"file://{models}", "--cache", str(tmp_path / "cache"), "--rollout-state", str(tmp_path / "rollouts"))
    with (
        serving(*store, "--keys", str(keys), "--workers", "2", "--response-cache-bytes", "1000000") as server,
        scraping(tmp_path, server.address) as prometheus,
    ):
        micro.publish_mean(models)
        assert post(f"{server.url}/v2/repository/models/mean/rollout/start", {"stages": "shadow:100"}) == 200
        load(server.url)
        assert post(f"{server.url}/models/table/predict", {"instances": PEOPLE[:250].tolist()}) == 200
        micro.publish_double(models, factor=2.5)  # whose golden rows come out wrong
        prometheus.until_answered(['quartet_loads_total{result="failed"} == 0', "quartet_shadow_rows_total"])
        assert post(f"{server.url}/models/table/predict", {"instances": PEOPLE[:250].tolist()}) == 200
        load(server.url)  # rates need a rise between two scrapes
        with pytest.raises(urllib.error.HTTPError, match="422"):
            post(f"{server.url}/v2/repository/models/double/load", {})

        by_row = list(panels())
        ours = [expression for _, expression in by_row if not expression.startswith(ELSEWHERE)]
        assert {row for row, expression in by_row if expression.startswith(ELSEWHERE)} == {"GPU"}
        triggers = [trigger["metadata"] for trigger in one(feature("keda"), "ScaledObject")["spec"]["triggers"]]
        scalers = [metadata["query"] for metadata in triggers if "query" in metadata]
        read = {name for expression in alerts.values() for name in metrics(expression) if not name.startswith(ELSEWHERE)}
        recorded = [rule["record"] for rule in rules if "record" in rule]
        assert "quartet_artifacts_skipped_total" in read
        prometheus.until_answered([*ours, *scalers, *recorded, *read])
        for expression in (expression for _, expression in by_row if expression.startswith(ELSEWHERE)):
            assert prometheus.ask(expression) == [], "there is no GPU, but Prometheus takes the query"

        prometheus.until_answered([alerts["QuartetGoldenFailure"], alerts["QuartetLoadFailed"]])
        faults = {"QuartetGoldenFailure", "QuartetLoadFailed"}
        busy = {"QuartetEventLoopLag"}  # here for moments, where the machine has more to do; the alert takes ten minutes of it
        assert {name for name, expression in alerts.items() if prometheus.ask(expression)} - busy == faults, "and no other alert"

        server.stop(signal.SIGTERM)
        prometheus.until_answered([alerts["QuartetDown"]])
