from __future__ import annotations

import json

import numpy as np
import pytest

from modelrepo.errors import ManifestError
from modelrepo.manifest import Manifest
from modelrepo.tasks import Metric, Multiclass
from tests import micro


@pytest.fixture
def manifest(tmp_path):
    micro.write_double(tmp_path / "model.onnx")
    inputs = {"x": np.ones((2, 2), np.float32)}
    return micro.manifest(tmp_path, micro.DOUBLE, Multiclass(labels=("a", "b")), inputs, micro.double(inputs))


def changed(manifest, change):
    document = json.loads(manifest.to_json())
    change(document)
    return json.dumps(document)


def proof(document):
    return document["candidates"][0]["parity"]


def shown(name, gates):
    """An explain.onnx with one more output, whose axis of gates has two labels."""
    axes, labels = ["instance", "gate"], {"gate": ["a", "b"]}
    output = {"name": name, "kind": "gates", "layer": 0, "axes": axes, "shape": [None, gates], "labels": labels, "description": ""}
    return {"file": {"path": "explain.onnx", "sha256": "0" * 64, "size": 1}, "outputs": [output]}


def test_a_manifest_may_have_internals_and_those_written_before_there_were_any_are_read(manifest):
    without = changed(manifest, lambda d: d.pop("internals"))
    assert Manifest.from_json(without, "manifest.json") == manifest
    explained = Manifest.from_json(changed(manifest, lambda d: d.update(internals=shown("gates", 2))), "manifest.json")
    assert "explain.onnx" in {file.path for file in explained.files()}
    assert Manifest.from_json(explained.to_json(), "manifest.json") == explained


def test_a_manifest_survives_the_way_through_json(manifest):
    assert Manifest.from_json(manifest.to_json(), "manifest.json") == manifest


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(lambda d: d.update(colour="red"), "colour: unknown key, remove it", id="unknown key"),
        pytest.param(lambda d: d.pop("task"), "task: this key is missing", id="missing key"),
        pytest.param(lambda d: d.update(family=3), r"family: Input should be a valid string \(found 3\)", id="wrong type"),
        pytest.param(
            lambda d: d["artifacts"][0]["file"].update(size="12"),
            r"artifacts\[0\]\.onnx\.file\.size: .*'12'",
            id="wrong type, deep",
        ),
        pytest.param(
            lambda d: d["artifacts"][0].update(format="caffe"), r"artifacts\[0\]: .*'onnx', 'tensorrt'", id="unknown format"
        ),
        pytest.param(
            lambda d: d["reports"][0].update(path="../../etc/passwd"), r"reports\[0\]\.path", id="path that leaves the folder"
        ),
        pytest.param(lambda d: d["task"].update(labels=["a", "a"]), "names must differ", id="labels twice"),
        pytest.param(lambda d: d["task"].update(labels=["a", "b", "c"]), r"shape \[batch, 3\]", id="labels that outputs lack"),
        pytest.param(
            lambda d: d.update(internals=shown("x", 2)), "names of internals must differ", id="an internal named as an input"
        ),
        pytest.param(
            lambda d: d.update(internals=shown("gates", 3)), "2 labels for its axis 'gate' of size 3", id="too few labels"
        ),
        pytest.param(lambda d: d["candidates"][0].update(parity=None), "on the cpu, compared with the original", id="no proof"),
        pytest.param(lambda d: d["candidates"].append(d["candidates"][0]), "candidates must differ", id="one way twice"),
        pytest.param(lambda d: d["candidates"][0].update(artifact="b.onnx"), "name artifacts of this version", id="way to nothing"),
        pytest.param(lambda d: proof(d).update(agreement=0.5, gate={"min_agreement": 0.9}), "missed by 400%", id="disagreement"),
        pytest.param(lambda d: proof(d).update(loss=0.03, gate={"max_loss": 0.01}), "missed by 200%", id="lost metric"),
        pytest.param(
            lambda d: proof(d)["metric"].update(value=0.4), "accuracy 0.4 misses its floor, 0.5", id="proof below the floor"
        ),
        pytest.param(lambda d: d["artifacts"][0].update(precision="int8"), "artifact of precision fp32", id="no fp32"),
        pytest.param(lambda d: d["reports"][0].update(path="model.onnx"), "file paths must differ", id="one file twice"),
        pytest.param(lambda d: d["metric"].update(value=float("nan")), "metric.value", id="not a number"),
        pytest.param(lambda d: d["metric"].update(value=0.1), "accuracy 0.1 misses its floor, 0.5", id="below its floor"),
        pytest.param(lambda d: proof(d)["cases"][0].update(used=2.0), "the gate is missed by 100%", id="not equal"),
        pytest.param(lambda d: d.pop("format_version"), "format_version: this key is missing", id="no format"),
    ],
)
def test_every_fault_is_named_by_its_path(manifest, change, message):
    with pytest.raises(ManifestError, match=message):
        Manifest.from_json(changed(manifest, change), "models/double/1/manifest.json")


def test_all_faults_are_listed_at_once_with_the_file_and_the_fix(manifest):
    text = changed(manifest, lambda d: (d.pop("family"), d.pop("metric"), d.update(extra=1)))
    with pytest.raises(ManifestError) as raised:
        Manifest.from_json(text, "models/double/1/manifest.json")
    for part in ("models/double/1/manifest.json", "family", "metric", "extra", "export the model again"):
        assert part in str(raised.value)


def test_a_manifest_of_a_later_format_says_to_upgrade(manifest):
    with pytest.raises(ManifestError, match="format_version 3; this Quartet reads up to 2: upgrade Quartet"):
        Manifest.from_json(changed(manifest, lambda d: d.update(format_version=3)), "m")


def test_a_key_given_twice_is_refused(manifest):
    text = manifest.to_json().replace('"family"', '"family": "other",\n  "family"', 1)
    with pytest.raises(ManifestError, match="the key 'family' is there twice"):
        Manifest.from_json(text, "m")


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", "[" * 100_000])
def test_what_is_no_manifest_at_all_is_said_to_be_none(text):
    with pytest.raises(ManifestError, match="not JSON|not a valid manifest"):
        Manifest.from_json(text, "m")


@pytest.mark.parametrize(
    ("better", "value", "floor", "reached"),
    [
        ("higher", 0.97, 0.97, True),
        ("higher", 0.96, 0.97, False),
        ("lower", 0.02, 0.02, True),
        ("lower", 0.03, 0.02, False),
        ("lower", 9.0, None, True),
    ],
)
def test_a_metric_is_held_against_its_floor(better, value, floor, reached):
    assert Metric(name="m", value=value, better=better, floor=floor).reached() is reached
