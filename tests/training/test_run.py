"""A run that is cut off, resumed, thrown away, kept, or given too little time."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import PLAIN, TINY
from training import checkpoint, loop, step
from training.augment import Augment
from training.checkpoint import UNFINISHED, CheckpointError
from training.config import Config, Control
from training.data.dataset import Dataset
from training.evaluation import Diverged
from training.models import CNNConfig, MLPConfig
from training.optimisation import Optimisation
from training.run import Run

EVERYTHING = {
    "half precision, moving average, plateau, dropout": Config(
        data="spirals",
        out=Path(),
        model=MLPConfig(hidden=(8,), dropout=0.2),
        optimisation=Optimisation(precision="fp16", ema=0.9, schedule="plateau", plateau_patience=0, accumulate=2),
        epochs=3,
        batch_size=300,
        control=replace(PLAIN, save_every=4),
    ),
    "momentum, one cycle, moved and mixed pictures": Config(
        data="digits",
        out=Path(),
        model=CNNConfig(channels=(4,), dropout=0.1),
        optimisation=Optimisation(optimizer="sgd", nesterov=True, schedule="one-cycle", learning_rate=0.1),
        augment=Augment(shift=1, rotate=10, mixup=0.3, cutmix=1.0),
        epochs=3,
        batch_size=200,
        control=replace(PLAIN, save_every=3),
    ),
}
FIRST = next(iter(EVERYTHING))
RESUMED = replace(PLAIN, resume=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Each of these runs, never interrupted."""
    root = tmp_path_factory.mktemp("whole")
    for name, config in EVERYTHING.items():
        loop.fit(replace(config, out=root / name / "run"))
    return {name: root / name / "run" for name in EVERYTHING}


