from __future__ import annotations

import importlib
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from training import benchmarks
from training.benchmarks import adding, breast_cancer, throughput, trial, vowels
from training.config import spirals_mlp
from training.data import load
from training.models import MLPConfig

NAMES = ("adding", "breast_cancer", "mnist", "sst2", "throughput", "vowels")


def test_every_figure_has_its_file():
    files = {path.stem for path in Path(benchmarks.__path__[0]).glob("[a-z]*.py")}
    assert files == {*NAMES, "minirocket", "trial"}
    importlib.import_module("training.benchmarks.minirocket")  # without aeon


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_says_what_it_does(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    monkeypatch.delitem(sys.modules, f"training.benchmarks.{name}", raising=False)
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"training.benchmarks.{name}", run_name="__main__")
    assert ended.value.code == 0
    assert (
        importlib.import_module(f"training.benchmarks.{name}").__doc__.split(".")[0].split(",")[0][:30] in capsys.readouterr().out
    )


@pytest.mark.parametrize("name", ["mnist", "sst2"])
def test_a_benchmark_without_its_data_says_where_to_put_it(name, tmp_path):
    module = importlib.import_module(f"training.benchmarks.{name}")
    with pytest.raises(SystemExit, match="no such file or folder; say with --data where"):
        module.main(data=tmp_path / "nothing")


def test_without_aeon_the_message_says_how_to_install_it(tmp_path):
    with pytest.raises(SystemExit, match="pip install aeon"):
        vowels.main(data=tmp_path, aeon_python=Path("/bin/false"))


def test_minirocket_gets_whole_series_channels_first():
    split = load("digits-rows").test
    padded = vowels.channels_first(split, 11)
    assert padded.shape == (len(split), 8, 11)
    np.testing.assert_array_equal(padded[:, 3, :8], split.inputs["sequence"][:, :, 3])
    assert not padded[:, :, 8:].any()


def test_a_fold_keeps_its_test_rows_out_of_training_and_standardisation():
    x = np.arange(40.0).reshape(20, 2)
    y = np.arange(20) % 2
    dataset = breast_cancer.fold(x[:15], y[:15], x[15:] + 1e6, y[15:])
    assert len(dataset.train(1)) == 15
    assert max(column.mean for column in dataset.kind.columns) < 40
    assert dataset.test.targets.shape == (5, 1)


def test_both_loops_take_the_same_batches_and_every_step_counts_once():
    config = replace(spirals_mlp(Path("throughput")), model=MLPConfig(hidden=(4,)), epochs=2, batch_size=500)
    dataset = load("spirals")
    turns = throughput.Turns(config, dataset)
    taken = []
    turns.step = taken.append
    split = throughput.Shared(dataset.train(1).inputs, dataset.train(1).targets, turns)
    for index in (np.arange(3), np.arange(3, 6), np.arange(6, 9)):
        assert len(split.rows(index)) == 3
    split.rows(slice(5))  # a look, not a step
    assert [index.tolist() for index in taken] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert (turns.steps, turns.pairs) == (3, 2)


def test_the_throughput_of_a_run_is_measured_from_within_it():
    config = replace(spirals_mlp(Path("throughput")), model=MLPConfig(hidden=(4,)), epochs=1, batch_size=500)
    bare, ours, whole = throughput.measure(config, load("spirals"))
    assert bare > 0
    assert 0 < ours < whole


def test_a_trial_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    facts = trial.train(replace(spirals_mlp(Path("x")), model=MLPConfig(hidden=(4,)), epochs=1, batch_size=500))
    assert trial.tested(facts) > 0
    assert list(tmp_path.iterdir()) == []


def test_the_picture_of_the_cells_is_drawn(tmp_path):
    epochs = [{"epoch": n, "step": n, "validation/MSE": 0.2 / n} for n in range(1, 4)]
    adding.draw(tmp_path / "curves.png", {"lstm": epochs, "rnn": epochs})
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
