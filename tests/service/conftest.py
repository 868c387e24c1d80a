"""Faults that tests of the service cause."""

from __future__ import annotations

import numpy as np
import orjson
import pytest


@pytest.fixture
def unwritable(monkeypatch):
    """Call it, and no array or list can be written as JSON any more: what the service meets as it writes an answer."""
    dumps = orjson.dumps

    def unless_rows(value, *arguments, **options):
        return 1 / 0 if isinstance(value, np.ndarray | list) else dumps(value, *arguments, **options)

    return lambda: monkeypatch.setattr("orjson.dumps", unless_rows)
