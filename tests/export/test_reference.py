"""What training rows were like travels from the run into the manifest, and what is sent again shows no drift."""

from __future__ import annotations

import numpy as np
import pytest

from service.drift import Bins
from training.checkpoint import load, load_rows


@pytest.mark.parametrize(
    ("family", "features"),
    [
        ("mlp", ["x", "y"]),
        ("cnn", ["brightness", "contrast"]),
        ("lstm", ["length", "channel 1", "channel 2"]),
        ("transformer", ["length", "token", "unseen tokens"]),
    ],
)
def test_a_published_version_says_what_its_training_rows_were_like(tiny_runs, tiny_models, family, features):
    published = tiny_models.open(f"tiny-{family}")
    facts = load(tiny_runs[family]).facts
    reference = published.manifest.reference
    assert reference == facts.reference
    assert [feature.name for feature in reference.features] == features
    assert reference.rows == facts.rows["train"]
    assert len(reference.predictions) == 1
    assert sum(reference.predictions[0].counts) == facts.rows["test"]

    held_out = load_rows(tiny_runs[family], "holdout", facts)
    rows = min(2000, len(held_out))
    output = np.zeros((rows, published.manifest.task.outputs), np.float32)
    mask = held_out.inputs.get("mask")
    bins = Bins(reference)
    seen = bins.count([(held_out.inputs[reference.input][:rows], None if mask is None else mask[:rows], output)])
    assert seen.outside < rows / 20
    assert bins.index(seen.counts)[: len(features)].max() < 0.1