@pytest.fixture(scope="module")
def children():
    """Processes that are quick to start: PyTorch is loaded once, in the process they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["training.loop", "tests.training.test_run"])
    return context


def fit_until_step(config, at):
    take = step.Step.__call__

    def killed(self, split, index):
        if self.state.step == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, split, index)

    step.Step.__call__ = killed
    loop.fit(config)


def fit_until_the_disk_is_touched(config, times):
    touched = 0

    def count(event, arguments):
        nonlocal touched
        if event in ("open", "os.rename", "os.remove", "shutil.rmtree") and str(config.out) in str(arguments[0]):
            touched += 1
            if touched == times:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    loop.fit(config)


def killed(children, target, config, at):
    process = children.Process(target=target, args=(config, at))
    process.start()
    process.join()
    return process.exitcode == -signal.SIGKILL


def same(one: Path, two: Path) -> bool:
    weights = [checkpoint.load(run).weights for run in (one, two)]
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    return equal and all((one / name).read_bytes() == (two / name).read_bytes() for name in ("metrics.csv", "metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("name", EVERYTHING)
def test_killed_at_any_step_and_resumed_a_run_ends_as_if_nothing_had_happened(name, whole, children, tmp_path):
    steps = len((whole[name] / "metrics.jsonl").read_text().splitlines()) - EVERYTHING[name].epochs
    for at in (0, steps // 3, steps - 1):
        config = replace(EVERYTHING[name], out=tmp_path / str(at) / "run")
        assert killed(children, fit_until_step, config, at)
        loop.fit(replace(config, control=RESUMED))
        assert same(config.out, whole[name]), f"killed at step {at}"


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.slow), 29])
def test_killed_at_any_touch_of_the_disk_and_resumed_a_run_ends_as_if_nothing_had_happened(every, whole, children, tmp_path):
    name = FIRST
    config, times = replace(EVERYTHING[name], out=tmp_path / "run"), 3
    while killed(children, fit_until_the_disk_is_touched, config, times):
        loop.fit(replace(config, control=RESUMED))
        assert same(config.out, whole[name]), f"killed at touch {times}"
        assert not (config.out / UNFINISHED).exists()
        config = replace(config, out=tmp_path / str(times) / "run")
        times += every
    assert times > 60


def test_killed_again_and_again_a_run_still_ends_the_same(whole, children, tmp_path):
    name = FIRST
    config = replace(EVERYTHING[name], out=tmp_path / "run", control=replace(RESUMED, save_every=4))
    for at in (6, 17, 23):
        assert killed(children, fit_until_step, config, at)
    loop.fit(config)
    assert same(config.out, whole[name])


def test_a_torn_state_is_passed_over_for_the_one_before_it(whole, children, tmp_path):
    name = FIRST
    config = replace(EVERYTHING[name], out=tmp_path / "run")
    assert killed(children, fit_until_step, config, 14)
    last = config.out / UNFINISHED / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    loop.fit(replace(config, control=RESUMED))
    assert same(config.out, whole[name])


@pytest.fixture
def tiny(tmp_path):
    return replace(TINY["mlp"], out=tmp_path / "run")


@pytest.fixture
def cut_off(tiny, children):
    """A run that was killed in its second epoch."""
    assert killed(children, fit_until_step, tiny, 60)
    return tiny


def test_a_run_that_was_cut_off_is_not_overwritten_unasked(cut_off):
    with pytest.raises(CheckpointError, match="holds a run cut off after step 47: add --resume to go on, --fresh to throw it away"):
        loop.fit(cut_off)
    assert loop.fit(replace(cut_off, control=replace(PLAIN, fresh=True))).epochs == 2


def test_resuming_with_another_setting_names_it(cut_off):
    changed = replace(cut_off, model=MLPConfig(hidden=(9,)), control=RESUMED)
    with pytest.raises(CheckpointError, match=r"model.hidden = \[8\], now it is \[9\]: start it as it was"):
        loop.fit(changed)


def test_resuming_on_other_data_is_refused(cut_off, monkeypatch):
    monkeypatch.setattr(Dataset, "fingerprint", lambda dataset: "0" * 64)
    with pytest.raises(CheckpointError, match="other data"):
        loop.fit(replace(cut_off, control=RESUMED))


def test_a_killed_run_leaves_the_finished_one_before_it_whole(tiny, children):
    facts = loop.fit(tiny)
    before = files(tiny.out)
    assert killed(children, fit_until_step, replace(tiny, epochs=5), 200)
    assert before.items() <= files(tiny.out).items()
    assert (tiny.out / UNFINISHED).exists()
    assert checkpoint.load(tiny.out).facts == facts
    assert len(checkpoint.load_rows(tiny.out, "holdout", facts)) == 1500


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_a_finished_run_leaves_nothing_of_the_one_it_replaces(tiny):
    loop.fit(tiny)
    (tiny.out / "holdout-0123456789ab.npz").write_bytes(b"of other data")
    (tiny.out / "calibration-0123456789ab.npz").write_bytes(b"of other data")
    (tiny.out / "mlflow-run.txt").write_text("of another server")
    (tiny.out / "pictures").mkdir()
    loop.fit(tiny)
    kept = sorted(path.name.split("-")[0] for path in tiny.out.iterdir())
    assert kept == [
        ".lock",
        "MODEL_CARD.md",
        "best.pt",
        "calibration",
        "config.json",
        "holdout",
        "last.pt",
        "metrics.csv",
        "metrics.jsonl",
        "tensorboard",
    ]


def test_resume_starts_where_there_is_nothing_and_keeps_what_is_finished(tiny, monkeypatch):
    resumed = replace(tiny, control=RESUMED)
    facts = loop.fit(resumed)
    monkeypatch.setattr(loop, "build", lambda *arguments: pytest.fail("trained again"))
    assert loop.fit(resumed) == facts


def test_reuse_keeps_a_finished_run_of_the_same_config_only(tiny, monkeypatch):
    again = replace(tiny, control=replace(PLAIN, reuse=True))
    facts = loop.fit(tiny)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "build", lambda *arguments: pytest.fail("trained again"))
        assert loop.fit(again) == facts
    assert loop.fit(replace(again, seed=7)).seed == 7
    (tiny.out / "best.pt").write_bytes(b"torn")
    assert loop.fit(again).seed == 0


def test_reuse_does_not_keep_a_run_on_other_data(tiny, monkeypatch):
    loop.fit(tiny)
    monkeypatch.setattr(Dataset, "fingerprint", lambda dataset: "0" * 64)
    assert loop.fit(replace(tiny, control=replace(PLAIN, reuse=True))).fingerprint == "0" * 64


def test_when_the_time_is_up_a_run_ends_with_what_it_has_and_given_more_goes_on(tiny, whole, tmp_path):
    hurried = replace(tiny, epochs=3, control=replace(RESUMED, max_time=1e-9))
    facts = loop.fit(hurried)
    assert (facts.ended, facts.epochs, facts.epoch) == ("max-time", 0, 1)
    assert facts.test.value > 0
    facts = loop.fit(replace(hurried, control=RESUMED))
    assert (facts.ended, facts.epochs) == ("epochs", 3)
    other = replace(hurried, out=tmp_path / "other" / "run", control=PLAIN)
    loop.fit(other)
    assert same(tiny.out, other.out)


def test_patience_ends_a_run_that_gets_no_better(tiny):
    facts = loop.fit(replace(tiny, epochs=30, patience=2, optimisation=Optimisation(learning_rate=1e-12)))
    assert facts.ended == "patience"
    assert facts.epochs == facts.epoch + 2


def test_a_run_that_lost_patience_and_was_killed_before_it_could_end_trains_no_further(tiny, monkeypatch):
    impatient = replace(tiny, epochs=30, patience=2, optimisation=Optimisation(learning_rate=1e-12))
    with monkeypatch.context() as patch:
        patch.setattr(Run, "close", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            loop.fit(impatient)
    facts = loop.fit(replace(impatient, control=RESUMED))
    assert (facts.ended, facts.epochs) == ("patience", facts.epoch + 2)


def test_keeping_the_last_epoch_looks_at_no_validation_score(tiny, monkeypatch):
    scores = iter([0.9, 0.9, 0.8])
    score = loop.score

    def scripted(model, objective, split):
        real, loss = score(model, objective, split)
        return real.model_copy(update={"value": next(scores, real.value)}), loss

    monkeypatch.setattr(loop, "score", scripted)
    assert loop.fit(replace(tiny, keep="last")).epoch == 2


def test_the_best_epoch_is_kept_not_the_last(tiny, monkeypatch):
    scores = iter([0.5, 0.9, 0.8])  # the first is asked for before training
    score = loop.score

    def scripted(model, objective, split):
        real, loss = score(model, objective, split)
        return real.model_copy(update={"value": next(scores)}), loss

    monkeypatch.setattr(loop, "score", scripted)
    assert loop.fit(tiny).epoch == 1


def test_a_loss_that_is_no_number_says_where_it_began_and_what_to_lower(tiny):
    wild = replace(tiny, optimisation=Optimisation(learning_rate=1e30, warmup=0.0), model=MLPConfig(hidden=(), norm="none"))
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) at step \d+(?s:.*)--learning-rate"):
        loop.fit(wild)
    assert loop.fit(tiny).epochs == 2, "a run that failed is nothing to resume, so it is not in the way of the next"


def test_a_regression_that_diverges_within_a_short_epoch_is_diagnosed_too(tiny):
    wild = Optimisation(optimizer="sgd", learning_rate=1e6, warmup=0.0, clip_norm=None)
    config = replace(tiny, data="diabetes", model=MLPConfig(hidden=(8,), norm="none"), optimisation=wild)
    with pytest.raises(Diverged, match="--learning-rate"):
        loop.fit(config)


def test_two_runs_do_not_share_a_folder(tiny):
    with checkpoint.held(tiny.out), pytest.raises(CheckpointError, match="another process is training in .*give another --out"):
        loop.fit(tiny)
    assert loop.fit(tiny).epochs == 2


def test_an_epoch_that_is_merely_as_good_is_kept_but_wears_patience_out(tiny):
    stuck = MLPConfig(hidden=(8,), norm="none", init="zeros")
    facts = loop.fit(replace(tiny, data="iris", model=stuck, epochs=12, patience=3))
    assert (facts.ended, facts.epochs, facts.epoch) == ("patience", 4, 4)


def test_batch_norm_is_never_given_one_row_at_a_time(tiny):
    rest = loop.batches(103, replace(tiny, batch_size=50), 1, shares=4)
    assert [len(index) for index in rest] == [50, 53]
    with pytest.raises(ValueError, match="a batch of 64 in 40 parts has 1: raise --batch-size, lower --accumulate, or take"):
        loop.fit(replace(tiny, optimisation=Optimisation(accumulate=40)))


def test_saving_replaces_the_old_checkpoint_only_when_the_new_one_is_whole(tiny, monkeypatch):
    facts = loop.fit(tiny)
    before = (tiny.out / "best.pt").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: .*best\.pt"):
        checkpoint.save(tiny.out, facts, {})
    assert (tiny.out / "best.pt").read_bytes() == before
    assert not list(tiny.out.glob(".best.pt*"))


def test_the_record_of_a_run_says_how_it_went(tiny):
    facts = loop.fit(tiny)
    lines = [json.loads(line) for line in (tiny.out / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "epoch" not in line]
    assert [line["step"] for line in steps] == list(range(1, 2 * 47 + 1))
    assert np.mean([line["train/loss"] for line in steps[-10:]]) < np.mean([line["train/loss"] for line in steps[:10]])
    assert json.loads((tiny.out / "config.json").read_text()) == facts.config
    header = (tiny.out / "metrics.csv").read_text().splitlines()[0].split(",")
    assert header[:5] == ["epoch", "step", "train/loss", "validation/loss", "validation/accuracy"]
    assert any(name.startswith("gradient_norm/") for name in header)


def test_deterministic_refuses_what_differs_from_run_to_run_and_leaves_pytorch_as_it_was(tiny, monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")  # and so put back afterwards
    refused: list[bool] = []
    evaluated = Run.evaluated

    def noted(run, *arguments):
        refused.append(torch.are_deterministic_algorithms_enabled())
        evaluated(run, *arguments)

    monkeypatch.setattr(Run, "evaluated", noted)
    loop.fit(replace(tiny, deterministic=True))
    loop.fit(replace(tiny, out=tiny.out.with_name("other")))
    assert refused == [True, True, False, False]
    assert not torch.are_deterministic_algorithms_enabled()


def test_saving_often_or_seldom_gives_the_same_weights(tiny, tmp_path):
    loop.fit(tiny)
    other = replace(tiny, out=tmp_path / "other" / "run", control=replace(PLAIN, save_every=7, log_format="json"))
    loop.fit(other)
    assert same(tiny.out, other.out)


def test_control_refuses_what_contradicts_itself():
    with pytest.raises(ValueError, match="resume keeps what fresh throws away"):
        Control(resume=True, fresh=True)
