"""explain.onnx as it is published. What it shows is compared with PyTorch wherever a model's export is: `inside.py`."""

from __future__ import annotations

import shutil

import pytest

from export import internals
from export.__main__ import main
from export.errors import ConversionError
from modelrepo.repository import Repository


@pytest.mark.parametrize("family", ["cnn", "lstm", "transformer"])
def test_it_lies_beside_the_files_that_serve_and_serves_none(family, tiny_models):
    version = tiny_models.open(f"tiny-{family}")
    shown = version.manifest.internals
    assert shown.file.path == "explain.onnx"
    assert shown.file in list(version.manifest.files())
    assert "explain.onnx" not in {path.name for path, _, _ in version.ways()}


def test_a_model_with_nothing_to_show_has_none(tiny_models):
    version = tiny_models.open("tiny-mlp")
    assert version.manifest.internals is None
    assert not (version.path / "explain.onnx").exists()


def test_one_that_does_not_add_up_is_left_out_with_the_reason_and_one_that_is_not_wanted_is_not_made(
    tiny_runs, tmp_path, monkeypatch, capsys
):
    def fail(*arguments):
        raise ConversionError("gates do not add up")

    run = shutil.copytree(tiny_runs["mlp"], tmp_path / "tiny")
    options = [str(run), "--repository", str(tmp_path / "models"), "--tensorrt", "off", "--precisions", "fp32", "--reuse"]
    monkeypatch.setattr(internals, "make", fail)
    assert main(options) == 0
    assert "could not make explain.onnx: gates do not add up" in capsys.readouterr().out
    assert main([*options, "--no-internals"]) == 0
    assert "explain.onnx" not in capsys.readouterr().out
    repository = Repository(tmp_path / "models")
    assert [repository.open("tiny", version).manifest.export["internals"] for version in (1, 2)] == [True, False]
