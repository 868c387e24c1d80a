from __future__ import annotations

import pytest

from service.versions import VersionPolicy


@pytest.mark.parametrize(
    ("rule", "chosen"),
    [("latest:1", [7]), ("latest:2", [3, 7]), ("latest:9", [1, 3, 7]), ("all", [1, 3, 7]), ("3,1", [1, 3]), ("2", [])],
)
def test_a_rule_chooses_among_the_published(rule, chosen):
    assert VersionPolicy.parse(rule).choose("digits", [1, 3, 7]) == chosen


def test_a_model_may_have_a_rule_of_its_own():
    policy = VersionPolicy.parse("latest:2 digits=all letters=1")
    assert policy.choose("digits", [1, 2, 3]) == [1, 2, 3]
    assert policy.choose("letters", [1, 2, 3]) == [1]
    assert policy.choose("other", [1, 2, 3]) == [2, 3]


@pytest.mark.parametrize("text", ["newest", "latest:0", "latest", "1,0", "digits=some", "=all", "1,,2", "digits="])
def test_what_is_no_rule_is_named(text):
    with pytest.raises(ValueError, match="is not RULE or MODEL=RULE, with latest:N, all or a list"):
        VersionPolicy.parse(f"latest:1 {text}")
