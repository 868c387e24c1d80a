"""Rows that share a batch get the answers they get alone: every sequence model, through the session that would serve it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from export.gates import GATES
from runtime.open import open_session
from service.batch import Ran, Work, merge, split

FAMILIES = ("lstm", "transformer")


@pytest.fixture(scope="module")
def opened(tiny_models):
    """By family: a session, and its golden rows."""
    sessions = {}
    for family in FAMILIES:
        version = tiny_models.open(f"tiny-{family}")
        path, artifact, candidate = next(way for way in version.ways() if way[2].device == "cpu")
        sessions[family] = (open_session(path, artifact, candidate, version.manifest.signature), version.goldens()[0])
    yield sessions
    for session, _ in sessions.values():
        session.close()


@pytest.mark.parametrize("family", FAMILIES)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=25)
@given(data=st.data())
def test_alone_is_batched(opened, family, data):
    session, rows = opened[family]
    signature = session.signature
    count = len(next(iter(rows.values())))
    works = []
    for _ in range(data.draw(st.integers(1, 5), label="callers")):
        index = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=4), label="rows")
        length = data.draw(st.integers(max(2, signature.length.min), signature.length.max), label="length")
        inputs = {spec.name: spec.resized(rows[spec.name][index], length) for spec in signature.inputs}
        works.append(Work(inputs, len(index), signature.length.bucket(length), caller=None))
    together = split(Ran(session.run(merge(signature, works))), works)
    for work, (ran, start) in zip(works, together, strict=True):
        alone = session.run(merge(signature, [work]))
        for name, answers in ran.outputs.items():
            gate = GATES["fp32"]
            np.testing.assert_allclose(answers[start : start + work.rows], alone[name], atol=gate.atol, rtol=0)
