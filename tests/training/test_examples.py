from __future__ import annotations

import pytest

from training import checkpoint


def test_the_sweep_finds_the_better_of_its_trials(tmp_path, capsys):
    pytest.importorskip("optuna", reason="optuna is not installed: pip install optuna")
    from training.examples.sweep import main

    study = main(trials=2, epochs=1, out=tmp_path)
    values = [trial.value for trial in study.trials]
    assert study.best_value == max(values)
    kept = [checkpoint.load(tmp_path / str(number)).facts for number in range(2)]
    assert [facts.validation.value for facts in kept] == values
    assert kept[0].config["optimisation"]["learning_rate"] != kept[1].config["optimisation"]["learning_rate"]
    assert f"{study.best_trial.number}/config.json" in capsys.readouterr().out.replace("\n", "")
