"""One version in code, chart, compose file and what bumps them."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
VERSION = PROJECT["project"]["version"]
BUMP = PROJECT["tool"]["bumpversion"]


@pytest.mark.parametrize("name", ["compose.yaml", "compose.gpu.yaml"])
def test_the_compose_files_have_the_version_of_the_code(name):
    assert set(re.findall(r"QUARTET_VERSION:-([^}]+)\}", (ROOT / "deploy" / name).read_text())) == {VERSION}


def test_the_chart_has_the_version_of_the_code():
    chart = ROOT / "deploy/helm/quartet/Chart.yaml"
    if not chart.exists():
        pytest.skip("the chart is not there yet")
    facts = yaml.safe_load(chart.read_text())
    assert (facts["version"], facts["appVersion"]) == (VERSION, VERSION)


def test_what_bumps_the_version_finds_each_place():
    assert BUMP["current_version"] == VERSION
    for file in BUMP["files"]:
        path = ROOT / file["filename"]
        if path.parent.name in {"quartet", "kserve"} and not path.exists():
            continue  # the chart and the manifests are not there yet
        assert file["search"].format(current_version=VERSION) in path.read_text(), f"{path}: {file['search']!r}"


def test_no_other_file_of_deploy_names_the_version():
    bumped = {str(ROOT / file["filename"]) for file in BUMP["files"]}
    image = re.compile(rf"quartet[:-]\S*{re.escape(VERSION)}")
    named = [
        str(path)
        for path in (ROOT / "deploy").rglob("*")
        if path.suffix in {".yaml", ".yml"} and "requirements" not in path.parts and image.search(path.read_text())
    ]
    assert set(named) <= bumped
