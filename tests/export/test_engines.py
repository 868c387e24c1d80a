"""Engines added to a published version, on the machine that is to serve it."""

from __future__ import annotations

import hashlib
import subprocess
import sys

import pytest

from export import engines
from export.__main__ import main
from export.errors import ConversionError
from modelrepo.errors import CorruptVersion
from modelrepo.repository import Repository
from runtime import cuda, tensorrt_flavour
from service.loading import load
from service.settings import Settings
from tests import micro

RTX = tensorrt_flavour.load("tensorrt-rtx")
pytestmark = pytest.mark.skipif(RTX is None, reason="tensorrt-rtx is not installed")


@pytest.fixture
def repository(tmp_path):
    micro.publish_double(tmp_path)
    return Repository(tmp_path)


def build(repository, *options, model="double"):
    arguments = ["build-engines", "--repository", str(repository.root), "--model", model, "--tensorrt", "tensorrt-rtx"]
    return main([*arguments, *options])


def state(root):
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*") if path.is_file()}


def test_engines_are_added_under_a_key_of_gpu_and_tensorrt_and_nothing_else_is_touched(repository, capsys):
    before = state(repository.root)
    assert build(repository) == 0
    key = engines.key("tensorrt-rtx")
    assert key.endswith(f"tensorrt-rtx-{RTX.__version__}")
    assert cuda.available() or key.startswith("no-gpu-")
    assert f"double:1: {key}/model.tensorrt-rtx.plan built in" in capsys.readouterr().out
    assert before.items() <= state(repository.root).items()
    (added,) = repository.open("double").engines
    assert added.key == key
    assert (added.engines[0].source, added.engines[0].precision) == ("model.onnx", "fp32")


def test_engines_built_on_the_spot_are_tried_first(repository):
    build(repository)
    (path, engine, candidate), *others = repository.open("double").ways()
    assert path.is_file()
    assert (engine.format, candidate.device, candidate.parity) == ("tensorrt", "cuda", None)
    assert [other[1].format for other in others] == ["onnx"]


@pytest.mark.skipif(cuda.available(), reason="this machine has a GPU, which may run the engine")
def test_a_machine_that_cannot_run_them_serves_without(repository, caplog):
    caplog.set_level("INFO", "quartet")
    build(repository)
    loaded = load(repository.open("double"), Settings(repository=repository.root))
    loaded.sessions[0].close()
    assert loaded.way.candidate.provider == "onnxruntime-cpu"
    assert "model.tensorrt-rtx.plan on tensorrt-rtx not used: no NVIDIA GPU is visible" in caplog.text


def test_what_is_there_is_not_built_again(repository, capsys):
    build(repository)
    before = state(repository.root)
    capsys.readouterr()
    assert build(repository) == 0
    assert "has engines for" in capsys.readouterr().out
    assert state(repository.root) == before


def test_a_dry_run_says_what_would_be_built_and_builds_nothing(repository, capsys):
    before = state(repository.root)
    assert build(repository, "--dry-run") == 0
    assert f"would build model.onnx with {engines.key('tensorrt-rtx')}" in capsys.readouterr().out
    assert state(repository.root) == before


def test_a_version_may_be_named(repository, capsys):
    micro.publish_double(repository.root)
    assert build(repository, model="double:1") == 0
    assert repository.open("double", 1).engines
    assert not repository.open("double", 2).engines
    assert build(repository, model="double:3") == 1
    assert "has no version 3" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        build(repository, model="double:new")


def test_where_no_engine_can_be_built_nothing_is_added(repository, capsys, monkeypatch):
    def refuse(*arguments):
        raise ConversionError("node 'a' (Einsum): not supported")

    monkeypatch.setattr(engines, "to_tensorrt", refuse)
    before = state(repository.root)
    assert build(repository) == 1
    assert "no engine of double:1 can be built: node 'a' (Einsum): not supported" in capsys.readouterr().err
    assert state(repository.root) == before


def test_a_full_disk_adds_nothing_and_says_so(repository, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("modelrepo.repository.shutil.copyfile", full)
    assert build(repository) == 1
    assert "cannot add engines to" in (error := capsys.readouterr().err)
    assert "No space left on device" in error
    assert repository.open("double").engines == ()


@pytest.mark.parametrize("name", ["engines.json", "model.tensorrt-rtx.plan"])
def test_damaged_engines_are_found_and_may_be_removed(repository, name):
    build(repository)
    (folder,) = (repository.root / "double/1/engines").iterdir()
    (folder / name).write_bytes(b"torn")
    with pytest.raises(CorruptVersion, match="remove that folder"):
        repository.open("double")


def test_building_needs_nothing_that_a_serving_machine_lacks(repository):
    absent = "for name in ('torch', 'onnx', 'rich', 'jinja2', 'training'): sys.modules[name] = None"
    program = f"import sys\n{absent}\nfrom export.__main__ import main\nsys.exit(main(sys.argv[1:]))"
    arguments = ["build-engines", "--repository", repository.root, "--model", "double", "--tensorrt", "tensorrt-rtx"]
    subprocess.run([sys.executable, "-c", program, *arguments], check=True)
    assert repository.open("double").engines
