from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from modelrepo.tasks import Binary, Multiclass, Multilabel, Regression
from tests.conftest import TINY
from training import checkpoint, loop, tasks
from training.__main__ import main
from training.checkpoint import CheckpointError
from training.config import PRESETS, Config, learning_rate
from training.data.dataset import Dataset
from training.models import MLPConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def tiny(tmp_path):
    return dataclasses.replace(TINY["mlp"], out=tmp_path / "run")


def test_the_same_seed_gives_the_same_weights_to_the_bit(tiny, tmp_path):
    other = dataclasses.replace(tiny, out=tmp_path / "other")
    loop.fit(tiny)
    loop.fit(other)
    one, two = checkpoint.load(tiny.out).weights, checkpoint.load(other.out).weights
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_another_seed_gives_other_weights(tiny, tmp_path):
    loop.fit(tiny)
    loop.fit(dataclasses.replace(tiny, out=tmp_path / "other", seed=1))
    one, two = checkpoint.load(tiny.out).weights, checkpoint.load(tmp_path / "other").weights
    assert not all(torch.equal(one[name], two[name]) for name in one)


def test_a_checkpoint_rebuilds_its_model_by_itself(tiny):
    facts = loop.fit(tiny)
    saved = checkpoint.load(tiny.out)
    holdout = checkpoint.load_holdout(tiny.out, saved.facts)
    score = tasks.metric(saved.facts.task, loop.predict(saved.model(), holdout), holdout.targets)
    assert score.value == facts.test.value
    assert saved.facts == facts


def test_the_best_epoch_is_kept_not_the_last(tiny, monkeypatch):
    scores = iter([0.9, 0.8])
    metric = tasks.metric

    def scripted(task, outputs, targets, floor=None):
        real = metric(task, outputs, targets, floor)
        return real.model_copy(update={"value": next(scores, real.value)})

    monkeypatch.setattr(tasks, "metric", scripted)
    assert loop.fit(tiny).epoch == 1


def test_a_killed_run_leaves_the_finished_one_before_it_whole(tiny):
    facts = loop.fit(tiny)
    before = files(tiny.out)
    command = [sys.executable, "-u", "-m", "training", "mlp", "--data", "spirals", "--out", str(tiny.out)]
    with subprocess.Popen([*command, "--epochs", "100000"], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert any("epoch 3/" in line for line in process.stdout)
        process.kill()
    assert before.items() <= files(tiny.out).items()
    assert (tiny.out / "partial.pt").exists()
    assert checkpoint.load(tiny.out).facts == facts
    assert len(checkpoint.load_holdout(tiny.out, facts)) == 1500


def test_a_finished_run_leaves_nothing_of_the_one_it_replaces(tiny):
    loop.fit(tiny)
    (tiny.out / "partial.pt").write_bytes(b"of a killed run")
    (tiny.out / "holdout-0123456789ab.npz").write_bytes(b"of other data")
    loop.fit(tiny)
    assert [name.split("-")[0] for name in sorted(files(tiny.out))] == ["best.pt", "holdout"]


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_reuse_does_not_keep_a_run_on_other_data(tiny, monkeypatch):
    loop.fit(tiny)
    monkeypatch.setattr(Dataset, "fingerprint", lambda dataset: "0" * 64)
    assert loop.fit(dataclasses.replace(tiny, reuse=True)).fingerprint == "0" * 64


def test_reuse_keeps_a_finished_run_of_the_same_config_only(tiny, monkeypatch):
    again = dataclasses.replace(tiny, reuse=True)
    facts = loop.fit(tiny)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build", lambda *arguments: pytest.fail("trained again"))
        assert loop.fit(again) == facts
    assert loop.fit(dataclasses.replace(again, seed=7)).seed == 7
    (tiny.out / "best.pt").write_bytes(b"torn")
    assert loop.fit(again).seed == 0


def test_a_loss_that_is_no_number_says_what_to_lower(tiny):
    with pytest.raises(loop.Diverged, match=r"the loss became (nan|inf) in epoch 1: lower --learning-rate \(1e\+30\)"):
        loop.fit(dataclasses.replace(tiny, learning_rate=1e30, warmup=0.0, model=MLPConfig(hidden=())))


def test_the_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(step, 100, 0.1) for step in range(101)]
    assert rates[0] > 0
    assert rates.index(max(rates)) == 10
    assert rates[10] == 1
    assert all(a < b for a, b in pairwise(rates[:11]))
    assert all(a > b for a, b in pairwise(rates[10:]))
    assert rates[100] == pytest.approx(0)


