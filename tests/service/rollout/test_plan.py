"""Stages, limits and rules, as settings and orders write them."""

from __future__ import annotations

import pytest

from service import settings
from service.rollout import plan
from service.rollout.plan import Limits, Rules, Stage
from service.settings import SettingsError


def test_stages_are_read_in_percent_and_shown_as_they_were_written():
    found = plan.stages("shadow:20, canary:2.5,canary:0")
    assert found == (Stage("shadow", 0.2), Stage("canary", 0.025), Stage("canary", 0.0))
    assert ",".join(map(str, found)) == "shadow:20,canary:2.5,canary:0"


@pytest.mark.parametrize(
    "text", ["", "canary", "canary:101", "canary:-1", "blue:10", "canary:10,,shadow:1", "canary:1e1", "canary:ten"]
)
def test_what_is_no_stage_is_named(text):
    with pytest.raises(ValueError, match="is not a stage: shadow:PERCENT or canary:PERCENT, 0 to 100"):
        plan.stages(text)


def test_limits_keep_their_defaults_but_for_those_that_are_given():
    found = plan.limits("requests=50 errors=0.01 mean=none promote=1000")
    assert found == Limits(requests=50, errors=0.01, mean=None, promote=1000)
    assert plan.limits_of({"errors": None}, found) == Limits(requests=50, errors=None, mean=None, promote=1000)


@pytest.mark.parametrize(
    "text",
    [
        "error=0.1",
        "errors",
        "errors=",
        "errors=two",
        "errors=1.5",
        "mean=1",
        "requests=0",
        "requests=1.5",
        "tolerance=-1",
        "errors=nan",
        "p99=inf",
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(text):
    with pytest.raises(ValueError, match=text.partition("=")[0]):
        plan.limits(text)


def test_one_rule_holds_for_all_models_and_others_by_name():
    rules = Rules.parse("canary:10 digits=shadow:20,canary:5 spirals=none")
    assert rules.of("any") == (Stage("canary", 0.1),)
    assert rules.of("digits") == (Stage("shadow", 0.2), Stage("canary", 0.05))
    assert rules.of("spirals") is None
    assert Rules.parse("").of("any") is None


def test_a_rule_needs_a_folder_or_versions_that_say_what_is_proven(tmp_path):
    base = ["--repository", str(tmp_path), "--rollout"]
    with pytest.raises(SettingsError, match="--rollout-state .*needs a folder that outlives the process"):
        settings.read([*base, "canary:10"])
    with pytest.raises(SettingsError, match="--rollout-state"):
        settings.read([*base, "a=canary:10 b=canary:10", "--versions", "a=1"])
    assert settings.read([*base, "canary:10", "--rollout-state", str(tmp_path)]).rollout_state == tmp_path
    assert settings.read([*base, "a=canary:10 b=none", "--versions", "a=1"]).rollout_state is None


@pytest.mark.parametrize(("option", "value"), [("--rollout", "a=canary"), ("--rollout-limits", "mean=0.5")])
def test_settings_that_cannot_be_meant_name_the_option(tmp_path, option, value):
    with pytest.raises(SettingsError, match=rf"{option} \(or QUARTET_SERVE_"):
        settings.read(["--repository", str(tmp_path), option, value])
