from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from training import checkpoint
from training.__main__ import main
from training.config import PRESETS

QUICK = ["--epochs", "1", "--model.hidden", "4", "--no-pictures"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_command_line_starts_from_the_preset_and_says_how_it_ended(capsys):
    assert main(["mlp", "--data", "spirals", *QUICK, "--seed", "3"]) == 0
    facts = checkpoint.load(Path("runs/spirals-mlp")).facts
    assert facts.config["model"]["hidden"] == [4]
    assert (facts.config["epochs"], facts.seed, facts.test.floor) == (1, 3, 0.97)
    printed = capsys.readouterr().out
    assert f"test accuracy {facts.test.value:.4g}\n" in printed
    assert "test macro F1 0." in printed
    assert "misses its floor of 0.97: export will refuse this model" in printed
    assert printed.endswith("best epoch 1: runs/spirals-mlp/best.pt\n")


def test_json_logs_are_one_object_a_line(capsys):
    assert main(["mlp", "--data", "spirals", *QUICK, "--log-format", "json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert next(line for line in lines if "epoch" in line)["train_loss"] > 0
    assert {line["metric"] for line in lines if "metric" in line} >= {"accuracy", "calibration error"}
    assert all({"time", "level", "message"} <= line.keys() for line in lines)


def test_another_runs_config_can_be_trained_again(capsys):
    assert main(["mlp", "--data", "spirals", *QUICK, "--out", "one", "--weight-decay", "0.5", "--augment.shift", "0"]) == 0
    assert main(["mlp", "--config", "one/config.json", "--out", "two"]) == 0
    weights = [checkpoint.load(Path(name)).weights for name in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_dev_run_goes_through_everything_and_leaves_nothing(tmp_path, capsys):
    assert main(["lstm", "--data", "adding", "--fast-dev-run"]) == 0
    assert "everything runs" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_sound_network_learns_one_batch_by_heart():
    options = ["--overfit-batches", "1", "--epochs", "150", "--warmup", "0", "--no-pictures", "--out", "one"]
    assert main(["mlp", "--data", "spirals", *options]) == 0
    facts = checkpoint.load(Path("one")).facts
    assert facts.rows["train"] == facts.rows["validation"] == 64
    assert facts.validation.value > 0.98


def test_the_learning_rate_finder_draws_and_suggests(tmp_path, capsys):
    assert main(["mlp", "--data", "spirals", "--find-lr", "--out", "found"]) == 0
    assert "try --learning-rate 0." in capsys.readouterr().out
    assert (tmp_path / "found" / "learning-rate.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        pytest.param(["mlp", "--data", "nowhere"], 1, "nowhere", id="unknown data"),
        pytest.param(["mlp", "--data", "adding"], 1, "the mlp family reads", id="data of another kind"),
        pytest.param(["rnn"], 2, "invalid choice: 'rnn'", id="unknown family"),
        pytest.param(["mlp"], 2, "--data", id="no data"),
        pytest.param(["mlp", "--data", "spirals", "--epocs", "3"], 2, "--epocs", id="misspelt option"),
        pytest.param(["mlp", "--data", "spirals", "--epochs", "many"], 2, "many", id="no number"),
        pytest.param(["mlp", "--data", "spirals", "--epochs", "0"], 2, "epochs must be at least 1, not 0", id="nonsense number"),
        pytest.param(["mlp", "--data", "spirals", "--augment.flip"], 1, "does not suit rows", id="unsuited augmentation"),
        pytest.param(["mlp", "--data", "spirals", "--out", "/proc/nope"], 1, "/proc/nope", id="folder that cannot be made"),
        pytest.param(["mlp", "--config", "nowhere.json"], 1, "nowhere.json", id="config that is not there"),
        pytest.param(["mlp", "--preset", "digits-cnn"], 1, "not for the mlp family", id="preset of another family"),
        pytest.param(["mlp", "--data", "spirals", "--resume", "--fresh"], 2, "leave one out", id="contradiction"),
    ],
)
def test_wrong_arguments_end_with_a_message_not_a_traceback(arguments, status, message, tmp_path, capsys):
    try:
        code = main(arguments)
    except SystemExit as stopped:
        code = stopped.code
    printed = capsys.readouterr()
    assert code == status
    assert "Traceback" not in printed.err
    assert message in " ".join((printed.out + printed.err).replace("│", " ").split())
    assert not list(tmp_path.rglob("best.pt"))


def test_every_preset_states_command_time_and_expected_result():
    for name, preset in PRESETS.items():
        config = preset(Path("x"))
        assert "python -m training" in preset.__doc__
        assert "about" in preset.__doc__
        assert config.floor is not None, name
