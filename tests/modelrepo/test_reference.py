from __future__ import annotations

import json

import numpy as np
import pytest

from modelrepo.errors import ManifestError
from modelrepo.manifest import Manifest
from modelrepo.reference import Categories, Numbers, Reference
from modelrepo.tasks import Multiclass
from tests import micro

AGE = Numbers(name="age", measure="column", least=1, bounds=(2, 4), counts=(0, 5, 5, 0, 0))
TOWN = Categories(name="town", measure="column", index=1, names=("Oslo", "Rome"), codes=(1, 4), counts=(6, 3, 1, 0))
REFERENCE = Reference(input="x", rows=10, features=(AGE, TOWN))


def test_a_number_falls_into_the_bin_that_ends_with_or_after_it():
    places = AGE.place(np.array([0.5, 1, 2, 2.1, 4, 4.1, np.inf, -np.inf, np.nan], np.float32))
    assert [AGE.bins[place] for place in places] == [
        "under 1",
        "1 to 2",
        "1 to 2",
        "over 2 to 4",
        "over 2 to 4",
        "over 4",
        "over 4",
        "under 1",
        "missing",
    ]
    assert list(AGE.place(np.array([1, 4]))) == [1, 2], "whole numbers, too"


def test_a_code_falls_into_the_bin_of_its_name_or_of_all_others():
    places = TOWN.place(np.array([1, 4, 0, 3, 9, np.nan], np.float32))
    assert [TOWN.bins[place] for place in places] == ["Oslo", "Rome", "others", "others", "others", "missing"]
    assert list(TOWN.outside) == [False, False, False, True], "other towns were among the training rows, missing ones not"


@pytest.fixture
def manifest(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    inputs = {"x": np.ones((2, 2), np.float32)}
    task = Multiclass(labels=("a", "b"))
    return micro.manifest(tmp_path, micro.DOUBLE, task, inputs, micro.double(inputs), reference=REFERENCE)


def test_a_manifest_carries_it_and_one_of_before_has_none(manifest):
    assert Manifest.from_json(manifest.to_json(), "m") == manifest
    document = json.loads(manifest.to_json())
    del document["reference"]
    assert Manifest.from_json(json.dumps(document), "m").reference is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.update(input="y"), "the reference names input 'y', which the signature lacks"),
        (lambda r: r["features"][1].update(name="age"), "features must differ in name"),
        (lambda r: r["features"][0].update(bounds=[4, 2]), "'age' needs ascending bounds"),
        (lambda r: r["features"][0].update(counts=[1]), "'age' needs ascending bounds"),
        (lambda r: r["features"][1].update(codes=[4, 1]), "'town' needs ascending codes"),
    ],
)
def test_a_damaged_one_is_refused_by_its_path(manifest, change, message):
    document = json.loads(manifest.to_json())
    change(document["reference"])
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(json.dumps(document), "m")
