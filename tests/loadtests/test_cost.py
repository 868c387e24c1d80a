"""What a feature costs is measured on servers that answer rightly."""

from __future__ import annotations

import re

import pytest

from loadtests import cost
from tests import micro


def test_every_variant_answers_and_is_held_against_the_plain_server(tmp_path, capsys, monkeypatch):
    micro.publish_double(tmp_path)
    monkeypatch.setattr(cost, "VARIANTS", {name: options for name, options in cost.VARIANTS.items() if "key" in name})
    assert cost.main(["--repository", str(tmp_path), "--model", "double", "--rounds", "1"]) == 0
    rows = dict(re.findall(r"^\| (.+) \| [0-9.]+ \| ([0-9.]+) \|$", capsys.readouterr().out, re.MULTILINE))
    assert set(rows) == {cost.PLAIN, "an API key asked for"}
    assert rows[cost.PLAIN] == "1.000"


def test_a_server_that_ends_is_told_with_what_it_said(tmp_path):
    with pytest.raises(SystemExit, match=r"ended, status 1:[\s\S]+holds no models"):
        cost.main(["--repository", str(tmp_path), "--rounds", "1"])
