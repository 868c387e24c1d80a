"""A server with one micro model of each kind of data."""

from __future__ import annotations

import pytest

from tests import micro
from tests.server import serving

PUBLISHED = (micro.publish_double, micro.publish_mean, micro.publish_table, micro.publish_text, micro.publish_picture)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    for publish in PUBLISHED:
        publish(root)
    return root


@pytest.fixture(scope="module")
def url(root):
    with serving(root) as server:
        yield server.url
