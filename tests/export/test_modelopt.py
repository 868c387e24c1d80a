"""NVIDIA ModelOpt in an environment of its own. The real one is used where QUARTET_MODELOPT_PYTHON names its interpreter."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest

from export.__main__ import main
from export.errors import ConversionError
from export.modelopt import ModelOpt, version
from modelrepo.repository import Repository
from tests import micro

BATCHES = [{"x": np.full((4, 2), value, np.float32)} for value in (1, 2, 3, 4)]
STUB = """#!{python}
import json, pathlib, shutil, sys
if sys.argv[1] == "-c":
    print("nvidia-modelopt 0.0")
else:
    assert sys.argv[1] == "-I"
    source, rows, folder = map(pathlib.Path, sys.argv[3:])
    faults = {faults}
    for kind in [kind for kind in faults if not faults[kind]]:
        shutil.copy(source, folder / (kind + ".onnx"))
    source.write_bytes(b"as ModelOpt does")
    print(json.dumps(faults))
"""
ALL = ("fp16", "bf16", "int8.entropy", "int8.min-max", "fp8.entropy", "fp8.min-max")


@pytest.fixture
def stub(tmp_path):
    """An interpreter that answers like one with ModelOpt: it hands the source back, or the fault given for a kind."""

    def write(**faults):
        path = tmp_path / "python"
        path.write_text(STUB.format(python=sys.executable, faults={kind: faults.get(kind) for kind in ALL}))
        path.chmod(0o755)
        return path

    return write


def converter(python, folder, judge=None):
    micro.write_double(folder / "model.onnx")
    return ModelOpt(python, folder / "model.onnx", BATCHES, judge)


def judging(*errors):
    """A judge that finds these errors, in turn."""
    left = list(errors)
    return SimpleNamespace(error=lambda path: left.pop(0))


def test_the_ranges_with_the_smaller_error_are_kept(stub, tmp_path):
    artifact = converter(stub(), tmp_path, judging(0.2, 0.1)).make("int8", tmp_path / "out.onnx")
    assert artifact.converter == "nvidia-modelopt 0.0"
    assert artifact.quantization.method == "min-max"
    assert artifact.quantization.errors == {"entropy": 0.2, "min-max": 0.1}
    assert artifact.quantization.rows == 8, "the even batches"


def test_ranges_that_cannot_be_found_leave_the_other_method(stub, tmp_path):
    faults = {"int8.entropy": "ValueError: Too many bins"}
    artifact = converter(stub(**faults), tmp_path, judging(0.2)).make("int8", tmp_path / "out.onnx")
    assert artifact.quantization.method == "min-max"


def test_what_modelopt_cannot_make_is_told_in_its_own_words(stub, tmp_path):
    faults = {"int8.entropy": "ValueError: one", "int8.min-max": "ValueError: two"}
    with pytest.raises(ConversionError, match=r"nvidia-modelopt 0\.0: ValueError: two"):
        converter(stub(**faults), tmp_path, judging()).make("int8", tmp_path / "out.onnx")


def test_the_file_it_starts_from_is_not_touched(stub, tmp_path):
    modelopt = converter(stub(), tmp_path)
    before = (tmp_path / "model.onnx").read_bytes()
    modelopt.make("fp16", tmp_path / "out.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_an_interpreter_without_modelopt_is_told_how_to_get_it():
    with pytest.raises(ConversionError, match=r"has no ModelOpt: python -m venv modelopt && .*, then --modelopt-python"):
        version(Path(sys.executable))


def test_an_interpreter_that_is_not_there_is_named():
    with pytest.raises(ConversionError, match="--modelopt-python /no/such/python: No such file or directory"):
        version(Path("/no/such/python"))


def test_the_real_modelopt_makes_files_that_pass_their_gates(tiny_runs, tmp_path, capsys):
    python = os.environ.get("QUARTET_MODELOPT_PYTHON")
    if not python:
        pytest.skip("QUARTET_MODELOPT_PYTHON does not name an interpreter with NVIDIA ModelOpt")
    command = [str(tiny_runs["cnn"]), "--repository", str(tmp_path), "--tensorrt", "off", "--modelopt-python", python]
    assert main(command) == 0, capsys.readouterr()
    version = Repository(tmp_path).open(tiny_runs["cnn"].name)
    theirs = [artifact for artifact in version.manifest.artifacts if artifact.converter]
    assert "fp16" in {artifact.precision for artifact in theirs}
    for artifact in theirs:
        onnx.checker.check_model(version.path / artifact.file.path)
