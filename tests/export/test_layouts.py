from __future__ import annotations

import json
import os
import subprocess
import sys

import onnxruntime
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from export import layouts
from export.__main__ import main
from export.errors import ExportError
from modelrepo.repository import Repository
from runtime.session import promised_shapes
from tests.conftest import TINY


@pytest.fixture
def repository(tiny_models):
    return tiny_models


def parsed(path):
    """config.pbtxt as Triton's own schema reads it; anything unknown to it is an error."""
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


@pytest.mark.parametrize("family", TINY)
def test_triton_is_told_the_tensors_as_the_onnx_file_has_them(family, repository, tmp_path):
    version = repository.open(f"tiny-{family}")
    folder = layouts.copy(version, "triton", tmp_path)
    config = parsed(folder.parent / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == (
        version.name,
        "onnxruntime",
        version.manifest.signature.batch.max,
    )
    assert config.HasField("dynamic_batching")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    types = {"tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64", "tensor(bool)": "TYPE_BOOL"}
    for told, held in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        found = {tensor.name: (model_config_pb2.DataType.Name(tensor.data_type), list(tensor.dims)) for tensor in told}
        expected = {
            tensor.name: (types[tensor.type], [size if isinstance(size, int) else -1 for size in tensor.shape[1:]])
            for tensor in held
        }
        assert found == expected


@pytest.mark.parametrize("family", TINY)
def test_triton_warms_up_every_shape_that_quartet_promises(family, repository, tmp_path):
    version = repository.open(f"tiny-{family}")
    layouts.copy(version, "triton", tmp_path)
    signature = version.manifest.signature
    warm = parsed(tmp_path / version.name / "config.pbtxt").model_warmup
    assert len(warm) == len(list(promised_shapes(signature)))
    for sample, (batch, length) in zip(warm, promised_shapes(signature), strict=True):
        assert sample.batch_size == batch
        for spec in signature.inputs:
            assert list(sample.inputs[spec.name].dims) == list(spec.shape_at(batch, length)[1:])


def test_labels_go_with_the_columns_they_name(repository, tmp_path):
    for family in ("mlp", "lstm"):
        layouts.copy(repository.open(f"tiny-{family}"), "triton", tmp_path)
    labels = repository.open("tiny-mlp").manifest.task.labels
    assert (tmp_path / "tiny-mlp" / "labels.txt").read_text().splitlines() == list(labels)
    assert parsed(tmp_path / "tiny-mlp" / "config.pbtxt").output[0].label_filename == "labels.txt"
    assert not (tmp_path / "tiny-lstm" / "labels.txt").exists(), "numbers have no labels"


def test_kserve_gets_the_whole_version_under_its_name(repository, tmp_path):
    version = repository.open("tiny-cnn")
    layouts.copy(version, "kserve", tmp_path)
    assert Repository(tmp_path).open("tiny-cnn", 1).manifest == version.manifest


def test_a_version_that_is_there_is_not_overwritten(repository, tmp_path):
    version = repository.open("tiny-mlp")
    folder = layouts.copy(version, "triton", tmp_path)
    (folder / "model.onnx").write_text("mine")
    with pytest.raises(ExportError, match="is there already: remove it, or give another --out"):
        layouts.copy(version, "triton", tmp_path)
    assert (folder / "model.onnx").read_text() == "mine"


def test_versions_that_triton_could_not_tell_apart_do_not_share_a_folder(repository, tmp_path):
    version = repository.open("tiny-mlp")
    layouts.copy(version, "triton", tmp_path)
    config = tmp_path / "tiny-mlp" / "config.pbtxt"
    (tmp_path / "tiny-mlp" / "1").rename(tmp_path / "tiny-mlp" / "7")
    layouts.copy(version, "triton", tmp_path)
    assert sorted(entry.name for entry in config.parent.iterdir()) == ["1", "7", "config.pbtxt", "labels.txt"]
    (tmp_path / "tiny-mlp" / "1").rename(tmp_path / "tiny-mlp" / "8")
    config.write_text(config.read_text().replace("max_batch_size: ", "max_batch_size: 1"))
    before = config.read_text()
    with pytest.raises(ExportError, match="Triton has one for all versions of a model .* are there.: give another --out"):
        layouts.copy(version, "triton", tmp_path)
    assert config.read_text() == before


@pytest.mark.parametrize("layout", ["triton", "kserve"])
def test_a_copy_that_fails_leaves_no_version(layout, repository, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(layouts.shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        layouts.copy(repository.open("tiny-mlp"), layout, tmp_path)
    assert list((tmp_path / "tiny-mlp").iterdir()) == []


def test_the_command_prints_where_the_copy_is(repository, tmp_path, capsys):
    arguments = ["copy", "--repository", str(repository.root), "--layout", "triton", "--out", str(tmp_path)]
    assert main([*arguments, "--model", "tiny-mlp:1"]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "tiny-mlp" / "1")
    assert main([*arguments, "--model", "tiny-mlp:9"]) == 1
    assert "model 'tiny-mlp' has no version 9; it has [1]" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*arguments, "--model", "tiny-mlp:new"])
    assert "--model takes NAME or NAME:VERSION with a number, not 'tiny-mlp:new'" in capsys.readouterr().err


def test_copying_needs_nothing_that_a_serving_machine_lacks(repository, tmp_path):
    script = """
import json, sys
from export.__main__ import main
assert main(sys.argv[1:]) == 0
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""
    arguments = ["copy", "--repository", str(repository.root), "--model", "tiny-mlp", "--layout", "kserve", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, "-c", script, *arguments], env=os.environ, capture_output=True, text=True, check=True)
    assert not {"torch", "onnx", "rich", "training", "sklearn"} & set(json.loads(done.stdout.splitlines()[-1]))
