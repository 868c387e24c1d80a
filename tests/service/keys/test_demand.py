"""What a path asks of a key."""

from __future__ import annotations

import pytest

from service.keys.demand import demand


@pytest.mark.parametrize(
    ("method", "path", "wanted"),
    [
        ("GET", "/v2/health/live", None),
        ("HEAD", "/v2/health/ready", None),
        ("GET", "/v2/models/m/versions/1/ready", None),
        ("POST", "/v2/health/live", ("admin", None)),
        ("GET", "/v2/models/m", ("read", "m")),
        ("GET", "/v2/models/m/versions/2", ("read", "m")),
        ("GET", "/v2/models/m/stats", ("read", "m")),
        ("GET", "/v2/models/stats", ("read", None)),
        ("GET", "/v2/models", ("read", None)),
        ("GET", "/metrics", ("read", None)),
        ("GET", "/docs", ("read", None)),
        ("GET", "/", None),
        ("GET", "/playground/page.js", None),
        ("GET", "/models/m/card", ("read", "m")),
        ("GET", "/models/m/versions/1/report", ("read", "m")),
        ("POST", "/models/m/versions/1/internals", ("infer", "m")),
        ("POST", "/v2/repository/index", ("read", None)),
        ("POST", "/v2/repository/models/m/load", ("admin", "m")),
        ("POST", "/v2/repository/models/m/unload", ("admin", "m")),
        ("POST", "/tomorrow", ("admin", None)),
        ("DELETE", "/v2/models/m/rollout", ("admin", "m")),
        ("POST", "/v2/models/m\n/x", ("admin", "m\n")),
    ],
)
def test_what_changes_asks_for_admin_what_reads_for_any_key_and_probes_for_none(method, path, wanted):
    assert demand(method, path) == wanted
