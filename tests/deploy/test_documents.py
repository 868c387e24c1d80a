"""What is written by a program is what that program writes, and what points somewhere points to something."""

from __future__ import annotations

import json
import re
import runpy

import pytest
import yaml

from tests.deploy.chart import CHART, DEPLOY

REMEDY = "run it again and commit what it writes"


def test_the_readme_and_the_schema_of_the_chart_are_as_values_and_settings_are():
    script = runpy.run_path(str(DEPLOY / "helm" / "generate.py"))
    readme, values, schema = ((CHART / name).read_text() for name in ("README.md", "values.yaml", "values.schema.json"))
    assert script["readme"](readme, values) == readme, f"deploy/helm/generate.py: {REMEDY}"
    assert script["schema"](schema) == schema, f"deploy/helm/generate.py: {REMEDY}"
    described = {path for path, _, _ in script["rows"](values)}
    leaves = set()

    def walk(found, path):
        for name, value in found.items():
            walk(value, (*path, name)) if isinstance(value, dict) and value else leaves.add(".".join((*path, name)))

    walk(yaml.safe_load(values), ())
    assert leaves <= described


def test_the_dashboard_is_what_its_program_makes():
    script = runpy.run_path(str(DEPLOY / "grafana" / "dashboard.py"))
    made = json.loads(json.dumps(script["dashboard"]()))
    assert json.loads((DEPLOY / "grafana" / "quartet.json").read_text()) == made, f"deploy/grafana/dashboard.py: {REMEDY}"


def test_panels_do_not_overlap_and_their_numbers_differ():
    panels = json.loads((DEPLOY / "grafana" / "quartet.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells


def alerts():
    groups = yaml.safe_load((DEPLOY / "prometheus" / "quartet.rules.yaml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_leads_to_its_place_in_the_runbook(alert):
    file, anchor = alert["annotations"]["runbook_url"].split("#")
    text = (DEPLOY.parent / file).read_text()
    sections = dict(re.findall(r"^#{2,3} (\w+)\n((?:(?!^#).*\n)*)", text, re.MULTILINE))
    assert anchor == alert["alert"].lower()
    section = sections[alert["alert"]]
    for part in ("**Means**", "**Look at**", "**Do**"):
        assert part in section
    assert alert["labels"]["severity"] in ("critical", "warning")


def test_the_runbook_has_no_alert_that_is_gone():
    text = (DEPLOY / "RUNBOOK.md").read_text()
    assert set(re.findall(r"^### (Quartet\w+)$", text, re.MULTILINE)) == {alert["alert"] for alert in alerts()}


def test_what_the_runbook_names_is_there():
    text = (DEPLOY / "RUNBOOK.md").read_text()
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        assert (DEPLOY / link).exists(), link
    source = "".join(path.read_text() for path in (DEPLOY.parent / "service").rglob("*.py"))
    for metric in set(re.findall(r"quartet_[a-z_]+", text)):
        assert re.sub(r"_(total|sum|count|bucket)$", "", metric) in source, metric
