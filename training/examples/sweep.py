"""A sweep of learning rate and width with Optuna: `pip install optuna`, then `python -m training.examples.sweep --trials 20`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import rich
import tyro

from training import loop
from training.config import Control, spirals_mlp
from training.models import MLPConfig


def main(trials: int = 20, epochs: int = 10, out: Path = Path("runs/sweep")) -> optuna.Study:
    """Train each trial in a folder of its own, choose by the validation split, and print the best."""

    def objective(trial: optuna.Trial) -> float:
        preset = spirals_mlp(out / f"{trial.number}")
        width = trial.suggest_categorical("width", [8, 16, 32, 64])
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        model, optimisation = MLPConfig(hidden=(width, width)), replace(preset.optimisation, learning_rate=rate)
        control = Control(fresh=True, pictures=False)
        facts = loop.fit(replace(preset, model=model, optimisation=optimisation, epochs=epochs, control=control))
        return facts.validation.value

    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=0))
    study.optimize(objective, n_trials=trials)
    best = study.best_trial
    rich.print(f"validation accuracy {best.value:.4f} with {best.params}")
    rich.print(f"{out / str(best.number) / 'config.json'}")
    return study


if __name__ == "__main__":
    tyro.cli(main, prog="python -m training.examples.sweep", description=__doc__)
