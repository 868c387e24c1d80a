"""The Prometheus rules: their unit tests are promtool's own."""

from __future__ import annotations

import shutil
import subprocess

import pytest
import yaml

from service.metrics import SECONDS
from tests.deploy.chart import CHART, DEPLOY

PROMETHEUS = DEPLOY / "prometheus"


def promtool(*arguments):
    if shutil.which("promtool") is None:
        pytest.skip("promtool is not installed: apt-get install --no-install-recommends prometheus")
    done = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_not_otherwise():
    assert promtool("test", "rules", "quartet.rules.test.yaml") == (0, "Unit Testing:  quartet.rules.test.yaml\n  SUCCESS\n\n")


def test_the_configuration_for_compose_is_one_that_prometheus_takes():
    for arguments in (("prometheus.yml",), ("--syntax-only", "prometheus.keys.yml")):  # whose key is not here
        status, output = promtool("check", "config", *arguments)
        assert status == 0, output


def test_every_alert_has_a_case_in_which_it_fires_and_one_in_which_it_does_not():
    groups = yaml.safe_load((PROMETHEUS / "quartet.rules.yaml").read_text())["groups"]
    names = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    cases = [
        case
        for test in yaml.safe_load((PROMETHEUS / "quartet.rules.test.yaml").read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in cases if case["exp_alerts"]} == names
    assert {case["alertname"] for case in cases if not case["exp_alerts"]} == names


def test_the_chart_has_these_very_files():
    for name, source in (("quartet.rules.yaml", "prometheus"), ("quartet.json", "grafana")):
        assert (CHART / "files" / name).resolve() == DEPLOY / source / name


def test_the_slow_requests_of_the_chart_are_buckets_of_the_histogram():
    schema = yaml.safe_load((CHART / "values.schema.json").read_text())
    offered = schema["properties"]["prometheusRule"]["properties"]["slowSeconds"]["enum"]
    assert set(offered) <= set(SECONDS)
