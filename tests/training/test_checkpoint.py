from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from training import checkpoint, tasks
from training.checkpoint import CheckpointError
from training.evaluation import predict


def test_a_checkpoint_rebuilds_its_model_by_itself(tiny_runs):
    for run in tiny_runs.values():
        saved = checkpoint.load(run)
        holdout = checkpoint.load_rows(run, "holdout", saved.facts)
        score = tasks.metric(saved.facts.task, predict(saved.model(), holdout), holdout.targets)
        assert score.value == saved.facts.test.value
        assert saved.facts.metrics[score.name] == score.value
        assert saved.facts.parameters == sum(parameter.numel() for parameter in saved.model().parameters())


def test_a_checkpoint_keeps_rows_it_learnt_from(tiny_runs):
    for run in tiny_runs.values():
        facts = checkpoint.load(run).facts
        rows = checkpoint.load_rows(run, "calibration", facts)
        assert len(rows) == 256
        assert len(np.unique(rows.targets, axis=0)) > 1


def test_the_temperature_is_part_of_the_task(tiny_runs):
    task = checkpoint.load(tiny_runs["cnn"]).facts.task
    assert task.temperature != 1
    assert 0.05 < task.temperature < 20


def test_weights_that_do_not_fit_their_model_are_refused(tiny_runs):
    saved = checkpoint.load(tiny_runs["mlp"])
    other = replace(saved, facts=saved.facts.model_copy(update={"model": {**saved.facts.model, "hidden": [5]}}))
    with pytest.raises(CheckpointError, match="weights do not fit its 'mlp' model"):
        other.model()


def test_a_folder_without_a_checkpoint_says_what_to_give(tmp_path):
    with pytest.raises(CheckpointError, match="give a folder that `python -m training` wrote"):
        checkpoint.load(tmp_path)
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(CheckpointError, match="left before its training had ended: go on with --resume"):
        checkpoint.load(tmp_path)


def test_loading_a_checkpoint_runs_no_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "owned",))

    torch.save({"facts": Evil(), "weights": {}}, tmp_path / "best.pt")
    torch.save({"place": Evil()}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="no Quartet checkpoint"):
        checkpoint.load(tmp_path)
    assert checkpoint.load_last(tmp_path) is None
    assert not (tmp_path / "owned").exists()


def test_the_state_of_training_is_rotated(tmp_path):
    for number in (1, 2, 3):
        checkpoint.save_last(tmp_path, {"number": number})
    assert checkpoint.load_last(tmp_path) == {"number": 3}
    (tmp_path / "last.pt").unlink()
    assert checkpoint.load_last(tmp_path) == {"number": 2}