@pytest.mark.parametrize(
    ("task", "outputs", "targets", "loss", "value"),
    [
        # softmax([2, 1, 0.1]) = [0.659, 0.242, 0.099], so the cross-entropy of class 0 is 0.417
        pytest.param(Multiclass(labels=("a", "b", "c")), [[2, 1, 0.1]], np.array([0]), 0.417, 1.0, id="multiclass"),
        pytest.param(Binary(labels=("n", "y")), [[0.0], [2.0]], np.array([[1], [1]], np.float32), 0.41, 0.5, id="binary"),
        pytest.param(Multilabel(labels=("a", "b")), [[9.0, -9.0]], np.array([[1, 0]], np.float32), 0.0001, 0.5, id="multilabel"),
        pytest.param(Regression(targets=("t",)), [[1.0], [3.0]], np.array([[2], [3]], np.float32), 0.5, 0.5, id="regression"),
    ],
)
def test_losses_and_metrics_are_the_textbooks(task, outputs, targets, loss, value):
    outputs = np.array(outputs, np.float32)
    assert float(tasks.loss(task, torch.from_numpy(outputs), torch.from_numpy(targets))) == pytest.approx(loss, abs=1e-3)
    assert tasks.metric(task, outputs, targets).value == pytest.approx(value)


def test_every_preset_states_command_and_expected_result():
    for (family, name), preset in PRESETS.items():
        assert f"python -m training {family} --data {name}" in preset.__doc__
        assert "about" in preset.__doc__
        assert preset(Path("x")).floor is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"warmup": 1.0}, "warmup"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Config(**{"data": "spirals", "out": Path(), "model": MLPConfig(), **change})


def test_the_command_line_starts_from_the_preset_and_says_how_it_ended(tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["mlp", "--data", "spirals", "--out", str(out), "--epochs", "1", "--model.hidden", "4", "--seed", "3"]) == 0
    facts = checkpoint.load(out).facts
    assert facts.config["model"] == {"hidden": [4], "dropout": 0.0}
    assert (facts.config["epochs"], facts.seed, facts.test.floor) == (1, 3, 0.97)
    assert "MISSED, export will refuse it" in capsys.readouterr().out
    assert json.dumps(facts.config)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        pytest.param(["mlp", "--data", "nowhere"], 1, id="unknown data"),
        pytest.param(["mlp", "--data", "digits"], 1, id="data of another kind"),
        pytest.param(["rnn"], 2, id="unknown family"),
        pytest.param(["mlp"], 2, id="no data"),
        pytest.param(["mlp", "--data", "spirals", "--epocs", "3"], 2, id="misspelt option"),
        pytest.param(["mlp", "--data", "spirals", "--epochs", "many"], 2, id="no number"),
        pytest.param(["mlp", "--data", "spirals", "--epochs", "0"], 2, id="nonsense number"),
        pytest.param(["mlp", "--data", "spirals", "--out", "/proc/nope"], 1, id="folder that cannot be made"),
    ],
)
def test_wrong_arguments_end_with_a_message_not_a_traceback(arguments, status, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    assert code == status
    assert "Traceback" not in capsys.readouterr().err
    assert not list(tmp_path.rglob("best.pt"))


def test_loading_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"facts": Evil(), "weights": {}}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="no Quartet checkpoint"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "owned").exists()


def test_saving_replaces_the_old_checkpoint_only_when_the_new_one_is_whole(tiny, monkeypatch):
    facts = loop.fit(tiny)
    before = (tiny.out / "best.pt").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save(tiny.out, facts, {})
    assert (tiny.out / "best.pt").read_bytes() == before
    assert not list(tiny.out.glob(".*"))
