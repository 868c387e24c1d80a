"""From a run folder to a published version, through the command line as users call it."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from export import parity, pipeline
from export.__main__ import main
from export.errors import ConversionError
from modelrepo.repository import Repository
from modelrepo.tasks import Metric
from runtime import cuda, tensorrt_flavour
from runtime.session import SessionError
from training import checkpoint
from training.__main__ import main as train


@pytest.fixture
def run(tiny_runs, tmp_path):
    """A copy of the smallest run, free to be damaged."""
    return shutil.copytree(tiny_runs["mlp"], tmp_path / "runs/tiny")


def export(run, tmp_path, *options):
    fast = ("--tensorrt", "off", "--precisions", "fp32")
    return main([str(run), "--repository", str(tmp_path / "models"), *fast, *options])


def holdout(run):
    (path,) = run.glob("holdout-*.npz")
    return path


def rewrite(run, **changes):
    saved = checkpoint.load(run)
    checkpoint.save(run, saved.facts.model_copy(update=changes), saved.weights)


def unfinish(run):
    (run / "unfinished").mkdir()
    (run / "best.pt").rename(run / "unfinished" / "best.pt")


def published(tmp_path):
    return Repository(tmp_path / "models").models() if (tmp_path / "models").exists() else []


def test_a_version_says_where_it_comes_from_and_how_far_it_was_proven(run, tmp_path, capsys):
    assert export(run, tmp_path) == 0
    version = Repository(tmp_path / "models").open("tiny")
    saved = checkpoint.load(run)
    manifest = version.manifest
    assert manifest.lineage.checkpoint_sha256 == saved.sha256
    assert manifest.lineage.data.rows == {"train": 3000, "validation": 600, "test": 1500}
    assert manifest.lineage.config["epochs"] == 2
    assert {"torch", "onnx", "python"} <= set(manifest.lineage.versions)
    assert manifest.preprocessing[0].columns == saved.facts.kind.columns
    assert manifest.metrics == saved.facts.metrics
    [plain] = [c for c in manifest.candidates if c.provider == "onnxruntime-cpu"]
    assert 0 <= plain.parity.max_abs_error < 1e-4
    assert plain.parity.agreement == 1
    assert plain.parity.metric.value == manifest.metric.value
    assert {(cost.batch, cost.length) for cost in plain.costs} == {(batch, None) for batch in (1, 2, 4, 8, 16, 32, 64)}
    assert manifest.signature == saved.model().signature()
    out = capsys.readouterr().out
    for part in ("tiny:1", "accuracy", "onnxruntime-cpu", "fp32", "ms", "rows/s"):
        assert part in out


def test_a_model_under_its_floor_is_refused(run, tmp_path, capsys):
    rewrite(run, test=Metric(name="accuracy", value=0.5, better="higher", floor=0.97))
    assert export(run, tmp_path) == 1
    assert "test accuracy of 0.5, its floor is 0.97: nothing exported" in capsys.readouterr().err
    assert published(tmp_path) == []


def test_a_run_that_never_ended_is_refused(run, tmp_path, capsys):
    rewrite(run, test=None)
    assert export(run, tmp_path) == 1
    assert "training has not ended" in capsys.readouterr().err


def test_a_miss_publishes_nothing_and_lists_it(run, tmp_path, capsys, monkeypatch):
    saved = checkpoint.load(run)

    def other(model, signature, inputs):
        return reference(model, signature, inputs) + 3

    reference = parity.reference
    monkeypatch.setattr(parity, "reference", other)
    assert export(run, tmp_path) == 1
    err = capsys.readouterr().err
    assert "tiny is not equal to PyTorch, nothing published: model.onnx on onnxruntime-cpu: batch 1: differs by 3" in err
    assert "more" in err
    assert saved.sha256 not in err
    assert published(tmp_path) == []
    assert list((tmp_path / "models/tiny").iterdir()) == []


def test_reuse_keeps_a_version_of_this_checkpoint_and_replaces_any_other(run, tmp_path, capsys):
    assert export(run, tmp_path) == 0
    assert export(run, tmp_path, "--reuse") == 0
    assert "tiny:1" in capsys.readouterr().out
    assert Repository(tmp_path / "models").versions("tiny") == [1]
    rewrite(run, created="another day")
    assert export(run, tmp_path, "--reuse") == 0
    assert Repository(tmp_path / "models").versions("tiny") == [1, 2]


def test_reuse_replaces_a_damaged_version(run, tmp_path, capsys):
    assert export(run, tmp_path) == 0
    (tmp_path / "models/tiny/1/model.onnx").write_bytes(b"")
    assert export(run, tmp_path, "--reuse") == 0
    assert Repository(tmp_path / "models").open("tiny").version == 2


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(lambda run: (run / "best.pt").unlink(), "best.pt cannot be read", id="no checkpoint"),
        pytest.param(lambda run: (run / "best.pt").write_bytes(b"torn"), "is torn or no Quartet checkpoint", id="torn checkpoint"),
        pytest.param(lambda run: torch.save({"weights": {}}, run / "best.pt"), "no Quartet checkpoint", id="foreign checkpoint"),
        pytest.param(lambda run: rewrite(run, format_version=1), "format version 1, this Quartet reads 2", id="other version"),
        pytest.param(unfinish, "before its training had ended", id="unfinished"),
        pytest.param(lambda run: holdout(run).unlink(), "npz cannot be read", id="no held-out rows"),
        pytest.param(lambda run: holdout(run).write_bytes(b"PK"), "npz is torn", id="torn rows"),
        pytest.param(lambda run: rewrite(run, model={"hidden": [9]}), "weights do not fit its 'mlp' model", id="other shape"),
    ],
)
def test_a_damaged_run_folder_is_a_clear_error(run, tmp_path, capsys, damage, message):
    damage(run)
    assert export(run, tmp_path) == 1
    assert message in capsys.readouterr().err
    assert published(tmp_path) == []


def test_one_bad_run_does_not_keep_back_the_others(run, tmp_path):
    assert main([str(run), str(tmp_path / "missing"), "--repository", str(tmp_path / "models"), "--tensorrt", "off"]) == 1
    assert published(tmp_path) == ["tiny"]


@pytest.mark.skipif(tensorrt_flavour.load("tensorrt-rtx") is None, reason="tensorrt-rtx is not installed")
@pytest.mark.skipif(cuda.available(), reason="this machine has a GPU: the engine would be proven")
def test_an_engine_built_without_a_gpu_is_published_unmeasured_and_tried_first(run, tmp_path, capsys):
    assert export(run, tmp_path, "--tensorrt", "tensorrt-rtx") == 0
    manifest = Repository(tmp_path / "models").open("tiny").manifest
    first = manifest.candidates[0]
    engine = manifest.artifact(first)
    assert (first.backend, first.device, first.parity, first.costs) == ("tensorrt-rtx", "cuda", None, ())
    assert (engine.flavour, engine.source, engine.gpu, engine.driver) == ("tensorrt-rtx", "model.onnx", None, None)
    assert max(profile["features"].max for profile in engine.profiles) == (64, 2)
    assert "does not fit this machine: no NVIDIA GPU is visible" in capsys.readouterr().out


def test_an_engine_that_cannot_be_built_is_left_out_under_auto_and_fatal_by_name(run, tmp_path, capsys, monkeypatch):
    def refuse(*arguments):
        raise ConversionError("node 'a' (Einsum): not supported")

    monkeypatch.setattr(pipeline, "choose", lambda wanted: ("tensorrt-rtx", ""))
    monkeypatch.setattr(pipeline, "to_tensorrt", refuse)
    assert export(run, tmp_path, "--tensorrt", "auto") == 0
    assert "node 'a' (Einsum): not supported" in capsys.readouterr().out
    assert export(run, tmp_path, "--tensorrt", "tensorrt-rtx") == 1
    assert Repository(tmp_path / "models").versions("tiny") == [1]


def test_a_name_goes_with_a_single_run(run, tmp_path):
    assert export(run, tmp_path, "--name", "renamed") == 0
    assert published(tmp_path) == ["renamed"]
    with pytest.raises(SystemExit, match="2"):
        main([str(run), str(run), "--name", "x", "--repository", str(tmp_path)])


@pytest.mark.parametrize("name", ["../out", "a b", ""])
def test_a_name_that_is_no_model_name_is_refused(run, tmp_path, name, capsys):
    assert export(run, tmp_path, "--name", name) == 1
    assert "is not a model name" in capsys.readouterr().err


@pytest.mark.skipif(tensorrt_flavour.load("tensorrt-rtx") is None, reason="tensorrt-rtx is not installed")
def test_reuse_does_not_keep_a_version_without_the_engine_that_would_be_built_now(run, tmp_path):
    assert export(run, tmp_path) == 0
    for _ in range(2):
        assert export(run, tmp_path, "--tensorrt", "tensorrt-rtx", "--reuse") == 0
        assert Repository(tmp_path / "models").versions("tiny") == [1, 2]
    assert len(Repository(tmp_path / "models").open("tiny").manifest.artifacts) == 2


def test_a_file_that_cannot_be_run_is_never_published(run, tmp_path, capsys, monkeypatch):
    def refuse(*arguments):
        raise SessionError("out of memory")

    monkeypatch.setattr("export.candidates.OnnxRuntimeSession", refuse)
    assert export(run, tmp_path) == 1
    assert (
        "tiny could not be compared with PyTorch, nothing published: model.onnx on onnxruntime-cpu: out of memory"
        in capsys.readouterr().err
    )
    assert published(tmp_path) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precisions", "fp32,int4"), "--precisions: int4 is none of fp32, fp16, bf16, int8"),
        (("--gate", "int8.loss=1"), "'int8.loss=1' is not NAME.FIELD=NUMBER"),
        (("--level", "9"), "invalid choice: 9"),
    ],
)
def test_an_option_that_means_nothing_is_refused_before_any_work(run, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit, match="2"):
        export(run, tmp_path, *options)
    assert message in capsys.readouterr().err
    assert published(tmp_path) == []


def test_a_precision_that_misses_is_left_out_with_the_node_where_it_begins(run, tmp_path, capsys):
    gate = ("--gate", "fp16.atol=1e-7", "--gate", "fp16.rtol=0")
    assert export(run, tmp_path, "--precisions", "fp16", *gate) == 0
    out = capsys.readouterr().out
    assert "left out: model.fp16.onnx on onnxruntime-cpu: batch 1: differs by" in out
    assert "it begins at node_" in out
    version = Repository(tmp_path / "models").open("tiny")
    assert [artifact.file.path for artifact in version.manifest.artifacts] == ["model.onnx"]
    assert not (version.path / "model.fp16.onnx").exists()
    assert version.manifest.export["gates"]["fp16"]["atol"] == 1e-7


def test_a_gate_that_is_looser_is_recorded_with_the_proof(run, tmp_path):
    assert export(run, tmp_path, "--gate", "fp32.atol=0.5") == 0
    manifest = Repository(tmp_path / "models").open("tiny").manifest
    assert {c.parity.gate.atol for c in manifest.candidates if c.device == "cpu" and c.precision == "fp32"} == {0.5}


def test_other_options_make_another_version(run, tmp_path):
    assert export(run, tmp_path, "--reuse") == 0
    assert export(run, tmp_path, "--reuse", "--gate", "fp32.atol=0.5") == 0
    assert Repository(tmp_path / "models").versions("tiny") == [1, 2]


def test_a_table_a_text_and_a_series_of_ones_own_become_versions_that_say_what_to_send(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    rows = [
        f"{age},{('red', 'blue', '')[k % 3]},{'' if k % 7 == 0 else k % 9},{('no', 'yes')[age > 40]}\n"
        for k, age in enumerate(rng.integers(20, 60, 90).tolist())
    ]
    (tmp_path / "people.csv").write_text("age,colour,height,bought\n" + "".join(rows))
    words = [("good fine", "bad poor")[k % 2] + f" film {k % 5}" for k in range(60)]
    (tmp_path / "films.tsv").write_text("".join(f"{text}\t{k % 2}\n" for k, text in enumerate(words)))
    steps = [f"{k},{t},{np.sin(k + t / 5):.3f},{('up', 'down')[k % 2]}\n" for k in range(40) for t in range(5 + k % 4)]
    (tmp_path / "machines.csv").write_text("machine,t,load,state\n" + "".join(steps))
    monkeypatch.chdir(tmp_path)
    small = ["--epochs", "1", "--batch-size", "16", "--no-pictures"]
    assert train(["mlp", "--data", "people.csv", "--target", "bought", "--out", "people", *small]) == 0
    text = ["--no-header", "--text", "1", "--target", "2", "--vocabulary", "300", "--model.dim", "8"]
    assert train(["transformer", "--data", "films.tsv", *text, "--out", "films", *small]) == 0
    series = ["--series", "machine", "--target", "state", "--model.cell", "gru", "--model.bidirectional"]
    assert train(["lstm", "--data", "machines.csv", *series, "--out", "machines", *small]) == 0
    assert main(["people", "films", "machines", "--repository", "models", "--tensorrt", "off", "--precisions", "fp32"]) == 0

    repository = Repository(tmp_path / "models")
    people = repository.open("people").manifest
    age, colour, height = people.preprocessing[0].columns
    assert (age.name, age.type, age.missing) == ("age", "numeric", False)
    assert (colour.categories, colour.missing) == (("blue", "red"), True)
    assert height.missing
    assert people.task.labels == ("no", "yes")
    assert people.lineage.data.handling
    films = repository.open("films")
    [step] = films.manifest.preprocessing
    tokenizer = Tokenizer.from_str((films.path / step.file.path).read_text())
    assert tokenizer.get_vocab_size() == films.manifest.signature.inputs[0].bounds.max + 1
    machines = repository.open("machines").manifest
    assert machines.preprocessing[0].input == "sequence"
    assert machines.signature.length.max == 8
