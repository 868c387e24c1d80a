"""GitHub's workflows: the same verbs as .ci/run, actions that cannot change unseen, no more rights than needed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def verbs(text):
    return set(re.findall(r"\bmake (?:--silent )?([a-z-]+)", re.sub(r"#.*", "", text)))


def steps(path):
    return [step for job in yaml.safe_load(path.read_text())["jobs"].values() for step in job["steps"]]


def test_both_ask_for_what_ci_run_asks_for():
    wanted = verbs((ROOT / ".ci/run").read_text())
    assert wanted == {"lint", "test"}
    for path in WORKFLOWS:
        assert verbs("\n".join(step.get("run", "") for step in steps(path))) >= wanted


@each
def test_every_verb_exists(path):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert verbs("\n".join(step.get("run", "") for step in steps(path))) <= known


@each
def test_actions_are_pinned_by_commit_with_their_release_in_a_comment(path):
    used = re.findall(r"uses: (.*)", path.read_text())
    assert used
    for action in used:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action)


@each
def test_rights_are_reading_unless_a_job_says_so_and_every_job_ends(path):
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow[True]  # YAML takes the key `on` for a truth value
    for job in workflow["jobs"].values():
        assert job["timeout-minutes"] <= 75


@each
def test_nothing_from_outside_is_pasted_into_a_shell(path):
    for step in steps(path):
        assert "${{" not in step.get("run", "")


def test_every_image_is_published():
    targets = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())["jobs"]["images"]["strategy"]["matrix"]["target"]
    assert targets == ["cpu", "gpu", "gpu-tensorrt", "trainer", "loadtest"]
